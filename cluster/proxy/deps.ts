// What the router's door needs of the rest, as values.
import type { Logger } from 'pino'
import type { EndpointSet } from '../endpoints/set.ts'
import type { AccuracyLedger } from '../epp/accuracy.ts'
import type { Admission } from '../epp/admission.ts'
import type { GatherDeps } from '../epp/context.ts'
import type { Profiles } from '../epp/decide.ts'
import type { DecisionLog } from '../epp/decision-log.ts'
import type { Guesses } from '../epp/guesses.ts'
import type { Pins } from '../epp/pins.ts'
import type { Sessions } from '../epp/sessions.ts'
import type { SendLeg } from '../legs/leg.ts'
import type { CachingDeps } from './cache-step.ts'
import type { IdentifyCaller } from './caller.ts'
import type { ExchangeDeps, Timeouts } from './exchange.ts'
import type { RouterMetrics } from './metrics.ts'
import type { BodyBudget } from './read-body.ts'

export type ProxyDeps = {
  readonly profiles: () => Profiles
  readonly endpoints: EndpointSet
  readonly admission: Admission
  readonly identify: IdentifyCaller
  readonly gather: GatherDeps
  readonly guesses: Guesses
  readonly caching: CachingDeps
  readonly sessions: Sessions
  readonly pins: Pins
  readonly send: SendLeg
  readonly decisions: DecisionLog
  readonly accuracy: AccuracyLedger
  readonly metrics: RouterMetrics
  readonly log: Logger
  /** For a caller to send its head; twice that for head and body. */
  readonly headerMs: number
  /** Read per request: configuration may change them. */
  readonly timeouts: () => Timeouts
  readonly bodyBytesMax: number
  readonly bodies: BodyBudget
  readonly random: () => number
  readonly nowMs: () => number
  readonly epochMs: () => number
  /** Asked to stop: those who watch readiness are told, requests are still served. */
  readonly notReady: () => boolean
  /** Stopping: new requests on connections that are still open are refused. */
  readonly draining: () => boolean
}

export function exchangeDeps({ send, endpoints, timeouts, nowMs, metrics, log }: ProxyDeps): ExchangeDeps {
  const onBug = (err: unknown): void => log.error({ err }, 'internal error')
  return { send, endpoints, timeouts: timeouts(), nowMs, onFirstByte: metrics.firstByte, onChunk: metrics.chunk, onBug }
}
