// The program: one entry, several commands. The only reader of process.env and argv; wires, starts, drains.
import { isIP } from 'node:net'
import { loadRouterConfig } from './config.ts'
import { LOG_LEVELS } from './config-file.ts'
import { choice, describeFlags, type FlagValues, isOn, number, parseFlags, port, text, texts } from './flags.ts'
import { ADMIN_URL, type CommandHelp, HELP } from './help.ts'
import { faultsOfFlags } from './simulator/faults.ts'
import { PODS_MAX, presetOf } from './simulator-command.ts'
import { UserError } from './user-error.ts'

const PODS_DEFAULT = 3

type Run = (values: FlagValues, positionals: readonly string[]) => Promise<void>

const RUN: Readonly<Record<keyof typeof HELP, Run>> = {
  up: runUp,
  router: runRouter,
  'load-monitor': runLoadMonitor,
  'kv-manager': runKvManager,
  events: runEvents,
  doctor: runDoctor,
  simulator: runSimulator,
  why: runWhy,
  key: runKey,
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
      preset: presetOf(values),
      faults: faultsOfFlags(texts(values, 'fault')),
      faultPort: port(values, 'fault-port'),
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
    tokenizers: texts(values, 'tokenizer'),
    modelsDirectory: text(values, 'models-dir'),
    ...kvOverrides(values),
    scorePort: port(values, 'score-port'),
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

/** Where KV events come from and how long they count, from flags and the guide's variables. */
function kvOverrides(values: FlagValues) {
  return {
    kvBind: text(values, 'zmq-bind') ?? process.env.ZMQ_BIND_ADDRESS,
    cacheTtlSeconds: text(values, 'cache-ttl-seconds') ?? process.env.CACHE_TTL_SECONDS,
    snapshotFrom: text(values, 'snapshot-from'),
  }
}

async function runKvManager(values: FlagValues): Promise<void> {
  const file = text(values, 'config')
  const over = {
    host: text(values, 'host'),
    logLevel: choice(values, 'log-level', LOG_LEVELS),
    endpoints: texts(values, 'endpoint'),
    podIp: podIp(),
    tokenizers: texts(values, 'tokenizer'),
    modelsDirectory: text(values, 'models-dir'),
    ...kvOverrides(values),
    // It takes no requests for engines: nobody has to sign anything.
    allowUnsigned: true,
    // Pods may dial.
    mayLackEndpoints: true,
  }
  const config = loadRouterConfig(file, over)
  if (config.endpoints.length === 0 && config.kv.bind === undefined) {
    throw new UserError(
      'nobody to hear of: name the vLLM servers with --endpoint http://host:port or in --config, or let them dial with --zmq-bind tcp://*:5555',
    )
  }
  const { createLog } = await import('./log.ts')
  const { startKvManager } = await import('./kv-manager/server.ts')
  const { watchConfig } = await import('./config-watch.ts')
  const log = createLog(config.logLevel)
  const { host, endpoints, tokenizers, kv, timeouts } = config
  const manager = await startKvManager(
    {
      host,
      port: port(values, 'port') ?? kv.scorePort ?? portOfEnvironment('HTTP_PORT') ?? 8080,
      endpoints,
      tokenizers,
      kv,
      tokenizeMs: timeouts.tokenizeMs,
    },
    log,
  )
  const watch =
    file === undefined
      ? undefined
      : watchConfig(
          file,
          (content) => manager.replace(loadRouterConfig(file, over, content).endpoints),
          (message) => log.error({ file, message }, 'the configuration has a fault; the pods before are followed on'),
        )
  const signal = await stopSignal()
  watch?.close()
  log.info({ signal }, 'stopping')
  await manager.close()
  log.info('ended')
}

function portOfEnvironment(name: string): number | undefined {
  const given = process.env[name]
  if (given === undefined || given === '') return undefined
  const number = Number(given)
  if (!Number.isInteger(number) || number < 0 || number > 65_535)
    throw new UserError(`${name}=${given}: expected a port`)
  return number
}

async function runEvents(values: FlagValues): Promise<void> {
  const { watchEvents } = await import('./events-command.ts')
  const stop = new AbortController()
  void stopSignal().then(() => stop.abort())
  await watchEvents({
    url: text(values, 'admin') ?? ADMIN_URL,
    endpoints: texts(values, 'endpoint'),
    types: texts(values, 'type'),
    json: isOn(values, 'json') === true,
    print: (line) => process.stdout.write(`${line}\n`),
    signal: stop.signal,
  })
}

async function runDoctor(values: FlagValues, [what, ...rest]: readonly string[]): Promise<void> {
  const engine = text(values, 'engine')
  if (what !== 'kv' || rest.length > 0 || engine === undefined) {
    throw new UserError('say: warmpath doctor kv --engine http://host:port')
  }
  const { runKvDoctor } = await import('./doctor/command.ts')
  const healthy = await runKvDoctor({
    engine,
    apiKey: text(values, 'api-key'),
    model: text(values, 'model'),
    events: text(values, 'events'),
    replay: text(values, 'replay'),
    tokenizer: text(values, 'tokenizer'),
    json: isOn(values, 'json') === true,
    print: (line) => process.stdout.write(`${line}\n`),
  })
  process.exit(healthy ? 0 : 1)
}

async function runSimulator(values: FlagValues, positionals: readonly string[]): Promise<void> {
  const { runSimulator: run } = await import('./simulator-command.ts')
  await run(values, positionals, { env: process.env, podIp: podIp(), stopped: stopSignal })
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
  const width = Math.max(...Object.keys(HELP).map((name) => name.length))
  const rows = Object.entries(HELP).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`)
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
  if (!isCommand(name)) throw new UserError(`there is no command ${name}; there are ${Object.keys(HELP).join(', ')}`)
  const command: CommandHelp = HELP[name]
  const { values, positionals } = parseFlags(name, command.flags, args, command.positionals ?? false)
  if (values.help) {
    const more = command.more === undefined ? '' : `\n${command.more}\n`
    process.stdout.write(
      `usage: warmpath ${command.usage}\n${command.summary}\n\n${describeFlags(command.flags)}\n${more}`,
    )
    return
  }
  await RUN[name](values, positionals)
}

function isCommand(name: string): name is keyof typeof HELP {
  return Object.hasOwn(HELP, name)
}

main(process.argv.slice(2)).catch((error: unknown) => {
  if (error instanceof UserError) process.stderr.write(`warmpath: ${error.message}\n`)
  else process.stderr.write(`warmpath: ${error instanceof Error ? error.stack : String(error)}\n`)
  process.exit(1)
})
