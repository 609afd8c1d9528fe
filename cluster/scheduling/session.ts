// Whether a session stays with its endpoint: it does, unless the endpoint is gone, filtered or overloaded.
import type { EndpointId, EndpointView } from '../endpoints/endpoint.ts'
import type { Candidate, SchedulingContext, SessionOutcome } from './types.ts'

/** The session's endpoint, where it is among those that may be chosen. */
export function sessionView(
  { request: { session } }: SchedulingContext,
  candidates: readonly EndpointView[],
): EndpointView | undefined {
  return session === undefined ? undefined : candidates.find(({ endpoint }) => endpoint.id === session)
}

/** Undefined when the request belongs to no session. `candidates` were scored, `dropped` were not. */
export function sessionOutcome(
  { request: { session } }: SchedulingContext,
  chosen: EndpointView | undefined,
  candidates: readonly EndpointView[],
  dropped: readonly Candidate[],
): SessionOutcome | undefined {
  if (session === undefined) return undefined
  if (chosen?.endpoint.id === session) return { kind: 'kept' }
  const stood = candidates.some(({ endpoint }) => endpoint.id === session)
  return { kind: 'left', because: stood ? `${session} was outweighed` : absence(session, dropped) }
}

function absence(session: EndpointId, dropped: readonly Candidate[]): string {
  const filtered = dropped.find(({ view }) => view.endpoint.id === session)?.filtered
  if (filtered === undefined) return `${session} is gone`
  return filtered.by === OVERLOAD ? `${session} is overloaded: ${filtered.because}` : `${session}: ${filtered.because}`
}

/** What `why` names where no filter of the configuration dropped a candidate. */
export const OVERLOAD = 'overload'
