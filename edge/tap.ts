// Readers of answers as they pass: what an answer says of its end and of its usage, and which bytes of it go on.
import { BODY_BYTES_MAX } from '../shared/canonical-body.ts'
import type { ErrorShape } from '../shared/dialect.ts'
import { errorEvent } from '../shared/rejection.ts'
import { SSE_EVENT_BYTES_MAX, SseSplitter } from '../shared/sse.ts'
import { mergeUsage, readUsage, type Usage, type UsageMembers } from '../shared/usage.ts'
import { concat } from './bytes.ts'
import { TopMembers } from './top-members.ts'

type Ended = 'complete' | 'upstream_error'

/** What an answer says of the tokens that it took. */
export type Account = {
  readonly usage?: Usage | undefined
  /** The response's, in the API where it can be fetched again. */
  readonly responseId?: string | undefined
  /** Whether the request for this response was answered before there was any usage. */
  readonly background?: boolean
}

export type Tap = {
  /** Takes a chunk; answers the bytes of it, and of those held back before, that go on; undefined: it is unreadable. */
  readonly push: (chunk: Uint8Array) => Uint8Array | undefined
  /** How the answer ended by its own words, as soon as it has said so. */
  readonly ended: () => Ended | undefined
  /** What it means when the bytes end in good order and those words have not come. */
  readonly silentEnd: 'complete' | 'upstream_truncated'
  readonly account: () => Account
  /** A failure in bytes that the caller understands; undefined where only breaking off can tell it. */
  readonly failure: (code: string, message: string) => Uint8Array | undefined
}

const TERMINAL_DATA = '[DONE]'
/** Events of responses repeat the instructions and tools of the request. */
const RESPONSE_EVENT_BYTES_MAX = BODY_BYTES_MAX + SSE_EVENT_BYTES_MAX

/** For an event stream. Bytes go on event by event: a broken-off event would swallow the error frame after it. */
export function eventTap(shape: ErrorShape, withholdUsage: boolean): Tap {
  const splitter = new SseSplitter(shape === 'responses' ? RESPONSE_EVENT_BYTES_MAX : SSE_EVENT_BYTES_MAX)
  const read = shape === 'responses' ? readResponseEvent : shape === 'anthropic' ? createMessageReader() : readChunk
  let ended: Ended | undefined
  let account: Account = {}

  /** Takes note of an event; answers whether it goes on. */
  function note(data: string): boolean {
    const told = read(data)
    if (told.ended && ended !== 'upstream_error') ended = told.ended
    if (told.account) account = told.account
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
    account: () => account,
    failure: (code, message) => new TextEncoder().encode(errorEvent(shape, code, message)),
  }
}

/** What one event says. */
type Told = {
  readonly ended?: Ended | undefined
  readonly account?: Account | undefined
  readonly onlyUsage?: boolean
}

/** Said by nearly all events, which are never parsed. */
const NOTHING: Told = {}

function readChunk(data: string): Told {
  if (data === TERMINAL_DATA) return { ended: 'complete' }
  if (!data.includes('"usage"') && !data.includes('"error"')) return NOTHING
  const message = parseObject(data)
  const usage = readUsage(message?.usage)
  return {
    ended: message?.error ? 'upstream_error' : undefined,
    account: usage && { usage },
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
  const response = event?.response as JsonObject | null | undefined
  return { ended, account: response ? accountOfResponse(response) : undefined }
}

const MAY_TELL_OF_MESSAGE = /"message_(?:start|delta|stop)"|"error"/

function createMessageReader(): (data: string) => Told {
  let usage: UsageMembers | undefined

  return (data) => {
    if (!MAY_TELL_OF_MESSAGE.test(data)) return NOTHING
    const event = parseObject(data)
    switch (event?.type) {
      case 'message_start':
        usage = mergeUsage(usage, (event.message as JsonObject | null | undefined)?.usage)
        return { account: { usage: readUsage(usage) } }
      case 'message_delta':
        usage = mergeUsage(usage, event.usage)
        return { account: { usage: readUsage(usage) } }
      case 'message_stop':
        return { ended: 'complete' }
      case 'error':
        return { ended: 'upstream_error' }
      default:
        return NOTHING
    }
  }
}

const UNFINISHED_STATUSES: readonly unknown[] = ['queued', 'in_progress']

function accountOfResponse({ id, status, background, usage }: JsonObject): Account {
  return {
    responseId: typeof id === 'string' ? id : undefined,
    background: background === true,
    // Of a response that still grows, the count is not the last.
    usage: UNFINISHED_STATUSES.includes(status) ? undefined : readUsage(usage),
  }
}

/** For any other answer: it passes as it is, and if it is a JSON object, its account is read from it. */
export function plainTap(shape: ErrorShape): Tap {
  const answer = new TopMembers(['id', 'status', 'background', 'usage'])
  return {
    push(chunk) {
      answer.push(chunk)
      return chunk
    },
    ended: () => undefined,
    silentEnd: 'complete',
    account() {
      const members = answer.found()
      return shape === 'responses' ? accountOfResponse(members) : { usage: readUsage(members.usage) }
    },
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
