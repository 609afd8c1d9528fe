// From a prompt to the token ids that the engine will see. `engine-tokenizer.ts` asks an engine, `local-tokenizer.ts` has
// the model's own tokenizer and template in this process.

import type { Dialect } from '../../shared/dialect.ts'

/** A prompt as far as a request's body tells it. */
export type Prompt =
  /** The caller sent token ids. */
  | { readonly kind: 'ids'; readonly ids: Uint32Array }
  | TextPrompt
  /** Nothing that can be tokenised ahead of the engine, in words. */
  | { readonly kind: 'unknown'; readonly because: string }

/** To be tokenised. */
export type TextPrompt = {
  readonly kind: 'text'
  /** The members of the request that make the prompt, as JSON for vLLM's `POST /tokenize`. Made anew at each call. */
  readonly forEngine: () => EngineBody
  /** The request itself; undefined for a prompt that no caller has sent. */
  readonly source?: PromptSource
  /** For a tokenizer in this process; without it only an engine can be asked. Looks through the whole body. */
  readonly reading?: PromptReading
}

export type PromptSource = { readonly dialect: Dialect; readonly body: Buffer }

export type EngineBody = { readonly ok: true; readonly body: Buffer } | NoPrompt

type NoPrompt = { readonly ok: false; readonly because: string }

/**
 * The prompt's words, with the long strings among them left aside: most of a long conversation was there in the turn
 * before, and need not even be parsed again.
 */
export type PromptReading = {
  /** Messages, and parts of them. */
  readonly parts: number
  /** As they stand in the body, quotes and escapes included. */
  readonly longStrings: readonly Buffer[]
  /**
   * Parses the rest.
   *
   * @param standIns what to read in each long string's place; undefined reads the string itself.
   */
  readonly read: (standIns: readonly (string | undefined)[]) => PromptWords
}

export type PromptWords =
  | { readonly ok: true; readonly text: string; readonly addSpecialTokens: boolean }
  | { readonly ok: true; readonly chat: Chat; readonly addSpecialTokens: boolean }
  | NoPrompt

export type JsonObject = Readonly<Record<string, unknown>>

/** A conversation as vLLM's chat completions take it, whichever dialect it was written in. */
export type Chat = {
  readonly messages: readonly JsonObject[]
  readonly tools: readonly JsonObject[] | undefined
  /** Variables for the chat template. */
  readonly templateArguments: JsonObject | undefined
  readonly addGenerationPrompt: boolean
  readonly continueFinalMessage: boolean
}

/** Token ids, or why there are none, in words for `why`. */
export type Tokens = { readonly ok: true; readonly ids: Uint32Array } | NoPrompt

/** Never rejects. `model` as the request names it. */
export type Tokenize = (model: string, prompt: Prompt) => Promise<Tokens>
