// Time as a parameter, so that tests and replay can move it.

export type Clock = {
  /** Milliseconds on a clock that never goes back; its zero means nothing. */
  readonly monotonicMs: () => number
  /** Milliseconds since 1970. */
  readonly epochMs: () => number
}

export const systemClock: Clock = { monotonicMs: () => performance.now(), epochMs: () => Date.now() }
