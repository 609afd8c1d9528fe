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

export type Gpu = { readonly timing: StepTiming; readonly kvCacheTokens: number }

/** GPUs with a model in bfloat16 on them, and what they have left for the KV cache beside it. */
export const GPUS = {
  // About 8 ms a decode step, about 33,000 prompt tokens a second; 60 GB left at 128 KiB a token.
  'h100-8b': { timing: { baseMs: 7.9, perPrefillTokenMs: 0.03, perDecodeSeqMs: 0.05 }, kvCacheTokens: 458_752 },
  // 141 GB over 4 × 3.35 TB/s at 75 % is 14 ms, plus 4.5 ms of launches and all-reduce; 141 GFLOP a token over 4 × 989
  // TFLOPS at 50 % is 0.07 ms; a sequence of 4,000 tokens reads 1.3 GB of KV; 151 GB left at 320 KiB a token.
  'h100x4-70b': { timing: { baseMs: 18.5, perPrefillTokenMs: 0.07, perDecodeSeqMs: 0.1 }, kvCacheTokens: 460_800 },
} as const satisfies Record<string, Gpu>

export type GpuName = keyof typeof GPUS

export const GPU_NAMES = Object.keys(GPUS) as readonly GpuName[]

/** `speed` divides the time; 0 is as fast as possible. */
export function stepDurationMs(timing: StepTiming, work: StepWork, speed: number): number {
  if (speed === 0) return 0
  const { baseMs, perPrefillTokenMs, perDecodeSeqMs } = timing
  return (baseMs + work.prefillTokens * perPrefillTokenMs + work.decodeSeqs * perDecodeSeqMs) / speed
}
