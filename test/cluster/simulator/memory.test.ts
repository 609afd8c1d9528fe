// Memory arithmetic against worked examples: the figures of vLLM's own start-up for well-known models and GPUs.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Dtype, GPUS, kvBytesPerToken, MODELS } from '../../../cluster/simulator/gpus.ts'
import { fewestGpus, kvCacheTokensOf, weightBytes } from '../../../cluster/simulator/memory.ts'

type GpuName = keyof typeof GPUS
type ModelName = keyof typeof MODELS

const place = (gpu: GpuName, gpus: number, model: ModelName, dtype: Dtype = 'bf16') => ({
  gpu: GPUS[gpu],
  gpus,
  model: MODELS[model],
  dtype,
})

describe('the KV cache', () => {
  it.each<[ModelName, number]>([
    ['qwen3-0.6b', 112 * 1024],
    ['8b', 128 * 1024],
    ['70b', 320 * 1024],
    ['405b', 504 * 1024],
    ['mixtral-8x7b', 128 * 1024],
    ['deepseek-v3', 70_272],
  ])('of %s takes so many bytes a token', (model, bytes) => {
    expect(kvBytesPerToken(MODELS[model])).toBe(bytes)
  })

  it.each<[string, number, number, GpuName, ModelName, Dtype]>([
    ['70B in bfloat16 on four H100', 472_000, 4, 'h100', '70b', 'bf16'],
    ['70B in fp8 on two H100', 236_000, 2, 'h100', '70b', 'fp8'],
    ['70B in fp8 on one H200', 189_000, 1, 'h200', '70b', 'fp8'],
  ])('of %s holds about %i tokens', (_name, tokens, gpus, gpu, model, dtype) => {
    expect(kvCacheTokensOf(place(gpu, gpus, model, dtype)) / tokens).toBeCloseTo(1, 2)
  })

  it('of a latent model is kept whole by every GPU: more of them add little', () => {
    const eight = kvCacheTokensOf(place('h200', 8, 'deepseek-v3', 'fp8'))
    const perGpuBytes = (141 * 0.99 * 0.92 - 5) * 2 ** 30 - 671e9 / 8
    expect(eight).toBe(Math.floor(perGpuBytes / 70_272))
  })

  it.each<[ModelName, number]>([
    ['qwen3-0.6b', 1.2],
    ['8b', 16.1],
    ['70b', 141],
    ['405b', 812],
    ['mixtral-8x7b', 93],
  ])('stands beside the weights, %s with %d GB in bfloat16', (model, gigabytes) => {
    expect(weightBytes({ model: MODELS[model], dtype: 'bf16' }) / 1e9 / gigabytes).toBeCloseTo(1, 1)
  })
})

describe('the fewest GPUs', () => {
  it.each<[GpuName, ModelName, Dtype, number, number | undefined]>([
    ['h100', '8b', 'bf16', 32_768, 1],
    ['h100', '70b', 'bf16', 32_768, 4],
    ['h100', '70b', 'fp8', 32_768, 2],
    ['h200', '70b', 'bf16', 32_768, 2],
    ['h100', '405b', 'bf16', 32_768, undefined],
    ['h100', '405b', 'fp8', 32_768, 8],
    ['l4', '70b', 'bf16', 1_024, 8],
  ])('%s for %s in %s and %i tokens: %s', (gpu, model, dtype, tokens, gpus) => {
    expect(fewestGpus({ gpu: GPUS[gpu], model: MODELS[model], dtype }, tokens)).toBe(gpus)
  })

  it('do hold what one fewer step of them would not', () => {
    const gpu = fc.constantFrom(...(Object.keys(GPUS) as GpuName[]))
    const model = fc.constantFrom(...(Object.keys(MODELS) as ModelName[]))
    fc.assert(
      fc.property(gpu, model, fc.integer({ min: 1, max: 1_000_000 }), (gpuName, modelName, tokens) => {
        const placement = { gpu: GPUS[gpuName], model: MODELS[modelName], dtype: 'fp8' as const }
        const gpus = fewestGpus(placement, tokens)
        if (gpus === undefined) {
          expect(kvCacheTokensOf({ ...placement, gpus: 8 })).toBeLessThan(tokens)
          return
        }
        expect(kvCacheTokensOf({ ...placement, gpus })).toBeGreaterThanOrEqual(tokens)
        if (gpus > 1) expect(kvCacheTokensOf({ ...placement, gpus: gpus / 2 })).toBeLessThan(tokens)
      }),
    )
  })
})
