// Legs over undici's dispatch: its lowest layer, without streams or promises per request.
import { subscribe } from 'node:diagnostics_channel'
import type { Socket } from 'node:net'
import type { Dispatcher } from 'undici'
import type { Connections } from '../endpoints/connections.ts'
import type { LegEvents, LegFailure, SendLeg } from './leg.ts'

// A reset means different things on a fresh connection and on one that has served before, and undici's error does not say
// which it was. It publishes the socket right after onRequestStart, in the same call: that is how a leg learns of it.
let starting: UndiciLeg | undefined
subscribe('undici:client:sendHeaders', (message) => {
  starting?.writtenTo((message as { socket: Socket }).socket)
  starting = undefined
})

/** A connection that the engine closed while we wrote shows it within a round trip; later, it has read the request. */
const STALE_WITHIN_MS = 500

/** Sends over the given connections. Engine API keys are added here, and nowhere else. */
export function createSendLeg(connections: Connections): SendLeg {
  return (to, request, events) => {
    const leg = new UndiciLeg(events)
    connections.to(to).dispatch({ ...request, headers: { ...request.headers, ...connections.headersFor(to) } }, leg)
    return leg
  }
}

/** Invariant: once `#over`, no event is told. A leg may be aborted before undici has given it a controller. */
class UndiciLeg implements Dispatcher.DispatchHandler {
  readonly #events: LegEvents
  #controller: Dispatcher.DispatchController | undefined
  /** How far it got; a failure means something else in each stage. */
  #stage: 'connecting' | 'sent' | 'sent-on-used-connection' | 'answered' = 'connecting'
  #sentAtMs = 0
  #over = false

  constructor(events: LegEvents) {
    this.#events = events
  }

  abort(): void {
    this.#over = true
    this.#controller?.abort(new Error('aborted'))
  }

  pause(): void {
    this.#controller?.pause()
  }

  resume(): void {
    this.#controller?.resume()
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller
    if (this.#over) controller.abort(new Error('aborted'))
    else starting = this
  }

  /** The socket that the request is about to be written to. */
  writtenTo(socket: Socket): void {
    this.#stage = socket.bytesRead > 0 ? 'sent-on-used-connection' : 'sent'
    this.#sentAtMs = performance.now()
  }

  onResponseStart(
    _: Dispatcher.DispatchController,
    status: number,
    headers: Record<string, string | string[] | undefined>,
  ): void {
    if (this.#over || status < 200) return
    this.#stage = 'answered'
    this.#events.head(status, headers)
  }

  onResponseData(_: Dispatcher.DispatchController, chunk: Buffer): void {
    if (!this.#over) this.#events.data(chunk)
  }

  onResponseEnd(): void {
    if (this.#over) return
    this.#over = true
    this.#events.end()
  }

  onResponseError(_: Dispatcher.DispatchController | undefined, error: Error): void {
    if (this.#over) return
    this.#over = true
    if (performance.now() - this.#sentAtMs > STALE_WITHIN_MS && this.#stage !== 'connecting') this.#stage = 'answered'
    const { message, code } = error as NodeJS.ErrnoException
    this.#events.failed({ kind: FAILURE_OF[this.#stage], message, code })
  }
}

const FAILURE_OF = {
  connecting: 'unreachable',
  sent: 'lost',
  'sent-on-used-connection': 'stale-connection',
  answered: 'lost',
} as const satisfies Record<string, LegFailure['kind']>
