// What a simulated pod can be told, its defaults, and the one line that a wrong setting gets.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../user-error.ts'
import { type AdapterSource, isMissing } from './adapters.ts'
import { HASH_SEED_DEFAULT } from './block-hash.ts'
import { EVENT_FORMS, EVENT_HASHES } from './kv-events.ts'
import type { OffloadConfig } from './offload.ts'
import { SCHEDULING_POLICIES } from './policy.ts'
import { PRESET_DEFAULT, type Preset, presetNamed } from './preset.ts'

export type SimulatorOptions = {
  readonly host?: string
  /** 0 takes any free port. */
  readonly port?: number
  /** Served model names; the first one labels the metrics. */
  readonly models?: readonly string[]
  /** What steps' times and the KV cache are like, and the default of what follows: see preset.ts. */
  readonly preset?: Preset
  readonly maxModelLen?: number
  readonly maxNumSeqs?: number
  readonly maxNumBatchedTokens?: number
  readonly kvCacheTokens?: number
  /** Tokens of a KV block. */
  readonly blockSize?: number
  /** 1 is real time, 2 twice as fast, 0 without any waiting. */
  readonly speed?: number
  readonly seed?: number
  /** A directory with tokenizer.json and tokenizer_config.json; the built-in tokenizer without it. */
  readonly tokenizerDir?: string
  /** Asked of callers of /v1, as by `vllm serve --api-key`. */
  readonly apiKey?: string
  readonly tls?: { readonly key: string | Buffer; readonly cert: string | Buffer }
  /** Whether usage tells the cached tokens (`--enable-prompt-tokens-details`). */
  readonly promptTokensDetails?: boolean
  /** Whether answers carry X-Request-Id (`--enable-request-id-headers`). */
  readonly requestIdHeaders?: boolean
  /** Port of the KV events; 0 takes any free one, `off` publishes none. */
  readonly kvEventsPort?: number | 'off'
  /** Port on which events are sent again; 0 takes any free one. */
  readonly kvReplayPort?: number
  /** Goes into every block's hash (PYTHONHASHSEED): engines with the same one announce the same hashes. */
  readonly hashSeed?: string
  /** Whether answers of /v1/responses are kept (`VLLM_ENABLE_RESPONSES_API_STORE`). */
  readonly responsesStore?: boolean
  /** `pooling` serves embeddings instead of text (`--runner`). */
  readonly runner?: Runner
  /** Engines behind one port (`--data-parallel-size`), each with a KV cache of its own. */
  readonly dataParallelSize?: number
  /** Adapters that one step may use (`--max-loras`); 0, the default, takes none at all. */
  readonly maxLoras?: number
  /** Adapters that are loaded from the start on (`--lora-modules`). */
  readonly loraModules?: readonly AdapterSource[]
  /** Whose requests are served first (`--scheduling-policy`). */
  readonly schedulingPolicy?: (typeof SCHEDULING_POLICIES)[number]
  /** How KV events are written: `map` as of 0.23, `array` as before; hashes as numbers or whole. */
  readonly kvEventForm?: (typeof EVENT_FORMS)[number]
  readonly kvEventHashes?: (typeof EVENT_HASHES)[number]
  /** A tier of KV blocks in the host's memory (`OffloadingConnector`). */
  readonly offload?: OffloadConfig
  /** Requests that may be unfinished at once, and prompt tokens that may wait for their first token; more are refused. */
  readonly maxNumQueuedReqs?: number
  readonly maxNumQueuedTokens?: number
  /** Tokens that a stream tells at a time, after its first (`--stream-interval`). */
  readonly streamInterval?: number
  /** Whether /load tells how much is being served (`--enable-server-load-tracking`). */
  readonly trackServerLoad?: boolean
}

export const RUNNERS = ['generate', 'pooling'] as const
export type Runner = (typeof RUNNERS)[number]

type WithoutDefault = 'tokenizerDir' | 'apiKey' | 'tls' | 'offload' | 'maxNumQueuedReqs' | 'maxNumQueuedTokens'

export type Settings = Required<Omit<SimulatorOptions, WithoutDefault>> & Pick<SimulatorOptions, WithoutDefault>

/** More would not fit beside each other's ports. */
const DATA_PARALLEL_SIZE_MAX = 64

/** The options with their defaults. Throws a UserError that names the setting and the fix. */
export function settleOptions(options: SimulatorOptions): Settings {
  const { tokenizerDir, apiKey, tls } = options
  const preset = options.preset ?? presetNamed(PRESET_DEFAULT)
  const runner = oneOf('runner', options.runner ?? 'generate', RUNNERS)
  const blockSize = whole('blockSize', options.blockSize ?? preset.blockSize, 1)
  const kvCacheTokens = whole('kvCacheTokens', options.kvCacheTokens ?? preset.kvCacheTokens, blockSize)
  const usableTokens = kvCacheTokens - (kvCacheTokens % blockSize)
  const maxModelLen = whole('maxModelLen', options.maxModelLen ?? Math.min(preset.maxModelLen, usableTokens), 2)
  if (maxModelLen > usableTokens) {
    throw new UserError(
      `kvCacheTokens ${kvCacheTokens} cannot hold one request of maxModelLen ${maxModelLen} tokens: raise the one or lower the other`,
    )
  }
  const models = options.models ?? ['sim-8b']
  if (models.length === 0 || models.includes(''))
    throw new UserError('models: give at least one name, and no empty one')
  const speed = options.speed ?? 1
  if (!Number.isFinite(speed) || speed < 0)
    throw new UserError(`speed ${speed}: give 1 for real time, 0 for no waiting`)
  if (tokenizerDir !== undefined && !existsSync(join(tokenizerDir, 'tokenizer.json'))) {
    throw new UserError(
      `${join(tokenizerDir, 'tokenizer.json')} does not exist: give the directory of a model's tokenizer`,
    )
  }
  return {
    host: options.host ?? '127.0.0.1',
    port: whole('port', options.port ?? 0, 0),
    models,
    maxModelLen,
    maxNumSeqs: whole('maxNumSeqs', options.maxNumSeqs ?? preset.maxNumSeqs, 1),
    maxNumBatchedTokens: whole('maxNumBatchedTokens', options.maxNumBatchedTokens ?? preset.maxNumBatchedTokens, 1),
    preset,
    kvCacheTokens,
    blockSize,
    speed,
    seed: whole('seed', options.seed ?? 0, 0),
    promptTokensDetails: options.promptTokensDetails ?? true,
    requestIdHeaders: options.requestIdHeaders ?? true,
    kvEventsPort: options.kvEventsPort === 'off' ? 'off' : whole('kvEventsPort', options.kvEventsPort ?? 0, 0),
    kvReplayPort: whole('kvReplayPort', options.kvReplayPort ?? 0, 0),
    hashSeed: options.hashSeed ?? HASH_SEED_DEFAULT,
    responsesStore: options.responsesStore ?? false,
    runner,
    dataParallelSize: whole('dataParallelSize', options.dataParallelSize ?? 1, 1, DATA_PARALLEL_SIZE_MAX),
    ...adapterSettings(options, models),
    schedulingPolicy: oneOf('schedulingPolicy', options.schedulingPolicy ?? 'fcfs', SCHEDULING_POLICIES),
    kvEventForm: oneOf('kvEventForm', options.kvEventForm ?? 'map', EVENT_FORMS),
    kvEventHashes: oneOf('kvEventHashes', options.kvEventHashes ?? 'int', EVENT_HASHES),
    streamInterval: whole('streamInterval', options.streamInterval ?? 1, 1),
    trackServerLoad: options.trackServerLoad ?? false,
    ...(tokenizerDir === undefined ? {} : { tokenizerDir }),
    ...(apiKey === undefined ? {} : { apiKey }),
    ...(tls === undefined ? {} : { tls }),
    ...queueLimits(options),
    ...(options.offload === undefined ? {} : { offload: options.offload }),
  }
}

function queueLimits(options: SimulatorOptions): Pick<SimulatorOptions, 'maxNumQueuedReqs' | 'maxNumQueuedTokens'> {
  const { maxNumQueuedReqs: requests, maxNumQueuedTokens: tokens } = options
  return {
    ...(requests === undefined ? {} : { maxNumQueuedReqs: whole('maxNumQueuedReqs', requests, 1) }),
    ...(tokens === undefined ? {} : { maxNumQueuedTokens: whole('maxNumQueuedTokens', tokens, 1) }),
  }
}

function adapterSettings(
  { maxLoras, loraModules = [] }: SimulatorOptions,
  models: readonly string[],
): Pick<Settings, 'maxLoras' | 'loraModules'> {
  const names = new Set(models)
  for (const { name, path } of loraModules) {
    if (name === '' || path === '') throw new UserError('loraModules: give each adapter as NAME=PATH')
    if (names.has(name))
      throw new UserError(`loraModules: the name ${name} is taken: give each adapter a name of its own`)
    if (isMissing(path))
      throw new UserError(`loraModules: ${path} holds no adapter_config.json: give an adapter's folder`)
    names.add(name)
  }
  const slots = whole('maxLoras', maxLoras ?? (loraModules.length > 0 ? 1 : 0), 0)
  if (slots === 0 && loraModules.length > 0) throw new UserError('maxLoras 0 leaves no slot for loraModules: raise it')
  return { maxLoras: slots, loraModules }
}

function oneOf<T extends string>(name: string, value: T, choices: readonly T[]): T {
  if (choices.includes(value)) return value
  throw new UserError(`${name} ${value}: give one of ${choices.join(', ')}`)
}

function whole(name: string, value: number, least: number, most = Number.MAX_SAFE_INTEGER): number {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return value
  const bounds = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`
  throw new UserError(`${name} ${value}: give a whole number ${bounds}`)
}
