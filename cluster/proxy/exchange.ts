// One admitted request on its way to an engine and back: sent to the chosen endpoint, once more to the next best while
// nothing was answered, streamed with both sides torn down when either goes. Per chunk this is the hot path.
import type { ServerResponse } from 'node:http'
import type { ErrorShape } from '../../shared/dialect.ts'
import { errorEvent, type Rejection, rejectionToHttp } from '../../shared/rejection.ts'
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { EndpointSet, Passage } from '../endpoints/set.ts'
import type { Attempt, DecisionRecord } from '../epp/decision-log.ts'
import type { Leg, LegEvents, LegFailure, LegRequest, SendLeg } from '../legs/leg.ts'
import { beginAnswer } from './answer-writer.ts'
import type { Keeping } from './cache-step.ts'
import { type EngineError, ERROR_BYTES_MAX, readEngineError, readErrorEvent } from './engine-error.ts'
import { EventStream, isErrorEvent, usageOfAnswer } from './event-stream.ts'

/** The chosen endpoint and the next best one. */
const ATTEMPTS_MAX = 2
/** An unstreamed answer up to this size is kept to read its usage. */
const ANSWER_BYTES_MAX = 1024 * 1024

/** Of an engine's words, as much is remembered for `why`. */
const OUTCOME_CHARS_MAX = 200

export type Timeouts = {
  /** From sending to the first event or byte of an answer: the longest prefill, its time in the engine's queue included. */
  readonly firstByteMs: number
  /** Between two pieces of an answer, and for a caller that does not read. */
  readonly idleMs: number
  readonly totalMs: number
}

export type ExchangeDeps = {
  readonly send: SendLeg
  readonly endpoints: EndpointSet
  readonly timeouts: Timeouts
  readonly nowMs: () => number
  readonly onFirstByte: (seconds: number) => void
  readonly onChunk: (secondsSinceLast: number) => void
  /** Of what writes the exchange down: the caller still gets the end of its answer. */
  readonly onBug: (error: unknown) => void
}

/** What one endpoint is sent, and what it will have to do for it. */
export type Destination = {
  readonly leg: LegRequest
  /** Tokens of the prompt that it will find cached; undefined when that is not known, or a guess. */
  readonly predictedTokens: number | undefined
  /** Those that it has to compute. */
  readonly promptTokens: number
  /** It holds nothing of the prompt, as far as is known. */
  readonly cold: boolean
  /** The data-parallel rank that is named. */
  readonly rank: number | undefined
}

export type ExchangeRequest = {
  readonly destinationOf: (endpoint: EndpointId) => Destination
  readonly shape: ErrorShape
  /** The caller did not ask for usage, the router did. */
  readonly withholdUsage: boolean
  /** Endpoints in the order to try them. */
  readonly order: readonly EndpointId[]
  /** What a refused connection means where the engine's memory is what was asked for: it has ended, and that with it. */
  readonly whenRefused?: Rejection | undefined
  /** Told of a good answer that may be kept. */
  readonly keeping?: Keeping | undefined
  /** Called when it goes to an endpoint: more than once where it is tried again. */
  readonly sent?: (endpoint: EndpointId) => void
  /** Called with the head of a good answer; gives what the answer's headers get besides. */
  readonly serving: (endpoint: EndpointId) => Readonly<Record<string, string>>
}

/**
 * Runs the exchange and writes the answer. Calls `over` exactly once, with the status that the caller got (499 when it
 * left before there was one); the record holds the rest.
 */
export function runExchange(
  deps: ExchangeDeps,
  request: ExchangeRequest,
  record: DecisionRecord,
  res: ServerResponse,
  over: (status: number) => void,
): void {
  new Exchange(deps, request, record, res, over).begin()
}

type Stage =
  /** Nothing was answered: another endpoint may still be tried. */
  | 'waiting'
  /** An error status came: its body is read. */
  | 'error'
  /** A 2xx head came and is held until the first byte of the body shows that it means it. */
  | 'held'
  /** The head went out. Nothing is tried again. */
  | 'streaming'
  | 'over'

class Exchange implements LegEvents {
  readonly #deps: ExchangeDeps
  readonly #request: Omit<ExchangeRequest, 'destinationOf'>
  readonly #record: DecisionRecord
  readonly #res: ServerResponse
  readonly #over: (status: number) => void
  /** Set when the engine answers with an event stream. */
  #events: EventStream | undefined
  #write: (bytes: Buffer) => boolean = () => true
  #stage: Stage = 'waiting'
  #leg: Leg | undefined
  /** Dropped when nothing may be tried again: a long stream must not hold its prompt. */
  #destinationOf: ExchangeRequest['destinationOf'] | undefined
  #passage: Passage | undefined
  #attempt: Attempt | undefined
  #status = 0
  #contentType = 'application/json'
  #contentLength: string | undefined
  #kept: Buffer[] | undefined = []
  #keptBytes = 0
  #lastChunkAtMs = 0
  #paused = false
  #silence: NodeJS.Timeout | undefined
  #total: NodeJS.Timeout | undefined

  constructor(
    deps: ExchangeDeps,
    request: ExchangeRequest,
    record: DecisionRecord,
    res: ServerResponse,
    over: (status: number) => void,
  ) {
    this.#deps = deps
    const { destinationOf, ...rest } = request
    this.#request = rest
    this.#destinationOf = destinationOf
    this.#record = record
    this.#res = res
    this.#over = over
  }

  begin(): void {
    this.#res.on('close', () => this.#callerClosed())
    this.#total = setTimeout(() => this.#totalPassed(), this.#deps.timeouts.totalMs)
    this.#try()
  }

  #try(): void {
    const { order } = this.#request
    // A closed connection says nothing of its engine: where there is no other, the same one is asked again.
    const endpoint = order[this.#record.attempts.length] ?? order.at(-1)
    const destination = endpoint && this.#destinationOf?.(endpoint)
    if (!destination) throw new Error('an exchange needs an endpoint to try')
    const startedAtMs = this.#deps.nowMs()
    const attempt: Attempt = { endpoint, outcome: 'sent', startedAtMs, endedAtMs: undefined }
    this.#attempt = attempt
    this.#record.attempts.push(attempt)
    const { leg: sent, predictedTokens, promptTokens, cold, rank } = destination
    this.#record.predictedCachedTokens = predictedTokens
    this.#request.sent?.(endpoint)
    this.#passage = this.#deps.endpoints.begin(endpoint, promptTokens, { cold, rank })
    clearTimeout(this.#silence)
    this.#silence = setTimeout(() => this.#silencePassed(), this.#deps.timeouts.firstByteMs)
    const leg = this.#deps.send(endpoint, sent, this)
    // A leg may fail while it is being sent; then the next attempt's stands there already.
    if (this.#attempt === attempt) this.#leg = leg
  }

  // What the engine does.

  head(status: number, headers: Readonly<Record<string, string | readonly string[] | undefined>>): void {
    this.#status = status
    if (status === 503 && this.#mayTryNext()) {
      this.#leg?.abort()
      this.#blame('answered 503')
      this.#endAttempt('failed', 'answered 503')
      this.#try()
      return
    }
    const { 'content-type': contentType, 'content-length': contentLength } = headers
    if (typeof contentType === 'string') this.#contentType = contentType
    // The engine's word counts, not the request's: vLLM streams for `"stream": 1` too.
    if (this.#contentType.startsWith('text/event-stream')) this.#events = this.#newStream()
    else if (typeof contentLength === 'string') this.#contentLength = contentLength
    this.#stage = status >= 300 ? 'error' : 'held'
    if (status === 200) this.#request.keeping?.begin(this.#events !== undefined)
  }

  data(chunk: Buffer): void {
    const nowMs = this.#deps.nowMs()
    this.#passage?.progressed(nowMs)
    if (this.#stage === 'error') {
      this.#keep(chunk, ERROR_BYTES_MAX)
      // Too long to be an error: nobody reads on, its status says enough.
      if (!this.#kept) this.#refuseByEngine(readEngineError(this.#status, '', this.#request.shape))
      return
    }
    this.#request.keeping?.push(chunk)
    const bytes = this.#events ? this.#events.push(chunk) : this.#read(chunk)
    if (bytes.length === 0) return
    if (this.#stage === 'held') {
      if (this.#events && isErrorEvent(bytes)) {
        this.#refuseByEngine(readErrorEvent(bytes.toString(), this.#request.shape))
        return
      }
      this.#sendHead(nowMs)
    } else {
      if (this.#events) this.#deps.onChunk((nowMs - this.#lastChunkAtMs) / 1_000)
      this.#silence?.refresh()
    }
    this.#lastChunkAtMs = nowMs
    this.#pass(bytes)
  }

  end(): void {
    if (this.#stage === 'error') {
      const body = Buffer.concat(this.#kept ?? []).toString()
      this.#refuseByEngine(readEngineError(this.#status, body, this.#request.shape))
      return
    }
    if (this.#stage === 'held' && this.#events) {
      // The head is still ours to choose: a stream without a single event is no 200.
      const rejection: Rejection = {
        reason: 'engine-failed',
        message: 'The engine closed the stream without an answer.',
      }
      this.#refuse(rejection, 'failed', 'closed the stream without an event', true)
      return
    }
    if (this.#stage === 'held') this.#sendHead(this.#deps.nowMs())
    if (this.#events) this.#endStream(this.#events)
    else {
      if (this.#kept) this.#record.usage = usageOfAnswer(Buffer.concat(this.#kept))
      this.#request.keeping?.over(true)
      this.#settle('completed', 'answered', 'completed')
    }
    this.#res.end()
  }

  failed(failure: LegFailure): void {
    const stale = failure.kind === 'stale-connection'
    const unreachable = failure.kind === 'unreachable'
    const refused = unreachable && failure.code === 'ECONNREFUSED'
    const mayTryAgain = stale ? this.#record.attempts.length < ATTEMPTS_MAX : unreachable && this.#mayTryNext()
    if (this.#stage === 'waiting' && mayTryAgain) {
      // A connection that the engine closed between two requests is no fault of the engine's.
      if (!stale) this.#blame(describe(failure), refused)
      this.#endAttempt('failed', describe(failure))
      this.#try()
      return
    }
    if (this.#stage === 'streaming') {
      this.#breakOff(
        'failed',
        describe(failure),
        'upstream_lost',
        'The engine was lost before the answer was complete.',
      )
      return
    }
    this.#blame(describe(failure), refused)
    this.#refuse(this.#rejectionOf(unreachable, refused), 'failed', describe(failure), false)
  }

  // What the caller does.

  #callerClosed(): void {
    if (this.#stage === 'over') return
    this.#leg?.abort()
    const status = this.#stage === 'streaming' ? this.#status : 499
    this.#settle('cancelled', 'cancelled', 'the caller left', status)
  }

  #callerDrained(): void {
    if (!this.#paused || this.#stage !== 'streaming') return
    this.#paused = false
    this.#silence?.refresh()
    this.#leg?.resume()
  }

  // What time does.

  #silencePassed(): void {
    this.#leg?.abort()
    if (this.#paused) {
      this.#settle('cancelled', 'cancelled', 'the caller did not read')
      this.#res.destroy()
      return
    }
    if (this.#stage === 'streaming') {
      const { idleMs } = this.#deps.timeouts
      this.#breakOff('failed', `silent for ${idleMs} ms`, 'upstream_timeout', 'The engine fell silent.')
      return
    }
    const { firstByteMs } = this.#deps.timeouts
    const message = `The engine sent no first byte within ${firstByteMs} ms.`
    this.#refuse({ reason: 'first-byte-timeout', message }, 'failed', 'no first byte in time', true)
  }

  #totalPassed(): void {
    const { totalMs } = this.#deps.timeouts
    const message = `The request took longer than ${totalMs} ms.`
    this.#leg?.abort()
    if (this.#stage === 'streaming') this.#breakOff('cancelled', 'cut off', 'upstream_timeout', message)
    else this.#refuse({ reason: 'total-timeout', message }, 'cancelled', 'cut off', false)
  }

  // What this does about it.

  #newStream(): EventStream {
    return new EventStream(this.#request.withholdUsage, this.#request.shape)
  }

  #mayTryNext(): boolean {
    const tried = this.#record.attempts.length
    return tried < ATTEMPTS_MAX && tried < this.#request.order.length
  }

  #read(chunk: Buffer): Buffer {
    this.#keep(chunk, ANSWER_BYTES_MAX)
    return chunk
  }

  /** Keeps what was received; nothing at all once it is more than may be kept. */
  #keep(chunk: Buffer, bytesMax: number): void {
    this.#keptBytes += chunk.length
    if (this.#keptBytes > bytesMax) this.#kept = undefined
    else this.#kept?.push(chunk)
  }

  #sendHead(nowMs: number): void {
    this.#stage = 'streaming'
    const { startedAtMs } = this.#record
    this.#record.firstByteAtMs = nowMs
    // Of an answer that does not stream, the first byte is nearly the last: it says nothing of a first token.
    if (this.#events) this.#deps.onFirstByte((nowMs - startedAtMs) / 1_000)
    this.#destinationOf = undefined
    clearTimeout(this.#silence)
    this.#silence = setTimeout(() => this.#silencePassed(), this.#deps.timeouts.idleMs)
    this.#res.setHeader('content-type', this.#contentType)
    const more = this.#attempt ? this.#request.serving(this.#attempt.endpoint) : {}
    for (const [name, value] of Object.entries(more)) this.#res.setHeader(name, value)
    if (this.#events) this.#res.setHeader('cache-control', 'no-cache, no-transform')
    else if (this.#contentLength !== undefined) this.#res.setHeader('content-length', this.#contentLength)
    this.#write = beginAnswer(this.#res, this.#status)
  }

  #pass(bytes: Buffer): void {
    if (this.#write(bytes) || this.#paused) return
    this.#paused = true
    this.#leg?.pause()
    const { socket } = this.#res
    ;(socket ?? this.#res).once('drain', () => this.#callerDrained())
  }

  #endStream(events: EventStream): void {
    this.#record.usage = events.usage
    // What ends in no event goes on only behind a whole answer: before an error event it would make that unreadable.
    if (events.done) this.#write(events.rest())
    if (events.failed) this.#settle('completed', 'answered', 'ended with an error event of the engine')
    else if (events.done) {
      this.#request.keeping?.over(true)
      this.#settle('completed', 'answered', 'completed')
    } else {
      const message = 'The engine closed the stream before the answer was complete.'
      this.#write(Buffer.from(errorEvent(this.#request.shape, 'upstream_truncated', message)))
      this.#settle('failed', 'closed the stream early', 'truncated')
    }
  }

  /** The head is out: the caller must see that this answer is not whole. */
  #breakOff(how: 'failed' | 'cancelled', attempt: string, code: string, message: string): void {
    if (how === 'failed') this.#blame(attempt)
    this.#settle(how, attempt, `broken off: ${attempt}`)
    if (this.#events) {
      this.#write(Buffer.from(errorEvent(this.#request.shape, code, message)))
      this.#res.end()
    } else this.#res.destroy()
  }

  #refuseByEngine(error: EngineError): void {
    this.#leg?.abort()
    if (error.type === 'refusal') {
      // Only what says that the engine takes nothing counts against it: any caller can provoke a 500.
      const blame = error.rejection.reason === 'engine-unreachable'
      const words = error.rejection.message.slice(0, OUTCOME_CHARS_MAX)
      this.#refuse(error.rejection, 'failed', `answered ${this.#status}: ${words}`, blame)
      return
    }
    this.#settle('completed', `answered ${error.status}`, `refused by the engine with ${error.status}`, error.status)
    this.#res.setHeader('content-type', 'application/json')
    this.#res.setHeader('content-length', Buffer.byteLength(error.body))
    this.#res.writeHead(error.status)
    this.#res.end(error.body)
  }

  #refuse(rejection: Rejection, how: 'failed' | 'cancelled', attempt: string, blame: boolean): void {
    if (blame) this.#blame(attempt)
    const { status, headers, body } = rejectionToHttp(rejection, this.#request.shape)
    this.#settle(how, attempt, `refused: ${rejection.reason}`, status)
    for (const [name, value] of Object.entries(headers)) this.#res.setHeader(name, value)
    this.#res.setHeader('content-length', Buffer.byteLength(body))
    this.#res.writeHead(status)
    this.#res.end(body)
  }

  #blame(cause: string, refused = false): void {
    if (this.#attempt) this.#deps.endpoints.failed(this.#attempt.endpoint, cause, refused)
  }

  #endAttempt(how: 'completed' | 'failed' | 'cancelled', outcome: string): void {
    this.#passage?.ended(how)
    if (!this.#attempt) return
    this.#attempt.outcome = outcome
    this.#attempt.endedAtMs = this.#deps.nowMs()
  }

  /** Once, whatever happens. */
  #settle(how: 'completed' | 'failed' | 'cancelled', attempt: string, outcome: string, status = this.#status): void {
    if (this.#stage === 'over') return
    this.#stage = 'over'
    clearTimeout(this.#silence)
    clearTimeout(this.#total)
    this.#endAttempt(how, attempt)
    this.#record.outcome = outcome
    this.#record.endedAtMs = this.#deps.nowMs()
    try {
      this.#over(status)
    } catch (error) {
      this.#deps.onBug(error)
    }
  }

  #rejectionOf(unreachable: boolean, refused: boolean): Rejection {
    if (refused && this.#request.whenRefused) return this.#request.whenRefused
    if (!unreachable) return { reason: 'engine-failed', message: 'The engine was lost before it answered.' }
    return { reason: 'engine-unreachable', message: this.#triedInWords(), retryAfterSeconds: 1 }
  }

  #triedInWords(): string {
    const tried = this.#record.attempts.length
    return tried === 1 ? 'The engine could not be reached.' : `None of ${tried} engines could be reached.`
  }
}

function describe({ kind, message }: LegFailure): string {
  if (kind === 'unreachable') return `could not be reached (${message})`
  if (kind === 'stale-connection') return 'had closed the connection'
  return `lost (${message})`
}
