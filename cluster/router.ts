// The router, wired: endpoints and their monitor, the decision, the two doors. Starts, drains.
import { randomInt } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import pino, { type Logger } from 'pino'
import { systemClock } from '../shared/clock.ts'
import { createRandom } from '../shared/random.ts'
import type { RouterConfig } from './config.ts'
import { createConnections } from './endpoints/connections.ts'
import { type MonitorEvent, startMonitor } from './endpoints/monitor.ts'
import { createEndpointSet } from './endpoints/set.ts'
import { createAdmission } from './epp/admission.ts'
import { createDecisionLog } from './epp/decision-log.ts'
import { createSendLeg } from './legs/undici.ts'
import { listen, stopper } from './listen.ts'
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

/** Starts both doors; throws UserError when a port is taken, which names the flag that chooses another. */
export async function startRouter(
  config: RouterConfig,
  log: Logger,
  flags = { port: '--port', adminPort: '--admin-port' },
): Promise<Router> {
  const nowMs = systemClock.monotonicMs
  const { epochMs } = systemClock
  const connections = createConnections(config.endpoints)
  const endpoints = createEndpointSet(config.endpoints, nowMs)
  const admission = createAdmission(config.limits, nowMs)
  const decisions = createDecisionLog()
  const metrics = createRouterMetrics(endpoints, admission, decisions)
  const profiles = { decode: buildProfile('decode', config.profile) }
  let notReady = false
  let draining = false

  const proxy = createProxy({
    profiles: () => profiles,
    endpoints,
    admission,
    identify: createIdentifyCaller(config.edgeKeys, config.allowUnsigned, epochMs),
    send: createSendLeg(connections),
    decisions,
    metrics,
    log,
    timeouts: config.timeouts,
    bodyBytesMax: config.limits.bodyBytes,
    bodies: createBodyBudget(config.limits.bodiesBytes, config.limits.bodyBytes),
    random: createRandom(config.seed ?? randomInt(2 ** 32)),
    nowMs,
    epochMs,
    notReady: () => notReady,
    draining: () => draining,
  })
  const answering = () => endpoints.snapshot().some(({ models }) => models !== undefined)
  const admin = createAdmin({ registry: metrics.registry, decisions, endpoints, ready: () => !notReady && answering() })

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
  const monitor = startMonitor({
    endpoints,
    connections,
    nowMs,
    onEvent: createEventLog(log),
    onScrape: metrics.scraped,
  })
  log.info({ host: config.host, port, adminPort, endpoints: endpoints.ids() }, 'router listens')

  return {
    port,
    adminPort,
    firstRound: monitor.firstRound,
    async close({ drainNoticeMs, drainMs } = config.timeouts) {
      notReady = true
      if (drainNoticeMs > 0) await delay(drainNoticeMs)
      draining = true
      monitor.stop()
      await stopProxy(drainMs)
      // Last, so that who asks it sees the draining to its end.
      await stopAdmin(0)
      await connections.close()
    },
  }
}

/** Tells what changed, not what was found again. */
function createEventLog(log: Logger): (event: MonitorEvent) => void {
  const told = new Map<string, string>()
  return (event) => {
    if (event.type === 'models') {
      const models = event.models.join(', ')
      if (told.get(event.endpoint) === models) return
      told.set(event.endpoint, models)
      log.info(event, 'endpoint lists its models')
    } else if (event.type === 'ejected') log.warn(event, 'endpoint gets no new request until a probe succeeds')
    else log.info(event, 'endpoint is back')
  }
}

/** JSON lines on stdout, or into a file. */
export function createLog(level: string, file?: string): Logger {
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ dest: file ?? 1, sync: true }),
  )
}
