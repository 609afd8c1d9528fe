// The command `simulator`: its flags, what they set, and its two verbs `record` and `fit`.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { choice, type Flag, type FlagValues, isOn, number, port, text, texts } from './flags.ts'
import type { AdapterSource } from './simulator/adapters.ts'
import { describeFaults, faultsOfFlags } from './simulator/faults.ts'
import { EVENT_FORMS } from './simulator/kv-events.ts'
import type { OffloadConfig } from './simulator/offload.ts'
import { RUNNERS } from './simulator/options.ts'
import { SCHEDULING_POLICIES } from './simulator/policy.ts'
import { loadPreset, PRESET_DEFAULT, PRESET_GRAMMAR, type Preset } from './simulator/preset.ts'
import type { SimulatorOptions } from './simulator/server.ts'
import { UserError } from './user-error.ts'

/** So many pods fit into one process. */
export const PODS_MAX = 200

export const presetFlag = {
  type: 'string',
  value: 'NAME',
  help: `what they are like: the name of a preset or a file with one (default ${PRESET_DEFAULT})`,
} as const satisfies Flag

export const faultFlags = {
  fault: {
    type: 'string',
    multiple: true,
    value: 'NAME[=VALUE]',
    help: 'how they fail from the start on (below); may repeat',
  },
  'fault-port': {
    type: 'string',
    value: 'N',
    help: 'port through which they are made to fail while they run (default: any free one)',
  },
} as const satisfies Readonly<Record<string, Flag>>

export const SIMULATOR_FLAGS = {
  model: { type: 'string', multiple: true, value: 'NAME', help: 'a served model name (default sim-8b); may repeat' },
  pods: { type: 'string', value: 'N', help: `so many pods in this process, on ports side by side (default 1)` },
  preset: presetFlag,
  'max-model-len': { type: 'string', value: 'N', help: 'context length in tokens (default: of the preset)' },
  'max-num-seqs': { type: 'string', value: 'N', help: 'sequences in a step (default: of the preset)' },
  'max-num-batched-tokens': { type: 'string', value: 'N', help: 'tokens in a step (default: of the preset)' },
  'kv-cache-tokens': { type: 'string', value: 'N', help: 'size of the KV cache (default: of the preset)' },
  'block-size': { type: 'string', value: 'N', help: 'tokens of a KV block (default 16)' },
  'scheduling-policy': { type: 'string', value: 'NAME', help: 'fcfs, or priority (default fcfs)' },
  'data-parallel-size': { type: 'string', value: 'N', help: 'engines behind one port (default 1)' },
  'lora-modules': { type: 'string', multiple: true, value: 'NAME=PATH', help: 'a LoRA adapter; may repeat' },
  'max-loras': { type: 'string', value: 'N', help: 'adapters in a step (default 1 with adapters, else 0: none)' },
  'api-key': { type: 'string', value: 'KEY', help: 'required from callers of /v1, as with vllm serve' },
  tokenizer: { type: 'string', value: 'DIR', help: 'directory with tokenizer.json and tokenizer_config.json' },
  speed: { type: 'string', value: 'X', help: 'X times as fast as the modelled GPU (default 1; 0: no waiting)' },
  seed: { type: 'string', value: 'N', help: 'seed of what it says (default 0)' },
  'kv-events-port': { type: 'string', value: 'N', help: 'port of its KV events (default: any free one), or off' },
  'kv-replay-port': { type: 'string', value: 'N', help: 'port that sends them again (default: any free one)' },
  'kv-events-form': { type: 'string', value: 'NAME', help: 'map as of vLLM 0.23, or array as before (default map)' },
  'max-num-queued-reqs': { type: 'string', value: 'N', help: 'unfinished requests, more are refused (default: any)' },
  'max-num-queued-tokens': { type: 'string', value: 'N', help: 'prompt tokens that wait (default: any)' },
  'stream-interval': { type: 'string', value: 'N', help: 'tokens that a stream tells at a time (default 1)' },
  'shutdown-timeout': {
    type: 'string',
    value: 'N',
    help: 'seconds to finish what is in flight at SIGTERM (default 0)',
  },
  'kv-offloading-blocks': { type: 'string', value: 'N', help: 'KV blocks kept in host memory too (default: none)' },
  'kv-offloading-ms-per-block': { type: 'string', value: 'X', help: 'to copy one back (default 0.1)' },
  'self-describing-kv-events': { type: 'boolean', help: 'events of host memory tell tokens and parents' },
  'responses-store': { type: 'boolean', help: 'keeps the answers of /v1/responses' },
  'enable-server-load-tracking': { type: 'boolean', help: '/load tells how much is served' },
  runner: { type: 'string', value: 'NAME', help: 'generate, or pooling: serves embeddings (default generate)' },
  ...faultFlags,
  engine: { type: 'string', value: 'URL', help: 'record: the vLLM whose times are taken' },
  seconds: { type: 'string', value: 'N', help: 'record: for how long (default 120)' },
  output: { type: 'string', value: 'FILE', help: 'record, fit: what is written' },
} as const satisfies Readonly<Record<string, Flag>>

export const PRESETS_MORE = `Presets: ${PRESET_GRAMMAR}`

export const SIMULATOR_MORE = `${PRESETS_MORE}

Faults:
${describeFaults()}

\`simulator record --engine URL --output FILE\` sends requests to a real vLLM and writes down what they took;
give it the engine's own --max-num-seqs and --max-num-batched-tokens, which vLLM does not tell (default 128, 2048: a CPU's);
\`simulator fit FILE --output preset.yaml\` makes a preset of that: the simulated pod then takes as long.

Environment: POD_IP                               listened on when no host is given
             PYTHONHASHSEED                       goes into the hashes of KV blocks, as in vLLM
             VLLM_ENABLE_RESPONSES_API_STORE      1: as --responses-store
             VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES  0: events tell hashes whole`

type Env = Readonly<Record<string, string | undefined>>

/** What runs until the signal comes. Throws UserError. */
export async function runSimulator(
  values: FlagValues,
  [verb, ...rest]: readonly string[],
  {
    env,
    podIp,
    stopped,
  }: { readonly env: Env; readonly podIp: string | undefined; readonly stopped: () => Promise<string> },
): Promise<void> {
  if (verb === 'record' && rest.length === 0) return recordTimings(values)
  if (verb === 'fit' && rest.length === 1) return fitTimings(values, rest[0] as string)
  if (verb !== undefined) throw new UserError('say: warmpath simulator, simulator record, or simulator fit RECORDING')
  const { startPods } = await import('./simulator/pods.ts')
  const { openFaultDoor } = await import('./simulator/fault-door.ts')
  const options = { ...simulatorOptions(values, env), host: text(values, 'host') ?? podIp ?? '127.0.0.1' }
  const faults = faultsOfFlags(texts(values, 'fault'))
  const count = number(values, 'pods', 1, PODS_MAX) ?? 1
  const pods = await startPods(count, options, faults, (error) => {
    process.stderr.write(`warmpath: a pod did not come back: ${(error as Error).message}\n`)
  })
  try {
    const door = await openFaultDoor(pods, port(values, 'fault-port') ?? 0)
    for (const pod of pods) {
      const events = pod.simulator()?.kvEvents
      const told = events ? ` with KV events on port ${events.port} and their replay on ${events.replayPort}` : ''
      process.stdout.write(`simulated vLLM listens on ${pod.url}${told}\n`)
    }
    process.stdout.write(`make ${count === 1 ? 'it' : 'them'} fail: ${door.url}\n`)
    const signal = await stopped()
    // Ctrl-C ends it; SIGTERM is what vLLM makes of it.
    if (signal === 'SIGTERM') {
      const drainMs = (number(values, 'shutdown-timeout', 0, 86_400) ?? 0) * 1_000
      await Promise.all(pods.map((pod) => pod.simulator()?.terminate(drainMs)))
    }
    await door.close()
  } finally {
    await Promise.all(pods.map((pod) => pod.close()))
  }
}

/** The preset of --preset, or the default one. Throws UserError. */
export function presetOf(values: FlagValues): Preset {
  return loadPreset(text(values, 'preset') ?? PRESET_DEFAULT, readPresetFile)
}

function readPresetFile(file: string): string {
  if (!existsSync(file)) throw new UserError(`${file} does not exist: give a preset's name or file with --preset`)
  return readFileSync(file, 'utf8')
}

function simulatorOptions(values: FlagValues, env: Env): SimulatorOptions {
  const models = texts(values, 'model')
  const loraModules = texts(values, 'lora-modules').map(adapterOf)
  const given = {
    port: port(values, 'port') ?? 8000,
    preset: presetOf(values),
    maxModelLen: number(values, 'max-model-len', 1, 100_000_000),
    maxNumSeqs: number(values, 'max-num-seqs', 1, 1_000_000),
    maxNumBatchedTokens: number(values, 'max-num-batched-tokens', 1, 100_000_000),
    kvCacheTokens: number(values, 'kv-cache-tokens', 1, 1e12),
    blockSize: number(values, 'block-size', 1, 65_536),
    schedulingPolicy: choice(values, 'scheduling-policy', SCHEDULING_POLICIES),
    dataParallelSize: number(values, 'data-parallel-size', 1, 64),
    loraModules: loraModules.length > 0 ? loraModules : undefined,
    maxLoras: number(values, 'max-loras', 0, 10_000),
    apiKey: text(values, 'api-key'),
    tokenizerDir: text(values, 'tokenizer'),
    speed: number(values, 'speed', 0, 1_000, false),
    seed: number(values, 'seed', 0, 2 ** 32 - 1),
    kvEventsPort: text(values, 'kv-events-port') === 'off' ? 'off' : port(values, 'kv-events-port'),
    kvReplayPort: port(values, 'kv-replay-port'),
    kvEventForm: choice(values, 'kv-events-form', EVENT_FORMS),
    kvEventHashes: env.VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES === '0' ? 'bytes' : undefined,
    streamInterval: number(values, 'stream-interval', 1, 1_000_000),
    maxNumQueuedReqs: number(values, 'max-num-queued-reqs', 1, 1_000_000),
    maxNumQueuedTokens: number(values, 'max-num-queued-tokens', 1, 1e12),
    offload: offloadOf(values),
    responsesStore: isOn(values, 'responses-store') || Number(env.VLLM_ENABLE_RESPONSES_API_STORE ?? 0) !== 0,
    trackServerLoad: isOn(values, 'enable-server-load-tracking'),
    runner: choice(values, 'runner', RUNNERS),
    hashSeed: env.PYTHONHASHSEED,
    models: models.length > 0 ? models : undefined,
  }
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
}

/** 2 MiB over PCIe, 16 tokens of an 8B model. */
const OFFLOADING_MS_PER_BLOCK = 0.1

function offloadOf(values: FlagValues): OffloadConfig | undefined {
  const blocks = number(values, 'kv-offloading-blocks', 1, 100_000_000)
  const msPerBlock = number(values, 'kv-offloading-ms-per-block', 0, 10_000, false)
  const selfDescribing = isOn(values, 'self-describing-kv-events')
  if (blocks !== undefined) {
    return { blocks, msPerBlock: msPerBlock ?? OFFLOADING_MS_PER_BLOCK, selfDescribing: selfDescribing ?? false }
  }
  if (msPerBlock === undefined && selfDescribing === undefined) return undefined
  const given = msPerBlock === undefined ? '--self-describing-kv-events' : '--kv-offloading-ms-per-block'
  throw new UserError(`${given} says nothing without --kv-offloading-blocks: give both or neither`)
}

function adapterOf(given: string): AdapterSource {
  const [, name, path] = /^([^=]+)=(.+)$/.exec(given) ?? []
  if (name === undefined || path === undefined) throw new UserError(`--lora-modules ${given}: expected NAME=PATH`)
  return { name, path }
}

async function recordTimings(values: FlagValues): Promise<void> {
  const engine = text(values, 'engine')
  const output = text(values, 'output')
  if (engine === undefined || output === undefined) {
    throw new UserError('say: warmpath simulator record --engine URL --output FILE')
  }
  const { recordEngine } = await import('./simulator/record.ts')
  const lines = await recordEngine({
    engine,
    seconds: number(values, 'seconds', 1, 3_600) ?? 120,
    seed: number(values, 'seed', 0, 2 ** 32 - 1) ?? 0,
    maxNumSeqs: number(values, 'max-num-seqs', 1, 1_000_000),
    maxNumBatchedTokens: number(values, 'max-num-batched-tokens', 1, 100_000_000),
    print: (line) => process.stdout.write(`${line}\n`),
  })
  writeFileSync(output, lines)
  process.stdout.write(`wrote ${output}; next: warmpath simulator fit ${output} --output preset.yaml\n`)
}

async function fitTimings(values: FlagValues, file: string): Promise<void> {
  const output = text(values, 'output')
  if (output === undefined) throw new UserError(`say: warmpath simulator fit ${file} --output preset.yaml`)
  if (!existsSync(file)) throw new UserError(`${file} does not exist: make it with warmpath simulator record`)
  const { fitRecording, presetText } = await import('./simulator/fit.ts')
  const { parseRecording } = await import('./simulator/recording.ts')
  const recording = parseRecording(readFileSync(file, 'utf8'), file)
  const fitted = fitRecording(recording)
  writeFileSync(output, presetText(recording, fitted, file))
  process.stdout.write(`${fitted.report}\nwrote ${output}; use it: warmpath simulator --preset ${output}\n`)
}
