// One request's stay in the Worker: its id, what is known of it so far, and the one log line that it leaves.
import type { Clock } from '../shared/clock.ts'
import { type ErrorShape, errorShapeOf, requestIdHeaders } from '../shared/dialect.ts'
import { acceptableRequestId, HEADER } from '../shared/headers.ts'
import { type Rejection, rejectionToHttp } from '../shared/rejection.ts'
import type { Usage } from '../shared/usage.ts'
import type { Outcome } from './meter.ts'
import type { SessionOutcome } from './session.ts'

/** Callers choose these texts. */
const CHARS_LOGGED = 128
/** What logs call a caller who left; it is never sent. */
const STATUS_CLIENT_CLOSED = 499

export class Visit {
  readonly requestId: string
  readonly shape: ErrorShape
  /** Filled in as they become known. */
  tenant: string | undefined
  model: string | undefined
  session: SessionOutcome
  /** `hit`: answered here; `router`: by the router's cache. */
  cache: 'hit' | 'router' | 'bypass' | 'miss' | 'stale' | 'request' | undefined
  /** Of the Responses API: one response's usage may be told in several lines, and counts once. */
  responseId: string | undefined
  readonly #request: Request
  readonly #route: string
  readonly #clock: Clock
  readonly #log: (line: string) => void
  readonly #startedMs: number

  constructor(request: Request, route: string, clock: Clock, log: (line: string) => void) {
    this.requestId = acceptableRequestId(request.headers.get(HEADER.requestId)) ?? freshRequestId()
    this.shape = errorShapeOf(route)
    this.#request = request
    this.#route = route
    this.#clock = clock
    this.#log = log
    this.#startedMs = clock.monotonicMs()
  }

  /** Writes the request's id where the caller looks for it. */
  name(headers: Headers): void {
    for (const name of requestIdHeaders(this.shape)) headers.set(name, this.requestId)
  }

  /** The refusal as an answer in the caller's shape, and the end of the visit. */
  refuse(rejection: Rejection, extraHeaders: Record<string, string> = {}): Response {
    const { status, headers, body } = rejectionToHttp(rejection, this.shape)
    const answer = new Response(body, { status, headers: { ...headers, ...extraHeaders } })
    this.name(answer.headers)
    // An SDK tries again by itself; when it already has, the next try is for people to decide.
    if (Number(this.#request.headers.get('x-stainless-retry-count')) > 0) answer.headers.set('x-should-retry', 'false')
    this.#leave(status, this.#request.signal.aborted ? 'client_abort' : rejection.reason)
    return answer
  }

  /** The end of a visit whose answer was passed on. */
  settle(status: number, outcome: Outcome, usage?: Usage): void {
    this.#leave(status, outcome, usage)
  }

  // Never bodies, never keys.
  #leave(status: number, outcome: string, usage?: Usage): void {
    const line = {
      requestId: this.requestId,
      tenant: this.tenant,
      method: this.#request.method,
      // A path that is no route may hold anything, a key for one.
      route: outcome === 'route-not-found' ? undefined : this.#route.slice(0, CHARS_LOGGED),
      model: this.model?.slice(0, CHARS_LOGGED),
      session: this.session,
      cache: this.cache,
      status: outcome === 'client_abort' ? STATUS_CLIENT_CLOSED : status,
      outcome,
      responseId: this.responseId?.slice(0, CHARS_LOGGED),
      ...usage,
      ms: Math.round(this.#clock.monotonicMs() - this.#startedMs),
    }
    this.#log(JSON.stringify(line))
  }
}

function freshRequestId(): string {
  return `req_${crypto.randomUUID().replaceAll('-', '')}`
}
