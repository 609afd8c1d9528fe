// Looks at what a Redis sends before the client library does: only replies of the forms that our few commands have, none
// unasked, none endless. A reply that nobody asked for would be taken for the answer to the next command, and some of
// what RESP3 allows makes ioredis 6.0.0 throw where nobody can catch it.

const LF = 0x0a
/** Redis' longest error repeats part of a command, some hundred bytes of it. */
const LINE_CHARS_MAX = 4_096
const BULK_HEAD = /^\$(-1|\d{1,10})\r\n$/

/**
 * Invariant: `#bulkBytes` bytes of a value are still to come; when 0 and `#inBulk`, its line break is; else a reply's
 * first line.
 */
export class ReplyGate {
  readonly #valueBytesMax: number
  #expected = 0
  #line = ''
  #inBulk = false
  #bulkBytes = 0

  constructor(valueBytesMax: number) {
    this.#valueBytesMax = valueBytesMax
  }

  /** A command is sent: one more reply may come. */
  expect(): void {
    this.#expected++
  }

  /** Undefined while all is well; else what is wrong: nothing of the chunk may be used, nor of the connection. */
  read(chunk: Buffer): string | undefined {
    let at = 0
    while (at < chunk.length) {
      if (this.#bulkBytes > 0) {
        const taken = Math.min(this.#bulkBytes, chunk.length - at)
        this.#bulkBytes -= taken
        at += taken
        continue
      }
      if (this.#expected === 0) return 'it sent what nobody asked for'
      const lf = chunk.indexOf(LF, at)
      const end = lf === -1 ? chunk.length : lf + 1
      if (this.#line.length + end - at > LINE_CHARS_MAX) return 'it does not speak as a Redis does'
      this.#line += chunk.toString('latin1', at, end)
      at = end
      if (lf === -1) break
      const fault = this.#endLine()
      if (fault !== undefined) return fault
    }
    return undefined
  }

  #endLine(): string | undefined {
    const line = this.#line
    this.#line = ''
    if (this.#inBulk) {
      if (line !== '\r\n') return 'it does not speak as a Redis does'
      this.#endReply()
      return undefined
    }
    const [, length] = BULK_HEAD.exec(line) ?? []
    if (length !== undefined && length !== '-1') {
      if (Number(length) > this.#valueBytesMax) return 'it sent a value that is too large'
      this.#inBulk = true
      this.#bulkBytes = Number(length)
      return undefined
    }
    if (length !== '-1' && !/^[+-][^\r]*\r\n$/.test(line)) return 'it does not speak as a Redis does'
    this.#endReply()
    return undefined
  }

  #endReply(): void {
    this.#inBulk = false
    this.#expected--
  }
}
