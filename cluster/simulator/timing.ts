// How long an engine step takes: a straight line through its work.

export type StepWork = {
  /** Prompt tokens computed in the step. */
  readonly prefillTokens: number
  /** Sequences that get their next token in the step. */
  readonly decodeSeqs: number
}

export type StepTiming = {
  /** What a step costs before any work: reading the weights, launching kernels. */
  readonly baseMs: number
  readonly perPrefillTokenMs: number
  readonly perDecodeSeqMs: number
}

/** Feels like an 8B model in bfloat16 on one H100: about 8 ms a decode step, about 33,000 prompt tokens a second. */
export const H100_8B: StepTiming = { baseMs: 7.9, perPrefillTokenMs: 0.03, perDecodeSeqMs: 0.05 }

/** `speed` divides the time; 0 is as fast as possible. */
export function stepDurationMs(timing: StepTiming, work: StepWork, speed: number): number {
  if (speed === 0) return 0
  const { baseMs, perPrefillTokenMs, perDecodeSeqMs } = timing
  return (baseMs + work.prefillTokens * perPrefillTokenMs + work.decodeSeqs * perDecodeSeqMs) / speed
}
