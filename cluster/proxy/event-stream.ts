// The one look that the router takes at a streamed answer. It finds event boundaries, the usage event, the terminal event
// and an error, on bytes and without parsing more than the usage event: this runs once per streamed token.
import type { ErrorShape } from '../../shared/dialect.ts'
import { mergeUsage, readUsage, type Usage, type UsageMembers } from '../../shared/usage.ts'

/**
 * An event longer than this is passed on unread. vLLM's are a few hundred bytes, with logprobs some thousand; those of a
 * response repeat its instructions and tools, which may fill a request.
 */
const EVENT_BYTES_MAX = { openai: 1024 * 1024, responses: 9 * 1024 * 1024, anthropic: 1024 * 1024 }

const LF = 0x0a
const BLANK_LINE = Buffer.from('\n\n')
const BLANK_LINE_CRLF = Buffer.from('\r\n\r\n')
const ERROR_DATA = Buffer.from('data: {"error"')
const ERROR_EVENT = Buffer.from('event: error')
const ERROR_STARTS = { openai: [ERROR_DATA], responses: [ERROR_DATA, ERROR_EVENT], anthropic: [ERROR_EVENT] }
const NO_CHOICES = Buffer.from('"choices":[]')
const DONE_START = Buffer.from('data: [DONE]')
/** The last events of a response: it has no `[DONE]`. */
const RESPONSE_ENDS = ['completed', 'incomplete', 'failed'].map((how) => Buffer.from(`event: response.${how}\n`))
/** The first of these has the prompt's usage, the second all of it, the third ends the message. */
const MESSAGE_EVENT_START = Buffer.from('event: message_')
const MESSAGE_END = Buffer.from('event: message_stop')

const NOTHING = Buffer.alloc(0)

/** Invariant: `#partial` holds the bytes after the last event boundary, and none of them has been handed out. */
export class EventStream {
  readonly #withholdUsage: boolean
  readonly #shape: ErrorShape
  #partial: Buffer = NOTHING
  #unreadable = false
  #done = false
  #failed = false
  #usage: Usage | undefined
  #usageTold: UsageMembers | undefined

  /** @param withholdUsage drop the event without choices: the caller did not ask for usage, the router did. */
  constructor(withholdUsage: boolean, shape: ErrorShape = 'openai') {
    this.#withholdUsage = withholdUsage
    this.#shape = shape
  }

  /** The terminal event was seen: the answer is whole. */
  get done(): boolean {
    return this.#done
  }

  /** An error event was seen. */
  get failed(): boolean {
    return this.#failed
  }

  get usage(): Usage | undefined {
    return this.#usage
  }

  /** Takes what the engine sent; gives the whole events in it that the caller gets, maybe none. */
  push(chunk: Buffer): Buffer {
    if (this.#unreadable) return chunk
    let bytes = chunk
    if (this.#partial.length > 0) {
      bytes = Buffer.concat([this.#partial, chunk])
      this.#partial = NOTHING
    }
    const { length } = bytes
    if (bytes[length - 1] !== LF || bytes[length - 2] !== LF) {
      const boundary = lastBoundary(bytes)
      this.#partial = bytes.subarray(boundary)
      bytes = bytes.subarray(0, boundary)
      if (this.#partial.length > EVENT_BYTES_MAX[this.#shape]) return this.#giveUp(bytes)
    }
    return bytes.length === 0 ? NOTHING : this.#read(bytes)
  }

  /** What is left when the engine has closed: bytes that end in no event, passed on as they are. */
  rest(): Buffer {
    const rest = this.#partial
    this.#partial = NOTHING
    return rest
  }

  /** Only whole events. Each search is one native scan of a few hundred bytes. */
  #read(events: Buffer): Buffer {
    if (ERROR_STARTS[this.#shape].some((start) => startsAnEvent(events, start))) this.#failed = true
    if (this.#shape === 'responses') return this.#readResponse(events)
    if (this.#shape === 'anthropic') return this.#readMessage(events)
    if (startsAnEvent(events, DONE_START)) this.#done = true
    const at = events.indexOf(NO_CHOICES)
    return at === -1 ? events : this.#readUsage(events, at)
  }

  #readResponse(events: Buffer): Buffer {
    if (!RESPONSE_ENDS.some((end) => startsAnEvent(events, end))) return events
    this.#done = true
    this.#usage = usageOfAnswer(events)
    return events
  }

  /** Its usage comes unasked, in events that say other things too: nothing is withheld. */
  #readMessage(events: Buffer): Buffer {
    if (!startsAnEvent(events, MESSAGE_EVENT_START)) return events
    if (startsAnEvent(events, MESSAGE_END)) this.#done = true
    this.#usageTold = usageOfMessage(events, this.#usageTold)
    this.#usage = readUsage(this.#usageTold)
    return events
  }

  #readUsage(events: Buffer, at: number): Buffer {
    const start = lastBoundary(events.subarray(0, at))
    const next = firstBoundary(events, at)
    const usage = usageOfEvent(events.subarray(start, next))
    if (!usage) return events
    this.#usage = usage
    if (!this.#withholdUsage) return events
    return Buffer.concat([events.subarray(0, start), events.subarray(next)])
  }

  #giveUp(events: Buffer): Buffer {
    this.#unreadable = true
    // From here on nothing is known: neither is the stream called whole nor broken.
    this.#done = true
    return Buffer.concat([events, this.rest()])
  }
}

/** Whether these events begin with an error. */
export function isErrorEvent(events: Buffer): boolean {
  return [ERROR_DATA, ERROR_EVENT].some((start) => events.subarray(0, start.length).equals(start))
}

/** What a model writes can hold these words too, but never after a line break: inside JSON that is escaped. */
function startsAnEvent(events: Buffer, start: Buffer): boolean {
  for (let at = events.indexOf(start); at !== -1; at = events.indexOf(start, at + 1)) {
    if (at === 0 || events[at - 1] === LF) return true
  }
  return false
}

/** Offset after the last blank line, 0 when there is none. */
function lastBoundary(bytes: Buffer): number {
  const lf = bytes.lastIndexOf(BLANK_LINE)
  const crlf = bytes.lastIndexOf(BLANK_LINE_CRLF)
  return Math.max(lf === -1 ? 0 : lf + 2, crlf === -1 ? 0 : crlf + 4)
}

/** Offset after the first blank line from `from` on, the end when there is none. */
function firstBoundary(bytes: Buffer, from: number): number {
  const lf = bytes.indexOf(BLANK_LINE, from)
  if (lf !== -1) return lf + 2
  const crlf = bytes.indexOf(BLANK_LINE_CRLF, from)
  return crlf === -1 ? bytes.length : crlf + 4
}

function usageOfEvent(event: Buffer): Usage | undefined {
  const text = event.toString().trim()
  if (!text.startsWith('data: {')) return undefined
  try {
    const { choices, usage } = JSON.parse(text.slice('data: '.length)) as { choices?: unknown[]; usage?: unknown }
    return choices?.length === 0 ? readUsage(usage) : undefined
  } catch {
    return undefined
  }
}

function usageOfMessage(events: Buffer, before: UsageMembers | undefined): UsageMembers | undefined {
  let told = before
  for (const event of events.toString().split(/\r?\n\r?\n/)) {
    if (!event.startsWith('event: message_')) continue
    try {
      const { message, usage } = JSON.parse(event.slice(event.indexOf('{'))) as EventOfMessage
      told = mergeUsage(told, message?.usage ?? usage)
    } catch {
      // It tells nothing.
    }
  }
  return told
}

type EventOfMessage = { readonly message?: { readonly usage?: unknown } | null; readonly usage?: unknown }

const USAGE_START = Buffer.from('"usage":{')

/**
 * The usage of a whole, unstreamed answer without parsing all of it. A caller's text cannot fake it: inside a JSON
 * string the quotes would be escaped.
 */
export function usageOfAnswer(answer: Buffer): Usage | undefined {
  const at = answer.lastIndexOf(USAGE_START)
  if (at === -1) return undefined
  const start = at + USAGE_START.length - 1
  let depth = 0
  for (let end = start; end < answer.length; end++) {
    const byte = answer[end]
    if (byte === 0x7b) depth++
    else if (byte === 0x7d && --depth === 0) {
      try {
        return readUsage(JSON.parse(answer.toString('utf8', start, end + 1)))
      } catch {
        return undefined
      }
    }
  }
  return undefined
}
