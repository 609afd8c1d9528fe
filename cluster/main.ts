// The program: one entry, several commands. The only reader of process.env and argv; wires, starts, drains.
import { isIP } from 'node:net'
import { ADMIN_PORT_DEFAULT, loadRouterConfig } from './config.ts'
import { LOG_LEVELS } from './config-file.ts'
import {
  choice,
  describeFlags,
  type Flag,
  type FlagValues,
  isOn,
  number,
  parseFlags,
  port,
  text,
  texts,
} from './flags.ts'
import { RUNNERS } from './simulator/options.ts'
import { GPU_NAMES } from './simulator/timing.ts'
import { UserError } from './user-error.ts'

type Command = {
  readonly summary: string
  readonly usage: string
  readonly flags: Readonly<Record<string, Flag>>
  /** Text below the flags in --help. */
  readonly more?: string
  readonly positionals?: boolean
  readonly run: (values: FlagValues, positionals: readonly string[]) => Promise<void>
}

const ADMIN_URL = `http://127.0.0.1:${ADMIN_PORT_DEFAULT}`

const PODS_DEFAULT = 3
const PODS_MAX = 200

const listenFlags = {
  host: { type: 'string', value: 'ADDRESS', help: 'listen there (default: POD_IP, else 127.0.0.1)' },
  port: { type: 'string', value: 'N', help: 'listen on this port' },
} as const satisfies Record<string, Flag>

/** Where a configuration file may say it too. */
const configuredHost = {
  ...listenFlags.host,
  help: 'listen there (default: as configured, else POD_IP, else 127.0.0.1)',
}

const redisFlag = {
  type: 'string',
  value: 'URL',
  help: 'keeps answers in this Redis too, for all routers (default: REDIS_URL, else in memory alone)',
} as const satisfies Flag

const COMMANDS: Readonly<Record<string, Command>> = {
  up: {
    summary: 'everything on this machine: edge, router and simulated pods, with a key to try them',
    usage: 'up [--pods N | --engine URL …] [--port N]',
    flags: {
      pods: { type: 'string', value: 'N', help: 'simulated vLLM pods (default 3)' },
      engine: {
        type: 'string',
        multiple: true,
        value: 'URL',
        help: 'a real vLLM server in the pods’ place; may repeat',
      },
      config: {
        type: 'string',
        value: 'FILE',
        help: "the router's configuration (YAML); its endpoints stand in the pods’ place",
      },
      port: { type: 'string', value: 'N', help: 'port of the edge (default 8787)' },
      'router-port': { type: 'string', value: 'N', help: 'port of the router (default 8000)' },
      'admin-port': { type: 'string', value: 'N', help: "port of the router's admin door (default 8081)" },
      'pod-port': { type: 'string', value: 'N', help: 'port of the first simulated pod (default 8101; 0: any)' },
      model: { type: 'string', value: 'NAME', help: 'model that the simulated pods serve (default sim-8b)' },
      gpu: { type: 'string', value: 'NAME', help: `what they are like: ${GPU_NAMES.join(', ')} (default h100-8b)` },
      speed: {
        type: 'string',
        value: 'X',
        help: 'simulated pods X times as fast as real ones (default 1; 0: no waiting)',
      },
      redis: redisFlag,
    },
    run: runUp,
  },
  router: {
    summary: 'places each request on an engine and streams the answer back',
    usage: 'router --endpoint URL … | --config FILE',
    flags: {
      config: { type: 'string', value: 'FILE', help: 'configuration (YAML); flags stand above it' },
      endpoint: { type: 'string', multiple: true, value: 'URL', help: 'a vLLM server; may repeat' },
      'vllm-port': { type: 'string', value: 'N', help: 'short for --endpoint http://127.0.0.1:N' },
      host: configuredHost,
      port: listenFlags.port,
      'admin-host': { type: 'string', value: 'ADDRESS', help: 'admin door: metrics, decisions (default 127.0.0.1)' },
      'admin-port': { type: 'string', value: 'N', help: 'its port (default 8081)' },
      'kv-manager': {
        type: 'string',
        value: 'URL',
        help: 'a KV-Cache Manager to ask what pods hold (default: KV_CACHE_MANAGER_URL, else the index in this process)',
      },
      'load-monitor': {
        type: 'string',
        value: 'URL',
        help: 'a load monitor to ask for the pods’ load (default: scrape them)',
      },
      redis: redisFlag,
      'allow-unsigned': { type: 'boolean', help: 'take requests that the edge did not sign' },
      'log-level': { type: 'string', value: 'LEVEL', help: 'trace, debug, info, warn, error or silent (default info)' },
      seed: { type: 'string', value: 'N', help: 'seed of the randomness that breaks ties' },
    },
    more: 'Environment: EDGE_SIGNING_KEYS  id:secret[,id:secret…], the keys that the edge signs with\n             POD_IP             listened on when no host is given\n             CACHE_ENABLED      false: no answer is kept (default true)',
    run: runRouter,
  },
  'load-monitor': {
    summary: 'scrapes the pods and tells their load, to Prometheus and to routers',
    usage: 'load-monitor --endpoint URL … | --config FILE',
    flags: {
      config: {
        type: 'string',
        value: 'FILE',
        help: "the router's configuration (YAML): its endpoints are watched, as they change",
      },
      endpoint: { type: 'string', multiple: true, value: 'URL', help: 'a vLLM server; may repeat' },
      host: configuredHost,
      port: { type: 'string', value: 'N', help: 'listen on this port (default 9090)' },
      'dcgm-port': {
        type: 'string',
        value: 'N',
        help: 'port of the DCGM exporter on every pod’s host; without one, KV-cache usage stands for GPU utilisation',
      },
      'log-level': { type: 'string', value: 'LEVEL', help: 'trace, debug, info, warn, error or silent (default info)' },
    },
    more: 'GET /load, /load/<pod> (host:port), /metrics, /healthz, /readyz.\nEnvironment: POD_IP  listened on when no host is given',
    run: runLoadMonitor,
  },
  simulator: {
    summary: 'a vLLM look-alike for machines without GPUs',
    usage: 'simulator [--port N] [--model NAME …]',
    flags: {
      ...listenFlags,
      model: {
        type: 'string',
        multiple: true,
        value: 'NAME',
        help: 'a served model name (default sim-8b); may repeat',
      },
      'max-model-len': { type: 'string', value: 'N', help: 'context length in tokens (default 32768)' },
      'max-num-seqs': { type: 'string', value: 'N', help: 'sequences in a step (default 256)' },
      'max-num-batched-tokens': { type: 'string', value: 'N', help: 'tokens in a step (default 8192)' },
      'kv-cache-tokens': { type: 'string', value: 'N', help: 'size of the KV cache' },
      'block-size': { type: 'string', value: 'N', help: 'tokens of a KV block (default 16)' },
      'api-key': { type: 'string', value: 'KEY', help: 'required from callers of /v1, as with vllm serve' },
      tokenizer: { type: 'string', value: 'DIR', help: 'directory with tokenizer.json and tokenizer_config.json' },
      gpu: { type: 'string', value: 'NAME', help: `what it is like: ${GPU_NAMES.join(', ')} (default h100-8b)` },
      speed: { type: 'string', value: 'X', help: 'X times as fast as the modelled GPU (default 1; 0: no waiting)' },
      seed: { type: 'string', value: 'N', help: 'seed of what it says (default 0)' },
      'kv-events-port': { type: 'string', value: 'N', help: 'port of its KV events (default: any free one), or off' },
      'kv-replay-port': { type: 'string', value: 'N', help: 'port that sends them again (default: any free one)' },
      'responses-store': { type: 'boolean', help: 'keeps the answers of /v1/responses' },
      runner: { type: 'string', value: 'NAME', help: 'generate, or pooling: serves embeddings (default generate)' },
    },
    more: 'Environment: PYTHONHASHSEED                  goes into the hashes of KV blocks, as in vLLM\n             VLLM_ENABLE_RESPONSES_API_STORE  1: as --responses-store',
    run: runSimulator,
  },
  why: {
    summary: 'one routing decision, in words',
    usage: 'why [DECISION-ID]',
    flags: {
      admin: { type: 'string', value: 'URL', help: `the router's admin door (default ${ADMIN_URL})` },
      last: { type: 'string', value: 'N', help: 'without an id: the newest N decisions (default 1)' },
    },
    more: 'The id is the answer’s x-warmpath-decision header, or the answer’s own id (chatcmpl-…, cmpl-…, resp_…).',
    positionals: true,
    run: runWhy,
  },
  key: {
    summary: 'API keys of the edge on this machine',
    usage: 'key create --tenant NAME',
    flags: {
      tenant: { type: 'string', value: 'NAME', help: 'who the key belongs to' },
      name: { type: 'string', value: 'TEXT', help: 'a note to know the key by' },
      model: {
        type: 'string',
        multiple: true,
        value: 'NAME',
        help: 'a model that the key may use (default: all); may repeat',
      },
      expires: { type: 'string', value: 'DATE', help: 'when it stops working, like 2027-01-31' },
    },
    positionals: true,
    run: runKey,
  },
}

async function runUp(values: FlagValues): Promise<void> {
  const pods = number(values, 'pods', 1, PODS_MAX)
  const engines = texts(values, 'engine')
  if (pods !== undefined && engines.length > 0) throw new UserError('--pods and --engine exclude each other: drop one')
  const { up } = await import('./up.ts')
  const ended = stopSignal()
  const stop = await Promise.race([
    up({
      edgePort: number(values, 'port', 1, 65_535) ?? 8787,
      routerPort: port(values, 'router-port'),
      adminPort: port(values, 'admin-port'),
      podPort: number(values, 'pod-port', 0, 65_536 - (pods ?? PODS_DEFAULT)) ?? 8101,
      pods: pods ?? PODS_DEFAULT,
      engines,
      configFile: text(values, 'config'),
      model: text(values, 'model') ?? 'sim-8b',
      gpu: choice(values, 'gpu', GPU_NAMES) ?? 'h100-8b',
      speed: number(values, 'speed', 0, 1_000, false) ?? 1,
      redis: text(values, 'redis') ?? process.env.REDIS_URL,
      cacheEnabled: process.env.CACHE_ENABLED,
      env: process.env,
      print: (line) => process.stdout.write(`${line}\n`),
      onFailure: (message) => {
        process.stderr.write(`warmpath: ${message}\n`)
        process.exitCode = 1
        process.emit('SIGTERM')
      },
    }),
    ended.then(() => undefined),
  ])
  if (stop) {
    await ended
    await stop()
  }
  process.exit()
}

async function runRouter(values: FlagValues): Promise<void> {
  const vllmPort = port(values, 'vllm-port')
  const file = text(values, 'config')
  const over = {
    host: text(values, 'host'),
    port: port(values, 'port'),
    adminHost: text(values, 'admin-host'),
    adminPort: port(values, 'admin-port'),
    logLevel: choice(values, 'log-level', LOG_LEVELS),
    edgeKeys: process.env.EDGE_SIGNING_KEYS,
    allowUnsigned: isOn(values, 'allow-unsigned'),
    endpoints: [...texts(values, 'endpoint'), ...(vllmPort === undefined ? [] : [`http://127.0.0.1:${vllmPort}`])],
    kvManager: text(values, 'kv-manager') ?? process.env.KV_CACHE_MANAGER_URL,
    loadMonitor: text(values, 'load-monitor'),
    seed: number(values, 'seed', 0, 2 ** 32 - 1),
    cacheEnabled: process.env.CACHE_ENABLED,
    redis: text(values, 'redis') ?? process.env.REDIS_URL,
    podIp: podIp(),
  }
  const config = loadRouterConfig(file, over)
  const { createLog } = await import('./log.ts')
  const { startRouter } = await import('./router.ts')
  const log = createLog(config.logLevel)
  const reload = file === undefined ? undefined : { file, read: (text: string) => loadRouterConfig(file, over, text) }
  const router = await startRouter(config, log, undefined, reload)
  const signal = await stopSignal()
  log.info({ signal, drainMs: config.timeouts.drainMs }, 'draining')
  await router.close()
  log.info('ended')
}

async function runLoadMonitor(values: FlagValues): Promise<void> {
  const file = text(values, 'config')
  const over = {
    host: text(values, 'host'),
    logLevel: choice(values, 'log-level', LOG_LEVELS),
    endpoints: texts(values, 'endpoint'),
    podIp: podIp(),
    // It takes no requests for engines: nobody has to sign anything.
    allowUnsigned: true,
  }
  const config = loadRouterConfig(file, over)
  const { createLog } = await import('./log.ts')
  const { startLoadMonitor } = await import('./load-monitor/server.ts')
  const { watchConfig } = await import('./config-watch.ts')
  const log = createLog(config.logLevel)
  const monitor = await startLoadMonitor(
    {
      host: config.host,
      port: port(values, 'port') ?? 9090,
      endpoints: config.endpoints,
      dcgmPort: number(values, 'dcgm-port', 1, 65_535),
    },
    log,
  )
  const watch =
    file === undefined
      ? undefined
      : watchConfig(
          file,
          (content) => monitor.replace(loadRouterConfig(file, over, content).endpoints),
          (message) => log.error({ file, message }, 'the configuration has a fault; the pods before are watched on'),
        )
  const signal = await stopSignal()
  watch?.close()
  log.info({ signal }, 'stopping')
  await monitor.close()
  log.info('ended')
}

async function runSimulator(values: FlagValues): Promise<void> {
  const { startSimulator } = await import('./simulator/server.ts')
  const models = texts(values, 'model')
  const given = {
    maxModelLen: number(values, 'max-model-len', 1, 100_000_000),
    maxNumSeqs: number(values, 'max-num-seqs', 1, 1_000_000),
    maxNumBatchedTokens: number(values, 'max-num-batched-tokens', 1, 100_000_000),
    kvCacheTokens: number(values, 'kv-cache-tokens', 1, 1e12),
    blockSize: number(values, 'block-size', 1, 65_536),
    apiKey: text(values, 'api-key'),
    tokenizerDir: text(values, 'tokenizer'),
    speed: number(values, 'speed', 0, 1_000, false),
    seed: number(values, 'seed', 0, 2 ** 32 - 1),
    gpu: choice(values, 'gpu', GPU_NAMES),
    kvEventsPort: text(values, 'kv-events-port') === 'off' ? 'off' : port(values, 'kv-events-port'),
    kvReplayPort: port(values, 'kv-replay-port'),
    responsesStore: isOn(values, 'responses-store') || Number(process.env.VLLM_ENABLE_RESPONSES_API_STORE ?? 0) !== 0,
    runner: choice(values, 'runner', RUNNERS),
    hashSeed: process.env.PYTHONHASHSEED,
    models: models.length > 0 ? models : undefined,
  }
  const options = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  const simulator = await startSimulator({
    ...options,
    host: text(values, 'host') ?? podIp() ?? '127.0.0.1',
    port: port(values, 'port') ?? 8000,
  })
  const { kvEvents } = simulator
  const events = kvEvents ? ` with KV events on port ${kvEvents.port} and their replay on ${kvEvents.replayPort}` : ''
  process.stdout.write(`simulated vLLM listens on ${simulator.url}${events}\n`)
  await stopSignal()
  await simulator.close()
}

async function runWhy(values: FlagValues, [id]: readonly string[]): Promise<void> {
  const admin = text(values, 'admin') ?? ADMIN_URL
  const last = number(values, 'last', 1, 1_000) ?? 1
  const path = id === undefined ? `/decisions?limit=${last}` : `/decisions/${encodeURIComponent(id)}`
  let answer: Response
  try {
    answer = await fetch(new URL(path, admin), { headers: { accept: 'text/plain' } })
  } catch {
    throw new UserError(`no router answers at ${admin}: start one, or name its admin door with --admin URL`)
  }
  const words = await answer.text()
  if (!answer.ok) throw new UserError(words.trim())
  process.stdout.write(words === '' ? 'no decision was made yet\n' : words)
}

async function runKey(values: FlagValues, [verb, ...rest]: readonly string[]): Promise<void> {
  if (verb !== 'create' || rest.length > 0) throw new UserError('say: warmpath key create --tenant NAME')
  const tenant = text(values, 'tenant')
  if (tenant === undefined) throw new UserError('--tenant is missing: warmpath key create --tenant NAME')
  const expires = text(values, 'expires')
  if (expires !== undefined && Number.isNaN(Date.parse(expires))) {
    throw new UserError(`--expires ${expires}: expected a date like 2027-01-31`)
  }
  const name = text(values, 'name')
  const models = texts(values, 'model')
  const { createLocalKey } = await import('./keys.ts')
  const key = await createLocalKey({
    tenant,
    ...(name === undefined ? {} : { name }),
    ...(models.length === 0 ? {} : { models }),
    ...(expires === undefined ? {} : { expiresAt: new Date(expires).toISOString() }),
  })
  process.stdout.write(`${key}\n`)
}

/** A terminal and npm both pass a Ctrl-C on: only what comes later than this is a second one. */
const SECOND_SIGNAL_AFTER_MS = 500

/** Resolves at the first signal that asks to stop; a second Ctrl-C stops at once. */
function stopSignal(): Promise<string> {
  return new Promise((resolve) => {
    let askedAtMs: number | undefined
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.on(signal, () => {
        if (askedAtMs === undefined) askedAtMs = performance.now()
        else if (signal === 'SIGINT' && performance.now() - askedAtMs > SECOND_SIGNAL_AFTER_MS) process.exit(130)
        resolve(signal)
      })
    }
  })
}

function podIp(): string | undefined {
  const address = process.env.POD_IP
  if (address === undefined || address === '') return undefined
  if (isIP(address) === 0) throw new UserError(`POD_IP is ${address}: expected an IP address`)
  return address
}

function overview(): string {
  const width = Math.max(...Object.keys(COMMANDS).map((name) => name.length))
  const rows = Object.entries(COMMANDS).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`)
  return `usage: warmpath COMMAND [flags]\n\n${rows.join('\n')}\n\nwarmpath COMMAND --help tells more.\n`
}

// wrangler has no other way to be told: nothing here calls home, and its progress is not what a command prints.
process.env.WRANGLER_SEND_METRICS = 'false'
process.env.CLOUDFLARE_CF_FETCH_ENABLED = 'false'
process.env.WRANGLER_LOG ??= 'error'
// A reader like `head` may close our stdout: no reason to fall over what still has to be stopped.
process.stdout.on('error', () => process.emit('SIGTERM'))

async function main([name, ...args]: readonly string[]): Promise<void> {
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    process.stdout.write(overview())
    return
  }
  const command = COMMANDS[name]
  if (!command) throw new UserError(`there is no command ${name}; there are ${Object.keys(COMMANDS).join(', ')}`)
  const { values, positionals } = parseFlags(name, command.flags, args, command.positionals ?? false)
  if (values.help) {
    const more = command.more === undefined ? '' : `\n${command.more}\n`
    process.stdout.write(
      `usage: warmpath ${command.usage}\n${command.summary}\n\n${describeFlags(command.flags)}\n${more}`,
    )
    return
  }
  await command.run(values, positionals)
}

main(process.argv.slice(2)).catch((error: unknown) => {
  if (error instanceof UserError) process.stderr.write(`warmpath: ${error.message}\n`)
  else process.stderr.write(`warmpath: ${error instanceof Error ? error.stack : String(error)}\n`)
  process.exit(1)
})
