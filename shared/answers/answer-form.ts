// What every dialect's answers can do for a cache: be folded from a stream, be read whole, and be told again in either form.

export type KeptAnswer = {
  /** The answer as a JSON object, less what is made afresh each time: its id and its time. */
  readonly json: string
  /** Whether the model asks the caller to call tools. */
  readonly callsTools: boolean
}

/** Makes one answer of a stream while it passes. */
export type Fold = {
  /** Takes the data of the next event. Never throws. */
  readonly push: (data: string) => void
  /** After the last one: the answer, or undefined when it is not whole, or holds something that nobody here knows. */
  readonly end: () => KeptAnswer | undefined
}

export type Fresh = {
  /** Bare, without the dialect's prefix. */
  readonly id: string
  readonly createdSeconds: number
}

export type AnswerForm = {
  /** Undefined: the dialect does not stream. */
  readonly createFold: (() => Fold) | undefined
  /** Reads a whole answer that did not stream; undefined when it is none that could be told as a stream too. */
  readonly read: (json: string) => KeptAnswer | undefined
  readonly toJson: (kept: string, fresh: Fresh) => string
  /** @param tellUsage whether the caller asked for the event that tells usage, where it must be asked for. */
  readonly toEvents: (kept: string, fresh: Fresh, tellUsage: boolean) => string
}

/** A longer answer is not kept: half a million tokens of text are shorter. */
export const FOLDED_CHARS_MAX = 1024 * 1024
