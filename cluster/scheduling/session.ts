// Whether a session stays with its endpoint: it does, unless the endpoint is gone or has clearly more work than others.
import type { EndpointId, EndpointView } from '../endpoints/endpoint.ts'
import type { Candidate, SchedulingContext, SessionOutcome } from './types.ts'

/** So many requests waiting in the engine are no passing peak. */
const OVERLOAD_WAITING = 4
/** An endpoint is overloaded beyond twice the least active candidate's requests and these. */
const OVERLOAD_ACTIVE = 16

export type SessionChoice = { readonly outcome: SessionOutcome; readonly view: EndpointView | undefined }

/** What `prefersSession` asks for. Undefined when the request belongs to no session. `kept` passed the filters, `dropped` did not. */
export function sessionChoice(
  { request }: SchedulingContext,
  kept: readonly EndpointView[],
  dropped: readonly Candidate[],
): SessionChoice | undefined {
  const { session } = request
  if (session === undefined) return undefined
  const view = kept.find(({ endpoint }) => endpoint.id === session)
  if (!view) return { outcome: left(absence(session, dropped)), view }
  const overload = overloadOf(view, kept)
  if (overload === undefined) return { outcome: { kind: 'kept' }, view }
  return { outcome: left(`${session} is overloaded: ${overload}`), view: undefined }
}

/** What became of a session that a scorer has weighed. Undefined when the request belongs to no session. */
export function weighedSession(
  { request: { session } }: SchedulingContext,
  chosen: EndpointView | undefined,
  kept: readonly EndpointView[],
  dropped: readonly Candidate[],
): SessionOutcome | undefined {
  if (session === undefined) return undefined
  if (chosen?.endpoint.id === session) return { kind: 'kept' }
  const stood = kept.some(({ endpoint }) => endpoint.id === session)
  return left(stood ? `${session} was outweighed` : absence(session, dropped))
}

function absence(session: EndpointId, dropped: readonly Candidate[]): string {
  const filtered = dropped.find(({ view }) => view.endpoint.id === session)?.filtered
  return filtered === undefined ? `${session} is gone` : `${session}: ${filtered.because}`
}

function left(because: string): SessionOutcome {
  return { kind: 'left', because }
}

/** In words, or undefined. Where everybody is as busy, leaving would win nothing. */
function overloadOf({ endpoint, load }: EndpointView, kept: readonly EndpointView[]): string | undefined {
  const others = kept.filter((other) => other.endpoint.id !== endpoint.id)
  if (others.length === 0) return undefined
  const { queuedRequests: waiting = 0, activeRequests: active } = load
  const leastWaiting = Math.min(...others.map((other) => other.load.queuedRequests ?? 0))
  if (waiting >= OVERLOAD_WAITING && waiting > 2 * leastWaiting) return `${waiting} requests wait there`
  const leastActive = Math.min(...others.map((other) => other.load.activeRequests))
  if (active > 2 * leastActive + OVERLOAD_ACTIVE) return `${active} requests are active there, ${leastActive} elsewhere`
  return undefined
}
