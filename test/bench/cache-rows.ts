// What the benchmark of the response cache measures: for each row its processes, and what is asked of them.
import { JSON_ANSWER } from './answers.ts'
import {
  buildWorker,
  type EdgeSecrets,
  edgeKeysOf,
  makeEdgeSecrets,
  SIGNING_KEY_ID,
  startWorker,
  writePassThrough,
} from './edge.ts'
import type { Expected } from './load.ts'
import { NO_NGINX, startBenchRouter, startEngine, startNginx } from './peers.ts'
import { CORE_OF_THE_REST, type Process, type Processes, type Subject } from './processes.ts'
import { type ChatOptions, chatRequest, type Request, signedRequest } from './requests.ts'
import { startSomeRedis } from './some-redis.ts'
import { FORWARDED, FROM, type Hits, storeAnswer } from './stored.ts'

export type Case = {
  readonly name: string
  readonly subject: Subject
  readonly request: Request
  /** Before each measured stretch: what is to be found stored is stored anew. */
  readonly expected: () => Promise<Expected | Hits>
}

export type Cases = { readonly cases: readonly Case[]; readonly notes: readonly string[] }

export type Row = {
  readonly about: string
  readonly connections: number
  /** Cases that the others are divided by. */
  readonly bases: readonly string[]
  readonly start: (processes: Processes) => Promise<Cases>
}

const SMALL_BYTES = 2_048
const LARGE_BYTES = 400_000
const SMALL_CALLERS = 64
const LARGE_CALLERS = 16
/** Nobody streams from it here. */
const ENGINE = { tokens: 1, intervalMs: 1 }

const NO_STORE = { 'cache-control': 'no-store' }
const NO_CACHE = { 'cache-control': 'no-cache' }
const CALLER = { authorization: 'Bearer bench' }

const NGINX = 'nginx, forwarded'
const ROUTER = 'router, forwarded'
const PASS_THROUGH = 'pass-through Worker'
const MEMORY = 'router, hit in memory'
const UNSIGNED = 'router, unsigned'

export const ROWS = {
  memory: {
    about: `2 KB chat, hit in the router's memory, ${SMALL_CALLERS} callers`,
    connections: SMALL_CALLERS,
    bases: [NGINX, ROUTER],
    async start(processes) {
      const { engineUrl, nginx, notes } = await startPeers(processes)
      const router = await startBenchRouter(processes, engineUrl)
      const cases = [
        ...nginxCase(nginx, SMALL_BYTES),
        forwardedCase(ROUTER, router, SMALL_BYTES),
        missCase('router, missed and kept', router, SMALL_BYTES),
        hitCase(MEMORY, router, FROM.memory, SMALL_BYTES, CALLER),
        hitCase('router, the same streamed', router, FROM.memory, SMALL_BYTES, CALLER, true),
      ]
      return { cases, notes }
    },
  },
  redis: {
    about: `2 KB chat, hit in Redis, ${SMALL_CALLERS} callers`,
    connections: SMALL_CALLERS,
    bases: [ROUTER, MEMORY],
    async start(processes) {
      const engineUrl = await startEngineUrl(processes)
      const redis = await startSomeRedis(processes)
      const near = await startBenchRouter(processes, engineUrl, { settings: cacheSettings({ redis: redis.url }) })
      const settings = cacheSettings({ redis: redis.url, memoryBytes: 0 })
      const far = await startBenchRouter(processes, engineUrl, { settings })
      const cases = [
        forwardedCase(ROUTER, far, SMALL_BYTES),
        hitCase(MEMORY, near, FROM.memory, SMALL_BYTES, CALLER),
        hitCase('router, hit in Redis', far, FROM.redis, SMALL_BYTES, CALLER),
      ]
      return { cases, notes: [`redis: ${redis.about}; its own CPU time is not counted`] }
    },
  },
  prompt400k: {
    about: `400 KB chat, hit in the router's memory, ${LARGE_CALLERS} callers`,
    connections: LARGE_CALLERS,
    bases: [NGINX, ROUTER],
    async start(processes) {
      const { engineUrl, nginx, notes } = await startPeers(processes)
      const router = await startBenchRouter(processes, engineUrl)
      const cases = [
        ...nginxCase(nginx, LARGE_BYTES),
        forwardedCase(ROUTER, router, LARGE_BYTES),
        hitCase(MEMORY, router, FROM.memory, LARGE_BYTES, CALLER),
      ]
      return { cases, notes }
    },
  },
  edge: {
    about: `2 KB chat at the edge, in workerd, ${LARGE_CALLERS} callers`,
    connections: LARGE_CALLERS,
    bases: [PASS_THROUGH],
    async start(processes) {
      const { edge, passThrough, secrets } = await startEdges(processes)
      const caller = { authorization: `Bearer ${secrets.apiKey}` }
      const cases = [
        forwardedCase(PASS_THROUGH, passThrough, SMALL_BYTES, caller),
        forwardedCase('edge, forwarded', edge, SMALL_BYTES, caller),
        hitCase('edge, hit', edge, FROM.edge, SMALL_BYTES, caller),
        hitCase('edge, the same streamed', edge, FROM.edge, SMALL_BYTES, caller, true),
      ]
      const note =
        "edge: what a hit costs holds the Cache API that miniflare simulates within workerd, not Cloudflare's"
      return { cases, notes: [note] }
    },
  },
  edge400k: {
    about: `400 KB chat forwarded by the edge, in workerd, ${LARGE_CALLERS} callers`,
    connections: LARGE_CALLERS,
    bases: [PASS_THROUGH],
    async start(processes) {
      const { edge, passThrough, secrets } = await startEdges(processes)
      const caller = { authorization: `Bearer ${secrets.apiKey}` }
      const cases = [
        forwardedCase(PASS_THROUGH, passThrough, LARGE_BYTES, caller),
        forwardedCase('edge: read, salted, signed', edge, LARGE_BYTES, caller),
      ]
      return { cases, notes: [] }
    },
  },
  signed400k: {
    about: `400 KB chat forwarded by the router, ${LARGE_CALLERS} callers`,
    connections: LARGE_CALLERS,
    bases: [NGINX, UNSIGNED],
    async start(processes) {
      const { engineUrl, nginx, notes } = await startPeers(processes)
      const secrets = makeEdgeSecrets()
      const router = await startBenchRouter(processes, engineUrl, { settings: edgeSettings(secrets) })
      const key = { id: SIGNING_KEY_ID, secret: secrets.signingSecret, tenant: 'bench' }
      const expected = async () => FORWARDED
      const cases = [
        ...nginxCase(nginx, LARGE_BYTES),
        { name: UNSIGNED, subject: router, request: chatRequest(LARGE_BYTES, false, { same: true }), expected },
        { name: 'router, signed', subject: router, request: signedRequest(LARGE_BYTES, key), expected },
      ]
      return { cases, notes }
    },
  },
} as const satisfies Record<string, Row>

export type RowName = keyof typeof ROWS

/** Lines of a router's configuration. */
export function cacheSettings(cache: { readonly redis?: string; readonly memoryBytes?: number }): string[] {
  return [`cache: ${JSON.stringify(cache)}`]
}

/** The router takes what the edge signs, and from others what nobody signed. */
export function edgeSettings(secrets: EdgeSecrets): string[] {
  return [`edgeKeys: ${edgeKeysOf(secrets)}`, 'allowUnsigned: true']
}

async function startEngineUrl(processes: Processes): Promise<string> {
  return `http://127.0.0.1:${await startEngine(processes, ENGINE)}`
}

async function startPeers(
  processes: Processes,
): Promise<{ readonly engineUrl: string; readonly nginx: Process | undefined; readonly notes: readonly string[] }> {
  const port = await startEngine(processes, ENGINE)
  const nginx = await startNginx(processes, port)
  return { engineUrl: `http://127.0.0.1:${port}`, nginx, notes: nginx ? [] : [NO_NGINX] }
}

/** Both Workers stand before one router, which is not among the subjects. */
async function startEdges(
  processes: Processes,
): Promise<{ readonly edge: Process; readonly passThrough: Process; readonly secrets: EdgeSecrets }> {
  const secrets = makeEdgeSecrets()
  const options = { core: CORE_OF_THE_REST, settings: edgeSettings(secrets) }
  const router = await startBenchRouter(processes, await startEngineUrl(processes), options)
  const url = `http://127.0.0.1:${router.port}`
  const { directory } = processes
  const worker = await buildWorker(directory)
  const edge = await startWorker(processes, 'edge', worker, url, secrets, '/healthz')
  const file = writePassThrough(directory)
  const passThrough = await startWorker(processes, PASS_THROUGH, file, url, secrets, '/v1/models')
  return { edge, passThrough, secrets }
}

function nginxCase(nginx: Process | undefined, bytes: number): Case[] {
  const expected = { bytes: JSON_ANSWER.length, events: 0 }
  return nginx
    ? [{ name: NGINX, subject: nginx, request: chatRequest(bytes, false), expected: async () => expected }]
    : []
}

/** No cache is asked, and none keeps the answer. */
function forwardedCase(name: string, subject: Subject, bytes: number, caller: ChatOptions['headers'] = CALLER): Case {
  const request = chatRequest(bytes, false, { headers: { ...caller, ...NO_STORE }, temperature: 0 })
  return { name, subject, request, expected: async () => FORWARDED }
}

function missCase(name: string, subject: Subject, bytes: number): Case {
  const request = chatRequest(bytes, false, { headers: CALLER, temperature: 0 })
  return { name, subject, request, expected: async () => FORWARDED }
}

/** @param stream asks for the answer as a stream; it was computed whole. */
function hitCase(
  name: string,
  subject: Subject,
  from: RegExp,
  bytes: number,
  headers: Readonly<Record<string, string>>,
  stream = false,
): Case {
  const options = { temperature: 0, same: true }
  const request = chatRequest(bytes, stream, { ...options, headers })
  const storing = chatRequest(bytes, false, { ...options, headers: { ...headers, ...NO_CACHE } })
  return { name, subject, request, expected: () => storeAnswer(subject.port, storing, request, from) }
}
