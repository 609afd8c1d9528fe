// Everything on this machine: simulated pods (or your vLLM servers), the router, the edge, and a key to try them with.
import { mkdirSync, rmSync } from 'node:fs'
import { join, relative } from 'node:path'
import { ADMIN_PORT_DEFAULT, loadRouterConfig } from './config.ts'
import { startEdge } from './edge-process.ts'
import { localSecrets, STATE_DIR, storeLocalKey } from './keys.ts'
import { createLog } from './log.ts'
import { startRouter } from './router.ts'
import type { FaultDoor } from './simulator/fault-door.ts'
import type { Faults } from './simulator/faults.ts'
import type { SimulatedPod } from './simulator/pods.ts'
import type { Preset } from './simulator/preset.ts'
import { UserError } from './user-error.ts'

export type UpOptions = {
  readonly edgePort: number
  readonly routerPort: number | undefined
  readonly adminPort: number | undefined
  readonly podPort: number
  readonly pods: number
  /** Real vLLM servers in the pods' place. */
  readonly engines: readonly string[]
  readonly configFile: string | undefined
  readonly model: string
  readonly preset: Preset
  /** Of the simulated pods from the start on, and where more can be set. */
  readonly faults: Faults
  readonly faultPort: number | undefined
  readonly speed: number
  /** For the router's response cache, see RouterOverrides. */
  readonly redis: string | undefined
  readonly cacheEnabled: string | undefined
  /** For the processes it starts. */
  readonly env: NodeJS.ProcessEnv
  readonly print: (text: string) => void
  /** A part ended by itself: the rest makes no sense without it. */
  readonly onFailure: (message: string) => void
}

const DEMO_TENANT = 'demo'

/** Starts all of it; resolves with what stops all of it. Throws UserError, with nothing left running. */
export async function up(options: UpOptions): Promise<() => Promise<void>> {
  const stops: (() => Promise<void>)[] = []
  const stopAll = async () => {
    await Promise.all(stops.splice(0).map((stop) => stop()))
  }
  try {
    await start(options, stops)
    return stopAll
  } catch (error) {
    await stopAll()
    throw error
  }
}

async function start(options: UpOptions, stops: (() => Promise<void>)[]): Promise<void> {
  const { edgePort, routerPort, adminPort, engines, configFile, redis, cacheEnabled, print } = options
  const secrets = localSecrets()
  const keyStored = storeLocalKey(secrets.demoKey, { tenant: DEMO_TENANT, name: 'made by up' })
  // It is awaited below; a failure before that must not end the process as unhandled.
  keyStored.catch(() => undefined)
  const logDir = join(STATE_DIR, 'logs', String(edgePort))
  // Of this run alone: nobody clears up after a newcomer.
  rmSync(logDir, { recursive: true, force: true })
  mkdirSync(logDir, { recursive: true })

  const pods = await startSimulated(options, stops)
  const door = pods.length > 0 ? await openDoor(pods, options, stops) : undefined
  const over = {
    host: '127.0.0.1',
    port: routerPort,
    adminPort,
    edgeKeys: secrets.edgeKeys,
    redis,
    cacheEnabled,
    endpoints: [...engines, ...pods.map(({ url }) => url)],
  }
  const config = loadRouterConfig(configFile, over)
  const log = createLog(config.logLevel, join(logDir, 'router.log'))
  const flags = { port: '--router-port', adminPort: '--admin-port' }
  const reload =
    configFile === undefined
      ? undefined
      : { file: configFile, read: (text: string) => loadRouterConfig(configFile, over, text) }
  const router = await startRouter(config, log, flags, reload)
  stops.push(() => router.close({ drainNoticeMs: 0, drainMs: 500 }))
  await Promise.all([keyStored, router.firstRound])
  const edge = await startEdge({
    port: edgePort,
    routerUrl: `http://127.0.0.1:${router.port}`,
    secretsFile: secrets.file,
    logFile: join(logDir, 'edge.log'),
    env: { ...options.env, NO_COLOR: '1' },
    onExit: options.onFailure,
  })
  stops.push(edge.close)

  const rows = [
    ['edge', edge.url, 'OpenAI API; key below'],
    ['router', `http://127.0.0.1:${router.port}`, 'takes only what the edge signed'],
    ['admin', `http://127.0.0.1:${router.adminPort}`, '/decisions, /endpoints, /accuracy, /metrics; no key'],
    ...config.endpoints.map(({ origin }, index) => [
      pods.length > 0 ? `pod ${index + 1}` : `engine ${index + 1}`,
      origin,
      pods.length > 0 ? `simulated vLLM, model ${options.model}` : 'vLLM',
    ]),
    ...(door ? [['faults', door.url, 'makes pods fail: GET / says how; no key']] : []),
    ['key', secrets.demoKey, `tenant ${DEMO_TENANT}`],
    ['logs', relative(process.cwd(), logDir), ''],
  ] as const
  print(`\n${table(rows)}\n`)
  const models = await modelsOf(edge.url, secrets.demoKey)
  const [model] = models
  if (model !== undefined) print(`${exampleCall(edge.url, secrets.demoKey, model)}\n`)
  else
    print(
      `No engine has answered yet: check ${config.endpoints.map(({ origin }) => `${origin}/v1/models`).join(', ')}\n`,
    )
  const admin = router.adminPort === ADMIN_PORT_DEFAULT ? '' : ` --admin http://127.0.0.1:${router.adminPort}`
  print(`Why did it go there?  npm run -s warmpath -- why${admin}\nCtrl-C stops everything.\n`)
}

async function startSimulated(options: UpOptions, stops: (() => Promise<void>)[]): Promise<readonly SimulatedPod[]> {
  const { engines, configFile, pods: count, podPort, model, preset, speed, faults } = options
  if (engines.length > 0 || (configFile !== undefined && hasEndpoints(configFile))) return []
  const { startPods } = await import('./simulator/pods.ts')
  const pod = { port: podPort, models: [model], preset, speed, seed: 1, responsesStore: true }
  const pods = await startPods(count, pod, faults, (error) => options.onFailure((error as Error).message), '--pod-port')
  stops.push(...pods.map(({ close }) => close))
  return pods
}

async function openDoor(
  pods: readonly SimulatedPod[],
  { faultPort }: UpOptions,
  stops: (() => Promise<void>)[],
): Promise<FaultDoor> {
  const { openFaultDoor } = await import('./simulator/fault-door.ts')
  const door = await openFaultDoor(pods, faultPort ?? 0)
  stops.push(door.close)
  return door
}

function hasEndpoints(configFile: string): boolean {
  // Loaded with a stand-in first: a file without endpoints is fine here, the simulated pods are them.
  const standIn = 'http://127.0.0.1:1'
  const over = { host: '127.0.0.1', endpoints: [standIn] }
  loadRouterConfig(configFile, over)
  try {
    return loadRouterConfig(configFile, { host: '127.0.0.1' }).endpoints.length > 0
  } catch {
    return false
  }
}

/** Asked through the edge, with the key: what is printed is known to work. */
async function modelsOf(edgeUrl: string, key: string): Promise<readonly string[]> {
  const answer = await fetch(`${edgeUrl}/v1/models`, { headers: { authorization: `Bearer ${key}` } })
  if (!answer.ok) throw new UserError(`the edge answers ${answer.status} to its own key: ${await answer.text()}`)
  const { data } = (await answer.json()) as { data?: readonly { readonly id: string }[] }
  return data?.map(({ id }) => id) ?? []
}

function exampleCall(edgeUrl: string, key: string, model: string): string {
  const body = JSON.stringify({
    model,
    stream: true,
    messages: [{ role: 'user', content: 'Tell me about warm caches.' }],
  })
  return `curl -N ${edgeUrl}/v1/chat/completions -H 'authorization: Bearer ${key}' -H 'content-type: application/json' -d '${body}'`
}

function table(rows: readonly (readonly string[])[]): string {
  const widths = [0, 1].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}
