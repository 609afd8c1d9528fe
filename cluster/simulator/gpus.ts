// GPUs and models as far as their speed and memory follow from a few numbers of their data sheets and configurations.

export type Gpu = {
  /** GB as they are sold; a driver reports 99 % of that number in GiB (79.2 of an H100, 139.6 of an H200). */
  readonly memoryGb: number
  /** Dense, in bfloat16; twice that in fp8. */
  readonly tflops: number
  readonly bandwidthTBps: number
}

export const GPUS = {
  l4: { memoryGb: 24, tflops: 121, bandwidthTBps: 0.3 },
  a10: { memoryGb: 24, tflops: 125, bandwidthTBps: 0.6 },
  l40s: { memoryGb: 48, tflops: 362, bandwidthTBps: 0.86 },
  'a100-40': { memoryGb: 40, tflops: 312, bandwidthTBps: 1.56 },
  a100: { memoryGb: 80, tflops: 312, bandwidthTBps: 2 },
  h20: { memoryGb: 96, tflops: 148, bandwidthTBps: 4 },
  'h100-pcie': { memoryGb: 80, tflops: 756, bandwidthTBps: 2 },
  h100: { memoryGb: 80, tflops: 989, bandwidthTBps: 3.35 },
  h200: { memoryGb: 141, tflops: 989, bandwidthTBps: 4.8 },
  b200: { memoryGb: 180, tflops: 2_250, bandwidthTBps: 8 },
  mi300x: { memoryGb: 192, tflops: 1_307, bandwidthTBps: 5.3 },
} as const satisfies Record<string, Gpu>

export type Model = {
  readonly billionParams: number
  /** Those that one token uses: fewer than all where there are experts. */
  readonly billionActiveParams: number
  readonly layers: number
  readonly heads: number
  /** Heads with keys and values of their own; 1 where a latent vector stands for all (MLA). */
  readonly kvHeads: number
  readonly headDim: number
  /** Numbers that a layer keeps of a token, in place of the keys and values of its heads (MLA). */
  readonly latentDim?: number
  /** The type of its weights as they are published. */
  readonly dtype: Dtype
}

export const DTYPE_BYTES = { bf16: 2, fp8: 1 } as const
export type Dtype = keyof typeof DTYPE_BYTES

const GROUPED = { kvHeads: 8, headDim: 128, dtype: 'bf16' } as const

export const MODELS = {
  'qwen3-0.6b': { ...GROUPED, billionParams: 0.6, billionActiveParams: 0.6, layers: 28, heads: 16 },
  '8b': { ...GROUPED, billionParams: 8.03, billionActiveParams: 8.03, layers: 32, heads: 32 },
  '70b': { ...GROUPED, billionParams: 70.6, billionActiveParams: 70.6, layers: 80, heads: 64 },
  '405b': { ...GROUPED, billionParams: 406, billionActiveParams: 406, layers: 126, heads: 128 },
  'mixtral-8x7b': { ...GROUPED, billionParams: 46.7, billionActiveParams: 12.9, layers: 32, heads: 32 },
  'deepseek-v3': {
    billionParams: 671,
    billionActiveParams: 37,
    layers: 61,
    heads: 128,
    kvHeads: 1,
    headDim: 192,
    latentDim: 576,
    dtype: 'fp8',
  },
} as const satisfies Record<string, Model>

/** Bytes that the KV cache holds of a token, over all layers; keys and values are bfloat16. */
export function kvBytesPerToken({ layers, kvHeads, headDim, latentDim }: Model): number {
  const numbers = latentDim ?? 2 * kvHeads * headDim
  return layers * numbers * DTYPE_BYTES.bf16
}
