// How long an engine step takes: the longer of what it reads from memory and what it computes, and what it costs besides.

export type StepWork = {
  /** Tokens computed: those of prompts, and one for each sequence that decodes. */
  readonly tokens: number
  /** Sequences that take part. */
  readonly seqs: number
  /** Tokens whose keys and values are read, over all sequences: each one's that are known once the step is over. */
  readonly contextTokens: number
  /** Pairs of a token that is computed and one that it attends to, itself included. */
  readonly attentionPairs: number
}

export type StepTiming = {
  /** What every step costs: scheduling, launching kernels, sampling, synchronising GPUs. */
  readonly overheadMs: number
  readonly perSeqMs: number
  /** Reading the weights, once for all tokens of the step. */
  readonly weightsMs: number
  /** Reading the keys and values of a token. */
  readonly perContextTokenMs: number
  /** Multiplying a token with the weights. */
  readonly perTokenMs: number
  readonly perAttentionPairMs: number
}

export type Gpu = { readonly timing: StepTiming; readonly kvCacheTokens: number }

/** GPUs with a model in bfloat16 on them, and what they have left for the KV cache beside it. */
export const GPUS = {
  // 16.1 GB over 3.35 TB/s at 75 % is 6.4 ms; 16 GFLOP a token over 989 TFLOPS at 50 % is 0.033 ms; 60 GB left at 128 KiB
  // a token.
  'h100-8b': {
    timing: {
      overheadMs: 1.5,
      perSeqMs: 0.02,
      weightsMs: 6.4,
      perContextTokenMs: 52e-6,
      perTokenMs: 0.033,
      perAttentionPairMs: 1.1e-6,
    },
    kvCacheTokens: 458_752,
  },
  // 141 GB over 4 × 3.35 TB/s at 75 % is 14 ms, plus 4.5 ms of launches and all-reduce; 141 GFLOP a token over 4 × 989
  // TFLOPS at 50 % is 0.07 ms; 151 GB left at 320 KiB a token.
  'h100x4-70b': {
    timing: {
      overheadMs: 4.5,
      perSeqMs: 0.02,
      weightsMs: 14,
      perContextTokenMs: 33e-6,
      perTokenMs: 0.07,
      perAttentionPairMs: 1.3e-6,
    },
    kvCacheTokens: 460_800,
  },
} as const satisfies Record<string, Gpu>

export type GpuName = keyof typeof GPUS

export const GPU_NAMES = Object.keys(GPUS) as readonly GpuName[]

/** `speed` divides the time; 0 is as fast as possible. */
export function stepDurationMs(timing: StepTiming, work: StepWork, speed: number): number {
  if (speed === 0) return 0
  const memoryMs = timing.weightsMs + work.contextTokens * timing.perContextTokenMs
  const computeMs = work.tokens * timing.perTokenMs + work.attentionPairs * timing.perAttentionPairMs
  return (timing.overheadMs + work.seqs * timing.perSeqMs + Math.max(memoryMs, computeMs)) / speed
}
