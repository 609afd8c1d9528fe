// How long an engine step takes: the longer of what it reads from memory and what it computes, and what it costs besides.
import { DTYPE_BYTES, kvBytesPerToken } from './gpus.ts'
import { kvCopies, type Placement } from './memory.ts'

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
  /** Reading the weights that one token uses. */
  readonly weightsMs: number
  /** How many tokens use all weights between them: 1 without experts. */
  readonly expertSpread: number
  /** Reading the keys and values of a token. */
  readonly perContextTokenMs: number
  /** Multiplying a token with the weights. */
  readonly perTokenMs: number
  readonly perAttentionPairMs: number
}

/** What a request costs before the engine sees it: its HTTP, its template, its tokens. */
export type RequestTiming = { readonly perRequestMs: number; readonly perPromptTokenMs: number }

export type Timing = { readonly step: StepTiming; readonly request: RequestTiming }

/** Of what a data sheet promises, what kernels reach: of a GPU's memory, and of its arithmetic. */
const BANDWIDTH_SHARE = 0.75
const FLOPS_SHARE = 0.5
/** A step of one GPU, and what each doubling of GPUs that have to agree adds. */
const STEP_OVERHEAD_MS = 1.5
const DOUBLING_OVERHEAD_MS = 1
const PER_SEQ_MS = 0.02

/** The roofline model: everything follows from the data sheet. What GPUs say to each other is in the overhead alone. */
export function rooflineTiming(placement: Placement): Timing {
  const { gpu, gpus, model, dtype } = placement
  const bytesPerMs = gpus * gpu.bandwidthTBps * 1e9 * BANDWIDTH_SHARE
  const flopsPerMs = gpus * gpu.tflops * 1e9 * (DTYPE_BYTES.bf16 / DTYPE_BYTES[dtype]) * FLOPS_SHARE
  return {
    step: {
      overheadMs: STEP_OVERHEAD_MS + DOUBLING_OVERHEAD_MS * Math.log2(gpus),
      perSeqMs: PER_SEQ_MS,
      weightsMs: (model.billionActiveParams * 1e9 * DTYPE_BYTES[dtype]) / bytesPerMs,
      expertSpread: model.billionParams / model.billionActiveParams,
      perContextTokenMs: (kvBytesPerToken(model) * kvCopies(placement)) / bytesPerMs,
      perTokenMs: (2 * model.billionActiveParams * 1e9) / flopsPerMs,
      perAttentionPairMs: (4 * model.layers * model.heads * model.headDim) / flopsPerMs,
    },
    // The server's own work is done for real.
    request: { perRequestMs: 0, perPromptTokenMs: 0 },
  }
}

/** `speed` divides the time; 0 is as fast as possible. */
export function stepDurationMs(timing: StepTiming, work: StepWork, speed: number): number {
  if (speed === 0) return 0
  const weightsMs = timing.weightsMs * Math.min(Math.max(1, work.tokens), timing.expertSpread)
  const memoryMs = weightsMs + work.contextTokens * timing.perContextTokenMs
  const computeMs = work.tokens * timing.perTokenMs + work.attentionPairs * timing.perAttentionPairMs
  return (timing.overheadMs + work.seqs * timing.perSeqMs + Math.max(memoryMs, computeMs)) / speed
}

/** What passes before a request of so many prompt tokens reaches the engine. */
export function requestDurationMs(timing: RequestTiming, promptTokens: number, speed: number): number {
  return speed === 0 ? 0 : (timing.perRequestMs + promptTokens * timing.perPromptTokenMs) / speed
}
