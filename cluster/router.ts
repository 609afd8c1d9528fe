// The router, wired: endpoints and their monitor, the decision, the two doors. Starts, drains.
import { randomBytes, randomInt } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import type { Logger } from 'pino'
import { systemClock } from '../shared/clock.ts'
import { createRandom } from '../shared/random.ts'
import type { KeyRing } from '../shared/signature.ts'
import { createFlights } from './cache/flights.ts'
import { createMemoryTier } from './cache/memory.ts'
import { connectRedis } from './cache/redis.ts'
import { createResponseCache } from './cache/response-cache.ts'
import type { RouterConfig } from './config.ts'
import { watchConfig } from './config-watch.ts'
import { askEngine } from './endpoints/ask.ts'
import { type Connections, createConnections } from './endpoints/connections.ts'
import type { EndpointId } from './endpoints/endpoint.ts'
import { followLoadMonitor } from './endpoints/follow-load-monitor.ts'
import { startMonitor } from './endpoints/monitor.ts'
import { createEndpointSet, type EndpointSet } from './endpoints/set.ts'
import { createAccuracyLedger } from './epp/accuracy.ts'
import { createAdmission } from './epp/admission.ts'
import type { Profiles } from './epp/decide.ts'
import { createDecisionLog } from './epp/decision-log.ts'
import { createPins } from './epp/pins.ts'
import { createSessions } from './epp/sessions.ts'
import { createKvIndex } from './kv/kv-index.ts'
import { followRemoteIndex } from './kv/remote-index.ts'
import { createKvWatch, type KvWatchDeps } from './kv/watch.ts'
import { createSendLeg } from './legs/undici.ts'
import { listen, stopper } from './listen.ts'
import { createAdmin } from './proxy/admin.ts'
import { createIdentifyCaller } from './proxy/caller.ts'
import { createRouterMetrics } from './proxy/metrics.ts'
import { createBodyBudget } from './proxy/read-body.ts'
import { createProxy } from './proxy/server.ts'
import { buildProfile } from './scheduling/profile.ts'
import { createEngineTokenizer } from './tokens/engine-tokenizer.ts'
import { findTokenizerDirectory } from './tokens/find-directory.ts'
import { createRouterTokenizer } from './tokens/router-tokenizer.ts'

export type Router = {
  readonly port: number
  readonly adminPort: number
  /** Resolves when every endpoint was asked once what it serves. */
  readonly firstRound: Promise<void>
  /** Says it is not ready, then finishes what is in flight, then ends. Without times: those of the configuration. */
  readonly close: (times?: { readonly drainNoticeMs: number; readonly drainMs: number }) => Promise<void>
}

/** Where a router's configuration comes from, when it may change while it runs. */
export type Reload = {
  readonly file: string
  /** What this text of it configures. Throws UserError when it is wrong. */
  readonly read: (text: string) => RouterConfig
}

/** Starts both doors; throws UserError when a port is taken, which names the flag that chooses another. */
export async function startRouter(
  config: RouterConfig,
  log: Logger,
  flags = { port: '--port', adminPort: '--admin-port' },
  reload?: Reload,
): Promise<Router> {
  const nowMs = systemClock.monotonicMs
  const { epochMs } = systemClock
  // What may change while it runs; everything else is as it was at the start.
  let current = config
  let profiles = profilesOf(config)
  const connections = createConnections(config.endpoints)
  const endpoints = createEndpointSet(config.endpoints, nowMs)
  const admission = createAdmission(config.limits, nowMs)
  const decisions = createDecisionLog()
  const accuracy = createAccuracyLedger()
  const onEvent = (event: { readonly type: string }): void => tell(log, event)
  const index = createKvIndex()
  const watch = createKvWatch({ index, askSources: askerOf(connections), nowMs, onEvent })
  const memory = createMemoryTier(config.cache?.memoryBytes ?? 0)
  const metrics = createRouterMetrics({
    endpoints,
    admission,
    decisions,
    index,
    watch,
    memory,
    redisState: () => redis?.state(),
  })
  const redis =
    config.cache?.redis === undefined
      ? undefined
      : connectRedis(config.cache.redis, {
          nowMs,
          random: Math.random,
          onLookup: metrics.redisAsked,
          onSave: metrics.redisSaved,
          onEvent,
        })
  const remote =
    config.kvManager === undefined
      ? undefined
      : followRemoteIndex({ origin: config.kvManager, local: index.match, fetch, onEvent })
  const askTokenize = (to: EndpointId, body: Buffer, timeoutMs: number) =>
    askEngine(connections, to, { path: '/tokenize', body }, { timeoutMs, bytesMax: TOKENS_BYTES_MAX })
  const directories = tokenizerFinder(config, endpoints)
  const tokenizer = createRouterTokenizer({
    directoryOf: directories.directoryOf,
    baseOf: (model) => baseOf(endpoints, model),
    engine: createEngineTokenizer({
      askable: (model) => askableAbout(endpoints, model),
      ask: askTokenize,
      nowMs,
      budgetMs: () => current.timeouts.tokenizeMs,
    }),
    ask: (to, body) => askTokenize(to, body, PROBE_TIMEOUT_MS),
    nowMs,
    random: Math.random,
    budgetMs: () => current.timeouts.tokenizeMs,
    onEvent,
  })
  let notReady = false
  let draining = false

  const proxy = createProxy({
    profiles: () => profiles,
    endpoints,
    admission,
    identify: createIdentifyCaller(config.edgeKeys, config.allowUnsigned, epochMs),
    gather: {
      tokenize: tokenizer.tokenize,
      findPrefixes: remote?.findPrefixes ?? ((query) => ({ matches: index.match(query), by: undefined })),
      knowsCaches: () => watch.follows() || remote?.answers() === true,
    },
    caching: {
      policy: () => current.cache,
      cache: createResponseCache({ memory, redis, flights: createFlights(nowMs), epochMs, nowMs }),
      secret: cacheSecret(config),
      modelVersion: endpoints.modelVersion,
      onOutcome: metrics.cacheAsked,
      random: Math.random,
      onBug: (err) => log.error({ err }, 'internal error'),
      epochMs,
    },
    sessions: createSessions(nowMs),
    pins: createPins(pinSecrets(config)),
    send: createSendLeg(connections),
    decisions,
    accuracy,
    metrics,
    log,
    headerMs: config.timeouts.headerMs,
    timeouts: () => current.timeouts,
    bodyBytesMax: config.limits.bodyBytes,
    bodies: createBodyBudget(config.limits.bodiesBytes, config.limits.bodyBytes),
    random: createRandom(config.seed ?? randomInt(2 ** 32)),
    nowMs,
    epochMs,
    notReady: () => notReady,
    draining: () => draining,
  })
  const answering = () => endpoints.snapshot().some(({ models }) => models !== undefined)
  const admin = createAdmin({
    registry: metrics.registry,
    decisions,
    endpoints,
    accuracy,
    cacheOf: watch.sourcesOf,
    ready: () => !notReady && answering(),
  })

  const stopProxy = stopper(proxy)
  const stopAdmin = stopper(admin)
  const port = await listen(proxy, config.host, config.port, 'the router', flags.port)
  let adminPort: number
  try {
    adminPort = await listen(admin, config.admin.host, config.admin.port, "the router's admin door", flags.adminPort)
  } catch (error) {
    proxy.close()
    throw error
  }
  const follow = async (): Promise<void> => {
    await Promise.all(
      endpoints.snapshot().map(({ endpoint, baseModel }) => baseModel && watch.follow(endpoint, baseModel)),
    )
  }
  /** Whether the tokenizer here says what this engine says. */
  const verify = (id: EndpointId): void => {
    const base = endpoints.snapshot().find(({ endpoint }) => endpoint.id === id)?.baseModel
    if (base !== undefined) void tokenizer.verify(id, base)
  }
  const follower =
    config.loadMonitor === undefined ? undefined : followLoadMonitor(config.loadMonitor, { endpoints, nowMs, onEvent })
  const monitor = startMonitor({
    endpoints,
    connections,
    nowMs,
    ...(follower && { scrapedElsewhere: follower.covers }),
    onEvent(event) {
      if (event.type === 'models') {
        directories.lookAgain()
        void follow()
      }
      // After a restart it may have another template.
      if (event.type === 'models' || event.type === 'recovered') verify(event.endpoint)
      onEvent(event)
    },
    onScrape: metrics.scraped,
  })
  log.info({ host: config.host, port, adminPort, endpoints: endpoints.ids() }, 'router listens')

  let faulty = false
  function apply(next: RouterConfig): void {
    const cured = faulty
    faulty = false
    if (isDeepStrictEqual(next, current)) {
      if (!cured) return
      metrics.reloaded(true)
      log.info('the configuration has no fault any more: it is what is in effect')
      return
    }
    const { added, removed, changed } = endpoints.replace(next.endpoints)
    connections.replace(next.endpoints)
    for (const id of removed) {
      watch.unfollow(id)
      tokenizer.forget(id)
      accuracy.forget(id)
      metrics.forget(id)
    }
    void monitor.refresh().then(follow)
    profiles = profilesOf(next)
    log.level = next.logLevel
    proxy.headersTimeout = next.timeouts.headerMs
    proxy.requestTimeout = next.timeouts.headerMs * 2
    const restart: string[] = NEEDS_RESTART.filter((name) => !isDeepStrictEqual(current[name], next[name]))
    for (const name of CACHE_NEEDS_RESTART) {
      if (current.cache?.[name] !== next.cache?.[name]) restart.push(`cache.${name}`)
    }
    current = next
    metrics.reloaded(true)
    log.info({ added, removed, changed }, 'configuration read again')
    if (restart.length > 0) log.warn({ settings: restart }, 'changed settings that take effect after a restart')
  }
  const configWatch =
    reload &&
    watchConfig(
      reload.file,
      (text) => apply(reload.read(text)),
      (message) => {
        faulty = true
        metrics.reloaded(false)
        log.error({ file: reload.file, message }, 'the configuration has a fault; the one before stays in effect')
      },
    )

  return {
    port,
    adminPort,
    firstRound: monitor.firstRound.then(follow),
    async close({ drainNoticeMs, drainMs } = current.timeouts) {
      notReady = true
      configWatch?.close()
      if (drainNoticeMs > 0) await delay(drainNoticeMs)
      draining = true
      monitor.stop()
      remote?.close()
      await stopProxy(drainMs)
      // Last, so that who asks it sees the draining to its end.
      await Promise.all([stopAdmin(0), watch.close(), follower?.stop(), redis?.close(), tokenizer.close()])
      await connections.close()
    },
  }
}

/** Settings that a running router does not change. */
const NEEDS_RESTART = [
  'host',
  'port',
  'admin',
  'edgeKeys',
  'allowUnsigned',
  'limits',
  'seed',
  'kvManager',
  'loadMonitor',
  'tokenizers',
] as const satisfies readonly (keyof RouterConfig)[]

/** Of the cache everything else takes effect at once. */
const CACHE_NEEDS_RESTART = ['memoryBytes', 'redis'] as const

/** 128 k token ids are a megabyte of JSON. */
const TOKENS_BYTES_MAX = 32 * 1024 * 1024
/** For a probe of a few hundred tokens. */
const PROBE_TIMEOUT_MS = 10_000
const SOURCES_BYTES_MAX = 64 * 1024
const SOURCES_TIMEOUT_MS = 2_000

function profilesOf({ profiles }: RouterConfig): Profiles {
  return { decode: buildProfile('decode', profiles.decode) }
}

function askerOf(connections: Connections): KvWatchDeps['askSources'] {
  const limits = { timeoutMs: SOURCES_TIMEOUT_MS, bytesMax: SOURCES_BYTES_MAX }
  return (id) => askEngine(connections, id, { path: '/kv_event_sources' }, limits)
}

type DirectoryFinder = { readonly directoryOf: (model: string) => string | undefined; readonly lookAgain: () => void }

/** Looked for once for each model, until an engine says something else of its models. */
function tokenizerFinder({ tokenizers }: RouterConfig, endpoints: EndpointSet): DirectoryFinder {
  const found = new Map<string, string | undefined>()
  return {
    directoryOf(model) {
      if (found.has(model)) return found.get(model)
      const card = endpoints.modelList().find(({ id }) => id === model)
      if (card === undefined) return undefined
      const { root } = card
      const directory = findTokenizerDirectory(tokenizers, {
        id: model,
        root: typeof root === 'string' ? root : undefined,
      })
      found.set(model, directory)
      return directory
    },
    lookAgain: () => found.clear(),
  }
}

/** The model that an adapter stands for; any other name stands for itself. */
function baseOf(endpoints: EndpointSet, model: string): string {
  const view = endpoints.snapshot().find(({ models }) => models?.includes(model))
  return view?.adapters.includes(model) ? (view.baseModel ?? model) : model
}

/** Those first that are heard of, then the least busy: what is stale may be frozen, and looks idle. */
function askableAbout(endpoints: EndpointSet, model: string): readonly EndpointId[] {
  return endpoints
    .snapshot()
    .filter(({ models, availability }) => availability.state === 'available' && models?.includes(model))
    .sort((a, b) => Number(a.load.stale) - Number(b.load.stale) || a.load.activeRequests - b.load.activeRequests)
    .map(({ endpoint }) => endpoint.id)
}

/** Every router that shares the edge's keys reads the others' pins. Without keys there is no edge, and no other reader. */
function pinSecrets({ edgeKeys }: RouterConfig): readonly string[] {
  return edgeKeys ? currentFirst(edgeKeys) : [randomBytes(32).toString('hex')]
}

/**
 * Under which the keys of stored answers are made. Routers that share a Redis share it: the edge's keys, or what their
 * Redis' URL says, which most often holds a password.
 */
function cacheSecret({ edgeKeys, cache }: RouterConfig): string {
  if (edgeKeys) return edgeKeys.secrets.get(edgeKeys.currentId) as string
  return cache?.redis ?? randomBytes(32).toString('hex')
}

function currentFirst({ currentId, secrets }: KeyRing): readonly string[] {
  const others = [...secrets].filter(([id]) => id !== currentId).map(([, secret]) => secret)
  return [secrets.get(currentId) as string, ...others]
}

/** What an event is to a reader of the log: its level and its words. */
const TOLD = {
  models: ['info', 'endpoint lists its models'],
  ejected: ['warn', 'endpoint gets no new request until a probe succeeds'],
  recovered: ['info', 'endpoint is back'],
  'kv-source': ['info', 'follows KV events'],
  'kv-stream': ['info', 'KV event stream'],
  'kv-fault': ['warn', 'KV events that cannot be read'],
  'kv-none': ['info', 'no KV events: what this endpoint has cached is not known'],
  'kv-manager-answers': ['info', 'the KV-Cache Manager is asked what pods hold'],
  'kv-manager-lost': ['warn', 'the KV-Cache Manager does not answer; the index in this process stands in'],
  'load-monitor-answers': ['info', 'the load monitor tells the pods’ load'],
  'load-monitor-lost': ['warn', 'the load monitor does not answer; the router scrapes the pods itself'],
  'redis-answers': ['info', 'Redis answers: stored answers are shared'],
  'redis-refuses-saves': ['warn', 'Redis answers, and refuses to save'],
  'redis-takes-saves': ['info', 'Redis saves again'],
  'redis-lost': ['warn', 'Redis does not answer; answers are stored in this process alone'],
  'tokenizer-loaded': ['info', 'a model’s tokenizer was read'],
  'tokenizer-unusable': ['warn', 'a model’s tokenizer cannot be used; the engines are asked for token ids'],
  'tokenizer-agrees': ['info', 'the tokenizer here and the engine agree'],
  'tokenizer-differs': ['warn', 'the tokenizer here and the engine do not agree; the engines are asked for token ids'],
  'tokenizer-unverified': ['warn', 'the engine did not tell whether it agrees with the tokenizer here'],
  'stand-ins-differ': [
    'warn',
    'a prompt came out otherwise when it was read in parts; prompts are read whole from now on',
  ],
  'encoder-fault': ['warn', 'the thread that tokenises ended; it is started again'],
  'load-monitor-lacks': ['info', 'the load monitor has no fresh word of these; the router scrapes them itself'],
} as const satisfies Record<string, readonly ['info' | 'warn', string]>

function tell(log: Logger, event: { readonly type: string }): void {
  const [level, words] = TOLD[event.type as keyof typeof TOLD] ?? ['info', event.type]
  log[level](event, words)
}
