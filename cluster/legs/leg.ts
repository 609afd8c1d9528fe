// One leg of a request: sent to one engine, answered in pieces. The interface is what a faster HTTP engine has to offer
// to take the place of the present one; `undici.ts` implements it.
import type { EndpointId } from '../endpoints/endpoint.ts'

export type LegRequest = {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Buffer | null
}

/** Called in this order: head once, data any number of times, then exactly one of end and failed. Nothing after abort(). */
export type LegEvents = {
  readonly head: (status: number, headers: Readonly<Record<string, string | readonly string[] | undefined>>) => void
  /** De-chunked bytes; the buffer is the receiver's to keep. */
  readonly data: (chunk: Buffer) => void
  readonly end: () => void
  readonly failed: (failure: LegFailure) => void
}

export type LegFailure = {
  /**
   * `unreachable`: no connection was made. `stale-connection`: a connection that had served before was closed under the
   * request at once, before any byte of an answer: the engine most likely has not seen it. `lost`: anything else.
   */
  readonly kind: 'unreachable' | 'stale-connection' | 'lost'
  readonly message: string
  /** The operating system's word for it, like ECONNREFUSED. */
  readonly code?: string | undefined
}

export type Leg = {
  /** Closes the connection at once; no event follows. */
  readonly abort: () => void
  /** Stops and resumes reading, so that a slow reader holds the engine back and not our memory. */
  readonly pause: () => void
  readonly resume: () => void
}

export type SendLeg = (to: EndpointId, request: LegRequest, events: LegEvents) => Leg
