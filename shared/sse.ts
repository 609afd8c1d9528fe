// Finds the events in a byte stream of server-sent events (WHATWG HTML, section 9.2) without changing a byte of it: who
// passes a stream on needs to know where an event ends and what it says, and may leave one out.

/** A longer event is usually not held: one upstream must not fill the memory that all requests share. */
export const SSE_EVENT_BYTES_MAX = 1024 * 1024

const LINE_FEED = 0x0a
const CARRIAGE_RETURN = 0x0d
const HELD_BYTES_INITIAL = 1024

export type SseEvent = {
  /** The event as it came, with the blank line that ends it. The events' bytes joined are the stream. */
  readonly bytes: Uint8Array
  /** Its `data` lines joined by line feeds; undefined when it has none, as in a comment that keeps a stream alive. */
  readonly data: string | undefined
}

export type SseSplit = {
  readonly events: readonly SseEvent[]
  /** Whether an event passed the splitter's limit. The splitter then finds no more events. */
  readonly tooLarge: boolean
}

/**
 * Splits chunks, cut anywhere, into events. An event that its stream never ends is not one: after the last chunk,
 * drop it.
 */
export class SseSplitter {
  /** The bytes of the event that has begun and not ended: the first `#heldLength` of `#held`. */
  #held = new Uint8Array(HELD_BYTES_INITIAL)
  #heldLength = 0
  /** Whether no byte of the current line was seen. */
  #atLineStart = true
  /** Whether the byte before was a carriage return: a line feed then ends no second line. */
  #afterReturn = false
  #first = true
  #tooLarge = false
  readonly #eventBytesMax: number

  constructor(eventBytesMax = SSE_EVENT_BYTES_MAX) {
    this.#eventBytesMax = eventBytesMax
  }

  /** Takes the next chunk; answers the events that it completes. Their bytes may be views of the chunk. */
  push(chunk: Uint8Array): SseSplit {
    const events: SseEvent[] = []
    let start = 0
    for (let at = 0; at < chunk.length && !this.#tooLarge; at++) {
      const byte = chunk[at]
      const endsReturn = this.#afterReturn && byte === LINE_FEED
      this.#afterReturn = byte === CARRIAGE_RETURN
      if (endsReturn) continue
      if (byte !== LINE_FEED && byte !== CARRIAGE_RETURN) {
        this.#atLineStart = false
        continue
      }
      if (!this.#atLineStart) {
        this.#atLineStart = true
        continue
      }
      // A line feed that follows in the next chunk goes to the next event, where it changes nothing.
      if (this.#afterReturn && chunk[at + 1] === LINE_FEED) {
        this.#afterReturn = false
        at++
      }
      const event = this.#take(chunk.subarray(start, at + 1))
      if (event) events.push(event)
      start = at + 1
    }
    if (!this.#tooLarge) this.#hold(chunk.subarray(start))
    return { events, tooLarge: this.#tooLarge }
  }

  #take(end: Uint8Array): SseEvent | undefined {
    let bytes = end
    if (this.#heldLength > 0) {
      this.#hold(end)
      bytes = this.#held.slice(0, this.#heldLength)
      this.#heldLength = 0
    }
    if (bytes.length > this.#eventBytesMax) this.#tooLarge = true
    if (this.#tooLarge) return undefined
    const data = dataOf(bytes, this.#first)
    this.#first = false
    return { bytes, data }
  }

  #hold(bytes: Uint8Array): void {
    const length = this.#heldLength + bytes.length
    if (length > this.#eventBytesMax) {
      this.#tooLarge = true
      return
    }
    if (length > this.#held.length) {
      const wider = new Uint8Array(Math.min(this.#eventBytesMax, Math.max(length, 2 * this.#held.length)))
      wider.set(this.#held.subarray(0, this.#heldLength))
      this.#held = wider
    }
    this.#held.set(bytes, this.#heldLength)
    this.#heldLength = length
  }
}

const decoder = new TextDecoder('utf-8', { fatal: false, ignoreBOM: true })

function dataOf(bytes: Uint8Array, first: boolean): string | undefined {
  let text = decoder.decode(bytes)
  // Only a stream may begin with a byte order mark, not an event.
  if (first && text.startsWith('\ufeff')) text = text.slice(1)
  let data: string | undefined
  for (const line of text.split(/\r\n|\n|\r/)) {
    const value = valueOfData(line)
    if (value === undefined) continue
    data = data === undefined ? value : `${data}\n${value}`
  }
  return data
}

function valueOfData(line: string): string | undefined {
  if (line === 'data') return ''
  if (!line.startsWith('data:')) return undefined
  return line.charAt(5) === ' ' ? line.slice(6) : line.slice(5)
}
