// Starts a real vLLM on this machine's CPU: loopback only, a small KV cache, KV events on. It never outlives this process.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { freePort } from '../e2e/program.ts'
import { installVllm } from './install-vllm.ts'
import { type Family, makeTinyModel } from './tiny-model.ts'

export const MODEL = 'tiny-qwen3'
/** The least that vLLM's attention on CPUs takes. */
export const BLOCK_SIZE_TOKENS = 32
export const MAX_NUM_SEQS = 16
/** Goes into every block's hash. */
export const HASH_SEED = '0'

/** Emptied when the tests begin. */
export const LOG_DIR = fileURLToPath(new URL('../../.warmpath/logs/real', import.meta.url))

const KV_CACHE_BYTES = 64 * 2 ** 20
const MAX_MODEL_LEN_DEFAULT = 8_192
const READY_TIMEOUT_MS = 600_000
const POLL_MS = 200
const LOG_TAIL_CHARS = 4_000

export type VllmOptions = {
  /** Any free one without it. */
  readonly port?: number
  /** Blocks of the KV cache; as many as 64 MiB hold (2,048) without it. */
  readonly blocks?: number
  readonly maxModelLen?: number
  /** Qwen3 without it. */
  readonly family?: Family
  /** More for `vllm serve`: adapters, ranks, sleep, limits. */
  readonly flags?: readonly string[]
  /** More for its environment, or other values. */
  readonly environment?: Readonly<Record<string, string>>
  /** Whether it publishes KV events; it does without this. */
  readonly kvEvents?: boolean
  /** Where relative paths in the flags begin. */
  readonly folder?: string
}

export type Vllm = {
  readonly url: string
  readonly logFile: string
  /** Where it publishes KV events, and where it sends them again: `tcp://…`. */
  readonly eventsEndpoint: string
  readonly replayEndpoint: string
  readonly startedInMs: number
  /** SIGTERM, and SIGKILL to what is left of it after a while. */
  readonly stop: () => Promise<void>
  /** SIGKILL to all its processes, as a node that is lost. */
  readonly kill: () => Promise<void>
}

/** Resolves when it is healthy; rejects with the end of its log when it does not get there. Start one after the other. */
export async function startVllm({
  port: given,
  blocks,
  maxModelLen,
  family,
  ...more
}: VllmOptions = {}): Promise<Vllm> {
  const startedAtMs = performance.now()
  const venv = await installVllm()
  const model = await makeTinyModel(family)
  const port = given ?? (await freePort())
  const ports = { events: await freePort(), replay: await freePort() }
  mkdirSync(LOG_DIR, { recursive: true })
  const logFile = join(LOG_DIR, `vllm-${port}.log`)

  const args = [
    ...['serve', model, '--served-model-name', MODEL, '--host', '127.0.0.1', '--port', String(port)],
    ...['--dtype', 'float32', '--enforce-eager', '--max-num-seqs', String(MAX_NUM_SEQS)],
    ...['--max-model-len', String(maxModelLen ?? MAX_MODEL_LEN_DEFAULT), '--block-size', String(BLOCK_SIZE_TOKENS)],
    ...['--prefix-caching-hash-algo', 'sha256_cbor', '--kv-cache-memory-bytes', String(KV_CACHE_BYTES)],
    ...(blocks === undefined ? [] : ['--num-gpu-blocks-override', String(blocks)]),
    ...['--enable-prompt-tokens-details', '--enable-request-id-headers'],
    ...['--enable-auto-tool-choice', '--tool-call-parser', 'hermes'],
    ...(more.kvEvents === false ? [] : ['--kv-events-config', JSON.stringify(kvEvents(ports, topicOf(port)))]),
    ...(more.flags ?? []),
  ]
  // Detached, so that a Ctrl-C in the terminal does not end it before it has ended the engine.
  const supervisor = fork(
    fileURLToPath(new URL('./supervise.ts', import.meta.url)),
    [logFile, join(venv, 'bin/vllm'), ...args],
    {
      env: { ...engineEnvironment(process.env), ...more.environment },
      detached: true,
      execArgv: [],
      ...(more.folder === undefined ? {} : { cwd: more.folder }),
    },
  )
  const ended = once(supervisor, 'exit')
  const tell = async (message: 'stop' | 'kill'): Promise<void> => {
    if (supervisor.connected) supervisor.send(message)
    await ended
  }
  const url = `http://127.0.0.1:${port}`
  try {
    while (!(await isHealthy(url))) {
      if (supervisor.exitCode !== null) throw new Error('vLLM ended before it was ready')
      if (performance.now() - startedAtMs > READY_TIMEOUT_MS) {
        throw new Error(`vLLM was not ready within ${READY_TIMEOUT_MS / 1_000} s`)
      }
      await delay(POLL_MS)
    }
    supervisor.send('ready')
  } catch (error) {
    await tell('kill')
    const tail = readFileSync(logFile, 'utf8').slice(-LOG_TAIL_CHARS)
    throw new Error(`${(error as Error).message}; its log is ${logFile} and ends with:\n${tail}`)
  }
  return {
    url,
    logFile,
    eventsEndpoint: `tcp://127.0.0.1:${ports.events}`,
    replayEndpoint: `tcp://127.0.0.1:${ports.replay}`,
    startedInMs: performance.now() - startedAtMs,
    stop: () => tell('stop'),
    kill: () => tell('kill'),
  }
}

function topicOf(port: number): string {
  return `kv@127.0.0.1:${port}@${MODEL}`
}

/** vLLM binds where the address has a wildcard, and dials otherwise. */
function kvEvents({ events, replay }: { readonly events: number; readonly replay: number }, topic: string) {
  return {
    enable_kv_cache_events: true,
    publisher: 'zmq',
    endpoint: `tcp://*:${events}`,
    replay_endpoint: `tcp://*:${replay}`,
    topic,
  }
}

function engineEnvironment({ PYTHONDONTWRITEBYTECODE: _, ...env }: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return {
    ...env,
    // So small a model gains nothing from more, and the engines share the cores.
    OMP_NUM_THREADS: '1',
    VLLM_CPU_OMP_THREADS_BIND: 'nobind',
    // For /reset_prefix_cache.
    VLLM_SERVER_DEV_MODE: '1',
    VLLM_ENABLE_RESPONSES_API_STORE: '1',
    VLLM_HOST_IP: '127.0.0.1',
    VLLM_NO_USAGE_STATS: '1',
    DO_NOT_TRACK: '1',
    HF_HUB_OFFLINE: '1',
    TRANSFORMERS_OFFLINE: '1',
    TOKENIZERS_PARALLELISM: 'false',
    PYTHONHASHSEED: HASH_SEED,
  }
}

async function isHealthy(url: string): Promise<boolean> {
  try {
    return (await fetch(`${url}/health`)).ok
  } catch {
    return false
  }
}
