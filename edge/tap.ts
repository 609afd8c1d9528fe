// Readers of answers as they pass: what an answer says of its end and of its usage, and which bytes of it go on.
import type { ErrorShape } from '../shared/dialect.ts'
import { errorEvent } from '../shared/rejection.ts'
import { SseSplitter } from '../shared/sse.ts'
import { readUsage, type Usage } from '../shared/usage.ts'
import { concat } from './bytes.ts'

export type Tap = {
  /** Takes a chunk; answers the bytes of it, and of those held back before, that go on; undefined: it is unreadable. */
  readonly push: (chunk: Uint8Array) => Uint8Array | undefined
  /** How the answer ended by its own words, as soon as it has said so. */
  readonly ended: () => 'complete' | 'upstream_error' | undefined
  /** What it means when the bytes end in good order and those words have not come. */
  readonly silentEnd: 'complete' | 'upstream_truncated'
  readonly usage: () => Usage | undefined
  /** A failure in bytes that the caller understands; undefined where only breaking off can tell it. */
  readonly failure: (code: string, message: string) => Uint8Array | undefined
}

/** A larger answer passes as well, but its usage is not read. */
const ANSWER_BYTES_READ_MAX = 1024 * 1024
const TERMINAL_DATA = '[DONE]'

/** For an event stream. Bytes go on event by event: a broken-off event would swallow the error frame after it. */
export function eventTap(shape: ErrorShape, withholdUsage: boolean): Tap {
  const splitter = new SseSplitter()
  let ended: 'complete' | 'upstream_error' | undefined
  let usage: Usage | undefined

  /** Takes note of an event; answers whether it goes on. */
  function read(data: string): boolean {
    if (data === TERMINAL_DATA) {
      ended ??= 'complete'
      return true
    }
    if (!data.includes('"usage"') && !data.includes('"error"')) return true
    const message = parseObject(data)
    if (message?.error) ended = 'upstream_error'
    const told = readUsage(message?.usage)
    if (!told) return true
    usage = told
    // Only the event that carries nothing else: with continuous usage every chunk of text carries some.
    return !(withholdUsage && Array.isArray(message?.choices) && message.choices.length === 0)
  }

  return {
    push(chunk) {
      const { events, tooLarge } = splitter.push(chunk)
      if (tooLarge) return undefined
      return concat(events.filter(({ data }) => data === undefined || read(data)).map(({ bytes }) => bytes))
    },
    ended: () => ended,
    silentEnd: 'upstream_truncated',
    usage: () => usage,
    failure: (code, message) => new TextEncoder().encode(errorEvent(shape, code, message)),
  }
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
