// Presets: what a simulated pod is like, from the name of a GPU and a model or from a file with numbers of one's own.
import * as v from 'valibot'
import { UserError } from '../user-error.ts'
import { parseSettings } from '../yaml-settings.ts'
import { type Dtype, GPUS, type Gpu, MODELS, type Model } from './gpus.ts'
import { fewestGpus, GPU_MEMORY_UTILIZATION, kvCacheTokensOf, type Placement, weightBytes } from './memory.ts'
import { rooflineTiming, type Timing } from './timing.ts'

export type Preset = {
  readonly timing: Timing
  readonly kvCacheTokens: number
  readonly maxModelLen: number
  readonly maxNumSeqs: number
  readonly maxNumBatchedTokens: number
  readonly blockSize: number
}

export const PRESET_DEFAULT = 'h100-8b'
/** Shown as examples; every GPU goes with every model that fits. */
export const PRESET_GRAMMAR = `GPU[xN]-MODEL[-fp8], with a GPU of ${Object.keys(GPUS).join(', ')} and a MODEL of ${Object.keys(MODELS).join(', ')}`

const MAX_MODEL_LEN_DEFAULT = 32_768
const BLOCK_SIZE_DEFAULT = 16
const GPUS_MAX = 8

/** What vLLM takes where nothing is set, by the memory of the GPU (`EngineArgs.get_batch_defaults`). */
const LARGE_BATCH_FROM_GB = 70
const LARGEST_BATCH_FROM_GB = 160
/** It batches less on this one. */
const SMALL_BATCH_GPU = 'a100'

const positive = v.pipe(v.number(), v.gtValue(0), v.maxValue(1e12))
const cost = v.pipe(v.number(), v.minValue(0), v.maxValue(1e6))
const count = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(1e12))

const PresetFile = v.strictObject({
  gpu: v.optional(
    v.union([
      v.picklist(Object.keys(GPUS) as [keyof typeof GPUS]),
      v.strictObject({ memoryGb: positive, tflops: positive, bandwidthTBps: positive }),
    ]),
  ),
  gpus: v.optional(v.pipe(count, v.maxValue(GPUS_MAX))),
  model: v.optional(
    v.union([
      v.picklist(Object.keys(MODELS) as [keyof typeof MODELS]),
      v.strictObject({
        billionParams: positive,
        billionActiveParams: v.optional(positive),
        layers: count,
        heads: count,
        kvHeads: count,
        headDim: count,
        latentDim: v.optional(count),
      }),
    ]),
  ),
  dtype: v.optional(v.picklist(['bf16', 'fp8'])),
  gpuMemoryUtilization: v.optional(v.pipe(v.number(), v.gtValue(0), v.maxValue(1))),
  step: v.optional(
    v.strictObject({
      overheadMs: cost,
      perSeqMs: cost,
      weightsMs: cost,
      expertSpread: v.optional(v.pipe(v.number(), v.minValue(1), v.maxValue(1_000)), 1),
      perContextTokenMs: cost,
      perTokenMs: cost,
      perAttentionPairMs: cost,
    }),
  ),
  request: v.optional(v.strictObject({ perRequestMs: cost, perPromptTokenMs: cost })),
  kvCacheTokens: v.optional(count),
  maxModelLen: v.optional(count),
  maxNumSeqs: v.optional(count),
  maxNumBatchedTokens: v.optional(count),
  blockSize: v.optional(v.pipe(count, v.maxValue(65_536))),
})

/** What is left to choose once GPU, model and memory are known. */
type Wishes = { readonly [Name in Exclude<keyof Preset, 'timing'>]?: number | undefined }

/** Says a mistake at a setting. */
type FaultAt = (path: readonly string[], message: string) => UserError

/** The preset of a name, or of a file: what has a dot or a slash is one. Throws a UserError of one line. */
export function loadPreset(nameOrFile: string, readFile: (file: string) => string): Preset {
  if (!/[./]/.test(nameOrFile.replace('qwen3-0.6b', ''))) return presetNamed(nameOrFile)
  return parsePreset(readFile(nameOrFile), nameOrFile)
}

export function presetNamed(name: string): Preset {
  const [, gpuName = '', gpus = '1', modelName = '', dtype] =
    /^(.+?)(?:x(\d+))?-((?:qwen3|mixtral|deepseek)-[^-]+|[^-]+)(?:-(fp8))?$/.exec(name) ?? []
  const faultAt: FaultAt = (_path, message) => new UserError(`preset ${name}: ${message}`)
  if (!Object.hasOwn(GPUS, gpuName) || !Object.hasOwn(MODELS, modelName)) {
    throw new UserError(`preset ${name}: expected ${PRESET_GRAMMAR}, or a file`)
  }
  if (Number(gpus) < 1 || Number(gpus) > GPUS_MAX) throw faultAt([], `give 1 to ${GPUS_MAX} GPUs`)
  const model: Model = MODELS[modelName as keyof typeof MODELS]
  const placement: Placement = {
    gpu: GPUS[gpuName as keyof typeof GPUS],
    gpus: Number(gpus),
    model,
    dtype: (dtype as Dtype | undefined) ?? model.dtype,
  }
  return settle(placement, rooflineTiming(placement), {}, gpuName, faultAt)
}

/** The preset of a file's text; `file` names it in errors. */
export function parsePreset(text: string, file: string): Preset {
  const { settings, faultAt } = parseSettings(PresetFile, text, file)
  const { gpu, model, step, request, gpuMemoryUtilization } = settings
  const wishes: Wishes = settings
  if (gpu === undefined || model === undefined) {
    const lacking = gpu === undefined ? 'gpu' : 'model'
    if (!step) throw faultAt([], `give gpu and model, or step with the times of a step: ${lacking} is missing`)
    if (settings.kvCacheTokens === undefined) {
      throw faultAt(['step'], `its memory does not follow from it: give kvCacheTokens too, or ${lacking}`)
    }
    if (gpu !== undefined || model !== undefined) {
      throw faultAt([gpu === undefined ? 'model' : 'gpu'], `says nothing without ${lacking}: give both or neither`)
    }
    const timing = { step, request: request ?? { perRequestMs: 0, perPromptTokenMs: 0 } }
    return settle(undefined, timing, wishes, undefined, faultAt)
  }
  const known: Model =
    typeof model === 'string'
      ? MODELS[model]
      : {
          billionParams: model.billionParams,
          billionActiveParams: model.billionActiveParams ?? model.billionParams,
          layers: model.layers,
          heads: model.heads,
          kvHeads: model.kvHeads,
          headDim: model.headDim,
          ...(model.latentDim === undefined ? {} : { latentDim: model.latentDim }),
          dtype: 'bf16',
        }
  if (known.heads % known.kvHeads !== 0) {
    throw faultAt(['model', 'kvHeads'], `${known.heads} heads cannot share ${known.kvHeads}: give a divisor of heads`)
  }
  if (known.billionActiveParams > known.billionParams) {
    throw faultAt(['model', 'billionActiveParams'], 'is more than billionParams: lower it')
  }
  const placement: Placement = {
    gpu: typeof gpu === 'string' ? GPUS[gpu] : (gpu satisfies Gpu),
    gpus: settings.gpus ?? 1,
    model: known,
    dtype: settings.dtype ?? known.dtype,
    gpuMemoryUtilization: gpuMemoryUtilization ?? GPU_MEMORY_UTILIZATION,
  }
  const computed = rooflineTiming(placement)
  const timing = { step: step ?? computed.step, request: request ?? computed.request }
  return settle(placement, timing, wishes, typeof gpu === 'string' ? gpu : undefined, faultAt)
}

function settle(
  placement: Placement | undefined,
  timing: Timing,
  wishes: Wishes,
  gpuName: string | undefined,
  faultAt: FaultAt,
): Preset {
  const blockSize = wishes.blockSize ?? BLOCK_SIZE_DEFAULT
  if (placement && placement.model.heads % placement.gpus !== 0) {
    throw faultAt(
      ['gpus'],
      `${placement.model.heads} heads cannot be split over ${placement.gpus} GPUs: give a divisor`,
    )
  }
  const room = placement && kvCacheTokensOf(placement)
  if (placement && room !== undefined && room < blockSize) {
    const isShareLow = (placement.gpuMemoryUtilization ?? GPU_MEMORY_UTILIZATION) < GPU_MEMORY_UTILIZATION
    const fault = doesNotFit(placement, wishes.maxModelLen ?? MAX_MODEL_LEN_DEFAULT, isShareLow)
    throw faultAt([isShareLow ? 'gpuMemoryUtilization' : 'gpus'], fault)
  }
  if (room !== undefined && wishes.kvCacheTokens !== undefined && wishes.kvCacheTokens > room) {
    throw faultAt(['kvCacheTokens'], `the GPUs have room for ${room} tokens beside the weights: lower it to that`)
  }
  const kvCacheTokens = wishes.kvCacheTokens ?? (room as number)
  const usable = kvCacheTokens - (kvCacheTokens % blockSize)
  if (usable === 0) throw faultAt(['kvCacheTokens'], `is less than one block of ${blockSize} tokens: raise it`)
  const maxModelLen = wishes.maxModelLen ?? Math.min(MAX_MODEL_LEN_DEFAULT, usable)
  if (maxModelLen > usable) {
    const enough = placement && wishes.kvCacheTokens === undefined ? fewestGpus(placement, maxModelLen) : undefined
    const orGpus = enough === undefined ? '' : `, or give ${enough} GPUs`
    throw faultAt(
      ['maxModelLen'],
      `one request of ${maxModelLen} tokens does not fit the KV cache of ${usable}: lower it${orGpus}`,
    )
  }
  const { batched, seqs } = batchDefaults(placement?.gpu, gpuName)
  const maxNumBatchedTokens = wishes.maxNumBatchedTokens ?? batched
  // As in vLLM: its own number gives way, and one that was set is refused.
  const maxNumSeqs = wishes.maxNumSeqs ?? Math.min(seqs, maxNumBatchedTokens)
  if (maxNumSeqs > maxNumBatchedTokens) {
    throw faultAt(
      ['maxNumSeqs'],
      `so many sequences need a token each of the ${maxNumBatchedTokens} in a step: lower it, or raise maxNumBatchedTokens`,
    )
  }
  return { timing, kvCacheTokens, maxModelLen, maxNumSeqs, maxNumBatchedTokens, blockSize }
}

function doesNotFit(placement: Placement, tokens: number, isShareLow: boolean): string {
  const enough = fewestGpus(placement, tokens)
  const { gpus, gpu, model, dtype, gpuMemoryUtilization } = placement
  const gigabytes = Math.round(weightBytes({ model, dtype }) / 1e9)
  const has = `${gpus} × ${gpu.memoryGb} GB cannot hold weights of ${gigabytes} GB and a KV cache`
  const fix = enough === undefined ? 'take larger GPUs or fp8' : `give ${enough} GPUs`
  return isShareLow ? `in ${gpuMemoryUtilization} of their memory ${has}: raise it, or ${fix}` : `${has}: ${fix}`
}

function batchDefaults(
  gpu: Gpu | undefined,
  name: string | undefined,
): { readonly batched: number; readonly seqs: number } {
  if (gpu && gpu.memoryGb >= LARGEST_BATCH_FROM_GB) return { batched: 16_384, seqs: 1_024 }
  if (gpu && gpu.memoryGb >= LARGE_BATCH_FROM_GB && name !== SMALL_BATCH_GPU) return { batched: 8_192, seqs: 1_024 }
  return { batched: 2_048, seqs: 256 }
}
