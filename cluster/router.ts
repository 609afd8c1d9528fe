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
import { createConnections } from './endpoints/connections.ts'
import { followLoadMonitor } from './endpoints/follow-load-monitor.ts'
import { startMonitor } from './endpoints/monitor.ts'
import { createEndpointSet } from './endpoints/set.ts'
import { createAccuracyLedger } from './epp/accuracy.ts'
import { createAdmission } from './epp/admission.ts'
import type { Profiles } from './epp/decide.ts'
import { createDecisionLog } from './epp/decision-log.ts'
import { createGuesses } from './epp/guesses.ts'
import { createPins } from './epp/pins.ts'
import { startPromptKnowledge } from './epp/prompt-knowledge.ts'
import { createSessions } from './epp/sessions.ts'
import { createApproximateIndex } from './kv/approximate-index.ts'
import { createInFlightPrefixes } from './kv/in-flight-prefixes.ts'
import { followRemoteIndex } from './kv/remote-index.ts'
import { createKvDoor, createScoreServer } from './kv-manager/door.ts'
import { createSendLeg } from './legs/undici.ts'
import { listen, stopper } from './listen.ts'
import { tell } from './log.ts'
import { createAdmin } from './proxy/admin.ts'
import { createIdentifyCaller } from './proxy/caller.ts'
import { createRouterMetrics } from './proxy/metrics.ts'
import { createBodyBudget } from './proxy/read-body.ts'
import { createProxy } from './proxy/server.ts'
import { buildProfile } from './scheduling/profile.ts'

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
  const onEvent = (event: { readonly type: string }): void => tell(log, event)
  const accuracy = createAccuracyLedger(onEvent)
  const known = await startPromptKnowledge(config, {
    connections,
    endpoints,
    nowMs,
    epochMs,
    budgetMs: () => current.timeouts.tokenizeMs,
    listener: { applied: (id) => inFlight.told(id), cleared: accuracy.renewed },
    onEvent,
  })
  const { index, watch } = known.caches
  const inFlight = createInFlightPrefixes(nowMs, (id, query) => {
    const [best = 0] = index
      .match(query)
      .flatMap(({ endpoint, matchedTokens }) => (endpoint === id ? matchedTokens : []))
    return best > query.tokenIds.length - HELD_MARGIN_TOKENS
  })
  const guesses = createGuesses(
    createApproximateIndex({
      cacheTokensOf: (id) => endpoints.lastScrape(id)?.metrics.kvCacheTokens,
      ttlSeconds: config.kv.cacheTtlSeconds,
      nowMs,
    }),
    inFlight,
  )
  const memory = createMemoryTier(config.cache?.memoryBytes ?? 0)
  const metrics = createRouterMetrics({
    endpoints,
    admission,
    decisions,
    caches: known.caches,
    tokenizer: known.tokenizer,
    accuracy,
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
  let notReady = false
  let draining = false

  const proxy = createProxy({
    profiles: () => profiles,
    endpoints,
    admission,
    identify: createIdentifyCaller(config.edgeKeys, config.allowUnsigned, epochMs),
    gather: {
      tokenize: known.tokenizer.tokenize,
      findPrefixes: remote?.findPrefixes ?? ((query) => ({ matches: index.match(query), by: undefined })),
      knowsCaches: () => known.caches.follows() || remote?.answers() === true,
      guesses,
      confidence: accuracy.confidence,
    },
    guesses,
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
  const kvDoor = createKvDoor({
    models: () => [
      ...new Set([...index.models(), ...endpoints.snapshot().flatMap(({ baseModel }) => baseModel ?? [])]),
    ],
    adapterOf: known.adapterOf,
    tokenize: known.tokenizer.tokenize,
    match: index.match,
    feed: known.caches.feed,
    snapshot: known.caches.snapshot,
  })
  const answering = () => endpoints.snapshot().some(({ models }) => models !== undefined)
  const admin = createAdmin({
    registry: metrics.registry,
    decisions,
    endpoints,
    accuracy,
    cacheOf: watch.sourcesOf,
    kvDoor,
    tokenizers: known.tokenizer.states,
    ready: () => !notReady && answering(),
  })

  const scores = config.kv.scorePort === undefined ? undefined : createScoreServer(kvDoor)
  const stopScores = scores && stopper(scores)
  const stopProxy = stopper(proxy)
  const stopAdmin = stopper(admin)
  const port = await listen(proxy, config.host, config.port, 'the router', flags.port)
  let adminPort: number
  try {
    if (scores) await listen(scores, config.host, config.kv.scorePort ?? 0, "the router's /score", '--score-port')
    adminPort = await listen(admin, config.admin.host, config.admin.port, "the router's admin door", flags.adminPort)
  } catch (error) {
    proxy.close()
    scores?.close()
    await known.close()
    throw error
  }
  const follower =
    config.loadMonitor === undefined ? undefined : followLoadMonitor(config.loadMonitor, { endpoints, nowMs, onEvent })
  const monitor = startMonitor({
    endpoints,
    connections,
    nowMs,
    ...(follower && { scrapedElsewhere: follower.covers }),
    onEvent(event) {
      known.heard(event)
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
      known.forget(id)
      guesses.forget(id)
      accuracy.forget(id)
      metrics.forget(id)
    }
    void monitor.refresh().then(known.follow)
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
    firstRound: monitor.firstRound.then(known.follow),
    async close({ drainNoticeMs, drainMs } = current.timeouts) {
      notReady = true
      configWatch?.close()
      if (drainNoticeMs > 0) await delay(drainNoticeMs)
      draining = true
      monitor.stop()
      remote?.close()
      await stopProxy(drainMs)
      // Last, so that who asks it sees the draining to its end.
      await Promise.all([stopAdmin(0), stopScores?.(0), known.close(), follower?.stop(), redis?.close()])
      await connections.close()
    },
  }
}

/** A prompt is held when all but its last block is: few engines have larger ones. */
const HELD_MARGIN_TOKENS = 256

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
  'kv',
] as const satisfies readonly (keyof RouterConfig)[]

/** Of the cache everything else takes effect at once. */
const CACHE_NEEDS_RESTART = ['memoryBytes', 'redis'] as const

function profilesOf({ profiles }: RouterConfig): Profiles {
  return { decode: buildProfile('decode', profiles.decode) }
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
