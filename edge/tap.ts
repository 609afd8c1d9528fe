// Readers of answers as they pass: what an answer says of its end and of its usage, and which bytes of it go on.
import { BODY_BYTES_MAX } from '../shared/canonical-body.ts'
import type { ErrorShape } from '../shared/dialect.ts'
import { errorEvent } from '../shared/rejection.ts'
import { SSE_EVENT_BYTES_MAX, SseSplitter } from '../shared/sse.ts'
import { readUsage, type Usage } from '../shared/usage.ts'
import { concat } from './bytes.ts'

type Ended = 'complete' | 'upstream_error'

export type Tap = {
  /** Takes a chunk; answers the bytes of it, and of those held back before, that go on; undefined: it is unreadable. */
  readonly push: (chunk: Uint8Array) => Uint8Array | undefined
  /** How the answer ended by its own words, as soon as it has said so. */
  readonly ended: () => Ended | undefined
  /** What it means when the bytes end in good order and those words have not come. */
  readonly silentEnd: 'complete' | 'upstream_truncated'
  readonly usage: () => Usage | undefined
  /** A failure in bytes that the caller understands; undefined where only breaking off can tell it. */
  readonly failure: (code: string, message: string) => Uint8Array | undefined
}

/** A larger answer passes as well, but its usage is not read. */
const ANSWER_BYTES_READ_MAX = 1024 * 1024
const TERMINAL_DATA = '[DONE]'
/** Events of responses repeat the instructions and tools of the request. */
const RESPONSE_EVENT_BYTES_MAX = BODY_BYTES_MAX + SSE_EVENT_BYTES_MAX

/** For an event stream. Bytes go on event by event: a broken-off event would swallow the error frame after it. */
export function eventTap(shape: ErrorShape, withholdUsage: boolean): Tap {
  const splitter = new SseSplitter(shape === 'responses' ? RESPONSE_EVENT_BYTES_MAX : SSE_EVENT_BYTES_MAX)
  const read = shape === 'responses' ? readResponseEvent : readChunk
  let ended: Ended | undefined
  let usage: Usage | undefined

  /** Takes note of an event; answers whether it goes on. */
  function note(data: string): boolean {
    const told = read(data)
    if (told.ended && ended !== 'upstream_error') ended = told.ended
    if (told.usage) usage = told.usage
    return !(withholdUsage && told.onlyUsage)
  }

  return {
    push(chunk) {
      const { events, tooLarge } = splitter.push(chunk)
      if (tooLarge) return undefined
      return concat(events.filter(({ data }) => data === undefined || note(data)).map(({ bytes }) => bytes))
    },
    ended: () => ended,
    silentEnd: 'upstream_truncated',
    usage: () => usage,
    failure: (code, message) => new TextEncoder().encode(errorEvent(shape, code, message)),
  }
}

/** What one event says. */
type Told = { readonly ended?: Ended | undefined; readonly usage?: Usage | undefined; readonly onlyUsage?: boolean }

/** Said by nearly all events, which are never parsed. */
const NOTHING: Told = {}

function readChunk(data: string): Told {
  if (data === TERMINAL_DATA) return { ended: 'complete' }
  if (!data.includes('"usage"') && !data.includes('"error"')) return NOTHING
  const message = parseObject(data)
  return {
    ended: message?.error ? 'upstream_error' : undefined,
    usage: readUsage(message?.usage),
    // The event that carries nothing else: with continuous usage every chunk of text carries some.
    onlyUsage: Boolean(message?.usage) && Array.isArray(message?.choices) && message.choices.length === 0,
  }
}

const MAY_END_RESPONSE = /response\.(?:completed|incomplete|failed)|"error"/
const ENDED_BY_TYPE: Readonly<Record<string, Ended>> = {
  'response.completed': 'complete',
  'response.incomplete': 'complete',
  'response.failed': 'upstream_error',
  error: 'upstream_error',
}

function readResponseEvent(data: string): Told {
  if (!MAY_END_RESPONSE.test(data)) return NOTHING
  const event = parseObject(data)
  if (event?.error) return { ended: 'upstream_error' }
  const ended = typeof event?.type === 'string' ? ENDED_BY_TYPE[event.type] : undefined
  if (!ended) return NOTHING
  const response = event?.response as { readonly usage?: unknown } | null | undefined
  return { ended, usage: readUsage(response?.usage) }
}

/** For any other answer: it passes as it is, and if it is JSON of a moderate size, its usage is read at the end. */
export function plainTap(): Tap {
  let chunks: Uint8Array[] = []
  let length = 0
  return {
    push(chunk) {
      length += chunk.length
      if (length <= ANSWER_BYTES_READ_MAX) chunks.push(chunk)
      else chunks = []
      return chunk
    },
    ended: () => undefined,
    silentEnd: 'complete',
    usage: () => readUsage(parseObject(new TextDecoder().decode(concat(chunks)))?.usage),
    failure: () => undefined,
  }
}

type JsonObject = Readonly<Record<string, unknown>>

function parseObject(text: string): JsonObject | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? (value as JsonObject) : undefined
  } catch {
    return undefined
  }
}
