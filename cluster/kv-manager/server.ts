// The KV-Cache Manager as a service of its own: follows the pods' KV events, and says what each holds of a prompt.
import { createServer } from 'node:http'
import type { Logger } from 'pino'
import { Registry } from 'prom-client'
import { systemClock } from '../../shared/clock.ts'
import { createConnections } from '../endpoints/connections.ts'
import type { Endpoint } from '../endpoints/endpoint.ts'
import { startMonitor } from '../endpoints/monitor.ts'
import { createEndpointSet } from '../endpoints/set.ts'
import { type KnowledgeConfig, startPromptKnowledge } from '../epp/prompt-knowledge.ts'
import { registerCacheMetrics } from '../kv/metrics.ts'
import { listen, stopper } from '../listen.ts'
import { tell } from '../log.ts'
import { createKvDoor, KV_PATHS } from './door.ts'

export type KvManagerOptions = KnowledgeConfig & {
  readonly host: string
  /** 0 takes any free port. */
  readonly port: number
  /** May be empty where pods dial. */
  readonly endpoints: readonly Endpoint[]
  /** Longest wait for a prompt's token ids. */
  readonly tokenizeMs: number
}

export type KvManager = {
  readonly port: number
  /** Resolves when every pod was asked once, and its events looked for. */
  readonly firstRound: Promise<void>
  /** The pods from now on. */
  readonly replace: (endpoints: readonly Endpoint[]) => void
  /** Says it is not ready, finishes what is being answered, ends. */
  readonly close: () => Promise<void>
}

/** Answers are small: who has not taken one by then is gone. */
const CLOSE_GRACE_MS = 1_000

/** Starts following and serving; throws UserError when a port is taken, which names the flag that chooses another. */
export async function startKvManager(options: KvManagerOptions, log: Logger, portFlag = '--port'): Promise<KvManager> {
  const { host, port: wantedPort, endpoints: pods, tokenizeMs } = options
  const nowMs = systemClock.monotonicMs
  const endpoints = createEndpointSet(pods, nowMs)
  const connections = createConnections(pods)
  const onEvent = (event: { readonly type: string }): void => tell(log, event)
  const known = await startPromptKnowledge(options, {
    connections,
    endpoints,
    nowMs,
    epochMs: systemClock.epochMs,
    budgetMs: () => tokenizeMs,
    onEvent,
  })
  const { caches, tokenizer } = known
  const registry = new Registry()
  registerCacheMetrics(registry, caches, endpoints.ids)
  const door = createKvDoor({
    models: () => [...new Set([...caches.index.models(), ...baseModels()])],
    adapterOf: known.adapterOf,
    tokenize: tokenizer.tokenize,
    match: caches.index.match,
    feed: caches.feed,
    snapshot: caches.snapshot,
  })
  function baseModels(): readonly string[] {
    return endpoints.snapshot().flatMap(({ baseModel }) => baseModel ?? [])
  }

  let ready = false
  const server = createServer((req, res) => {
    const send = (status: number, text: string): void => {
      res.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' })
      res.end(text)
    }
    // An unusual path like `//` is no URL to the parser.
    const url = URL.parse(req.url ?? '/', 'http://kv-manager')
    if (!url) return send(400, 'this is not a path\n')
    if (door(url, req, res)) return
    if (req.method !== 'GET' && req.method !== 'HEAD') {
      res.setHeader('allow', 'GET, HEAD')
      return send(405, 'only GET here\n')
    }
    if (url.pathname === '/healthz') return send(200, 'ok\n')
    if (url.pathname === '/readyz') return ready ? send(200, 'ready\n') : send(503, 'not ready\n')
    if (url.pathname !== '/metrics') return send(404, `here are ${KV_PATHS}, /metrics, /healthz and /readyz\n`)
    registry.metrics().then(
      (page) => {
        res.writeHead(200, { 'content-type': registry.contentType })
        res.end(page)
      },
      () => res.destroy(),
    )
  })
  const stopServer = stopper(server)
  let port: number
  try {
    port = await listen(server, host, wantedPort, 'the KV-Cache Manager', portFlag)
  } catch (error) {
    await known.close()
    throw error
  }
  const monitor = startMonitor({
    endpoints,
    connections,
    nowMs,
    onEvent(event) {
      known.heard(event)
      onEvent(event)
    },
    onScrape: () => undefined,
  })
  log.info({ host, port, endpoints: endpoints.ids(), bound: caches.bound?.address }, 'KV-Cache Manager listens')
  let closing = false
  const firstRound = monitor.firstRound.then(known.follow).then(() => {
    ready = !closing
  })

  return {
    port,
    firstRound,
    replace(wanted) {
      const { added, removed, changed } = endpoints.replace(wanted)
      connections.replace(wanted)
      if (added.length + removed.length + changed.length === 0) return
      for (const id of removed) known.forget(id)
      log.info({ added, removed, changed }, 'configuration read again')
      void monitor.refresh().then(known.follow)
    },
    async close() {
      closing = true
      ready = false
      monitor.stop()
      await stopServer(CLOSE_GRACE_MS)
      await known.close()
      await connections.close()
    },
  }
}
