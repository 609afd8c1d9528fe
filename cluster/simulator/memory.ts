// Memory arithmetic: how many tokens of KV cache a model on so many GPUs has, as vLLM's start-up finds it.
import { DTYPE_BYTES, type Dtype, type Gpu, kvBytesPerToken, type Model } from './gpus.ts'

/** vLLM's `--gpu-memory-utilization`. */
export const GPU_MEMORY_UTILIZATION = 0.92
const GIB = 2 ** 30
/** Of the number of GB on the label, in GiB, what a driver reports. */
const REPORTED_SHARE = 0.99
/** Activations, CUDA graphs and NCCL on each GPU, and on one large enough for larger batches. */
const RESERVE_GIB = 4
const LARGE_RESERVE_GIB = 5
const LARGE_GPU_GB = 100
/** Ways to split a model that are in use. */
const TENSOR_PARALLEL_SIZES = [1, 2, 4, 8]

export type Placement = {
  readonly gpu: Gpu
  readonly gpus: number
  readonly model: Model
  readonly dtype: Dtype
  readonly gpuMemoryUtilization?: number
}

export function weightBytes({ model, dtype }: Pick<Placement, 'model' | 'dtype'>): number {
  return model.billionParams * 1e9 * DTYPE_BYTES[dtype]
}

/** How often the KV cache of a token is kept: by every GPU where it cannot be split as far as the weights are. */
export function kvCopies({ gpus, model }: Pick<Placement, 'gpus' | 'model'>): number {
  return Math.max(1, gpus / model.kvHeads)
}

/** Tokens that fit into the KV cache; 0 or less where not even the weights fit. */
export function kvCacheTokensOf(placement: Placement): number {
  const { gpu, gpus, model, gpuMemoryUtilization = GPU_MEMORY_UTILIZATION } = placement
  const reserveGib = gpu.memoryGb > LARGE_GPU_GB ? LARGE_RESERVE_GIB : RESERVE_GIB
  const reportedGib = gpu.memoryGb * REPORTED_SHARE
  const perGpu = (reportedGib * gpuMemoryUtilization - reserveGib) * GIB - weightBytes(placement) / gpus
  return Math.floor((perGpu * gpus) / (kvBytesPerToken(model) * kvCopies(placement)))
}

/** The fewest GPUs that hold the model and a request of so many tokens; undefined where eight do not. */
export function fewestGpus(placement: Omit<Placement, 'gpus'>, tokens: number): number | undefined {
  return TENSOR_PARALLEL_SIZES.find(
    (gpus) => placement.model.heads % gpus === 0 && kvCacheTokensOf({ ...placement, gpus }) >= tokens,
  )
}
