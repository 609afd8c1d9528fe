// Picks members of the first level out of a JSON object while its bytes pass: an answer may be of any size, and what it
// says of itself is small.

/** A longer member is passed over. Usage that counts every turn of tools stays far below. */
export const MEMBER_BYTES_MAX = 16 * 1024

const QUOTE = 0x22
const COMMA = 0x2c
const OPEN_BRACKET = 0x5b
const BACKSLASH = 0x5c
const CLOSE_BRACKET = 0x5d
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d

/** Of bytes that are no JSON object it finds nothing, or nonsense; it never throws and never holds more than a member. */
export class TopMembers {
  readonly #names: ReadonlySet<string>
  readonly #found = new Map<string, unknown>()
  /** Open objects and arrays around the next byte. */
  #depth = 0
  #inString = false
  #escaped = false
  /** What has passed of the member at hand: the first `#heldLength` of `#held`, unless that was too long. */
  readonly #held = new Uint8Array(MEMBER_BYTES_MAX)
  #heldLength = 0
  #tooLong = false

  constructor(names: readonly string[]) {
    this.#names = new Set(names)
  }

  push(chunk: Uint8Array): void {
    let start = 0
    for (let at = 0; at < chunk.length; at++) {
      if (this.#inString) {
        at = this.#passString(chunk, at)
        continue
      }
      switch (chunk[at]) {
        case QUOTE:
          this.#inString = true
          break
        case OPEN_BRACE:
        case OPEN_BRACKET:
          this.#depth++
          if (this.#depth === 1) start = at + 1
          break
        case CLOSE_BRACE:
        case CLOSE_BRACKET:
          this.#depth--
          if (this.#depth === 0) this.#endMember(chunk.subarray(start, at))
          break
        case COMMA:
          if (this.#depth !== 1) break
          this.#endMember(chunk.subarray(start, at))
          start = at + 1
      }
    }
    if (this.#depth > 0) this.#hold(chunk.subarray(start))
  }

  /** The members that have passed whole, by name. */
  found(): Readonly<Record<string, unknown>> {
    return Object.fromEntries(this.#found)
  }

  /** Answers where the string ends that `from` stands in, or the chunk. */
  #passString(chunk: Uint8Array, from: number): number {
    let at = from
    if (this.#escaped && at < chunk.length) {
      this.#escaped = false
      at++
    }
    while (at < chunk.length) {
      const byte = chunk[at]
      if (byte === QUOTE) {
        this.#inString = false
        return at
      }
      at += byte === BACKSLASH ? 2 : 1
    }
    // Beyond the end where a backslash was the last byte.
    this.#escaped = at > chunk.length
    return chunk.length
  }

  #endMember(end: Uint8Array): void {
    this.#hold(end)
    const text = this.#tooLong ? '' : new TextDecoder().decode(this.#held.subarray(0, this.#heldLength))
    this.#heldLength = 0
    this.#tooLong = false
    try {
      for (const [name, value] of Object.entries(JSON.parse(`{${text}}`))) {
        if (this.#names.has(name)) this.#found.set(name, value)
      }
    } catch {
      // No JSON: it says nothing.
    }
  }

  #hold(bytes: Uint8Array): void {
    const length = this.#heldLength + bytes.length
    if (length > MEMBER_BYTES_MAX) this.#tooLong = true
    if (this.#tooLong) return
    this.#held.set(bytes, this.#heldLength)
    this.#heldLength = length
  }
}
