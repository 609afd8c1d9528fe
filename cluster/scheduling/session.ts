// Whether a session stays with its endpoint: it does, unless the endpoint is gone or has clearly more work than others.
import type { EndpointView } from '../endpoints/endpoint.ts'
import type { Candidate, SchedulingContext, SessionOutcome } from './types.ts'

/** So many requests waiting in the engine are no passing peak. */
const OVERLOAD_WAITING = 4
/** An endpoint is overloaded beyond twice the least active candidate's requests and these. */
const OVERLOAD_ACTIVE = 16

export type SessionChoice = { readonly outcome: SessionOutcome; readonly view: EndpointView | undefined }

/** Undefined when the request belongs to no session. `kept` passed the filters, `dropped` did not. */
export function sessionChoice(
  { request }: SchedulingContext,
  kept: readonly EndpointView[],
  dropped: readonly Candidate[],
): SessionChoice | undefined {
  const { session } = request
  if (session === undefined) return undefined
  const view = kept.find(({ endpoint }) => endpoint.id === session)
  if (!view) {
    const filtered = dropped.find(({ view }) => view.endpoint.id === session)?.filtered
    return left(filtered === undefined ? `${session} is gone` : `${session}: ${filtered.because}`)
  }
  const overload = overloadOf(view, kept)
  return overload === undefined ? { outcome: { kind: 'kept' }, view } : left(`${session} is overloaded: ${overload}`)
}

function left(because: string): SessionChoice {
  return { outcome: { kind: 'left', because }, view: undefined }
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
