// The one look that the router takes at a streamed answer. It finds event boundaries, the usage event, the terminal event
// and an error, on bytes and without parsing more than the usage event: this runs once per streamed token.
import type { Dialect } from '../../shared/dialect.ts'
import { readUsage, type Usage } from '../../shared/usage.ts'

/**
 * An event longer than this is passed on unread. vLLM's are a few hundred bytes, with logprobs some thousand; those of a
 * response repeat its instructions and tools, which may fill a request.
 */
const EVENT_BYTES_MAX = { chat: 1024 * 1024, completions: 1024 * 1024, responses: 9 * 1024 * 1024 }

const LF = 0x0a
const BLANK_LINE = Buffer.from('\n\n')
const BLANK_LINE_CRLF = Buffer.from('\r\n\r\n')
const ERROR_START = Buffer.from('data: {"error"')
const NO_CHOICES = Buffer.from('"choices":[]')
const DONE_START = Buffer.from('data: [DONE]')
/** The last events of a response: it has no `[DONE]`. */
const RESPONSE_ENDS = ['completed', 'incomplete', 'failed'].map((how) => Buffer.from(`event: response.${how}\n`))

const NOTHING = Buffer.alloc(0)

/** Invariant: `#partial` holds the bytes after the last event boundary, and none of them has been handed out. */
export class EventStream {
  readonly #withholdUsage: boolean
  readonly #dialect: Dialect
  #partial: Buffer = NOTHING
  #unreadable = false
  #done = false
  #failed = false
  #usage: Usage | undefined

  /** @param withholdUsage drop the event without choices: the caller did not ask for usage, the router did. */
  constructor(withholdUsage: boolean, dialect: Dialect = 'chat') {
    this.#withholdUsage = withholdUsage
    this.#dialect = dialect
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
      if (this.#partial.length > EVENT_BYTES_MAX[this.#dialect]) return this.#giveUp(bytes)
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
    if (startsAnEvent(events, ERROR_START)) this.#failed = true
    if (this.#dialect === 'responses') return this.#readResponse(events)
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
  return events.subarray(0, ERROR_START.length).equals(ERROR_START)
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
