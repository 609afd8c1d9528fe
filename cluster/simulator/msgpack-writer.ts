// Writes MessagePack as msgspec does: every number in its shortest form, floats in eight bytes. Only what KV events need.

const BYTES_AT_FIRST = 1_024

/** One message. */
export class MsgpackWriter {
  #bytes = Buffer.allocUnsafe(BYTES_AT_FIRST)
  #length = 0

  /**
   * What was written so far, in memory of its own. A view would keep all of what it is cut from: the slab that Node shares
   * among small buffers, or twice the message.
   */
  bytes(): Buffer {
    const own = Buffer.allocUnsafeSlow(this.#length)
    this.#bytes.copy(own)
    return own
  }

  nil(): void {
    this.#byte(0xc0)
  }

  float(value: number): void {
    this.#reserve(9)
    this.#bytes[this.#length] = 0xcb
    this.#length = this.#bytes.writeDoubleBE(value, this.#length + 1)
  }

  /** A whole number from 0 to 2^32 - 1. */
  uint(value: number): void {
    this.#reserve(5)
    const bytes = this.#bytes
    const at = this.#length
    if (value < 0x80) {
      bytes[at] = value
      this.#length = at + 1
    } else if (value < 0x100) {
      bytes[at] = 0xcc
      bytes[at + 1] = value
      this.#length = at + 2
    } else if (value < 0x10000) {
      bytes[at] = 0xcd
      this.#length = bytes.writeUInt16BE(value, at + 1)
    } else {
      bytes[at] = 0xce
      this.#length = bytes.writeUInt32BE(value, at + 1)
    }
  }

  /** A number of 64 bits as its two words. */
  uint64(high: number, low: number): void {
    if (high === 0) return this.uint(low)
    this.#reserve(9)
    this.#bytes[this.#length] = 0xcf
    this.#bytes.writeUInt32BE(high, this.#length + 1)
    this.#length = this.#bytes.writeUInt32BE(low, this.#length + 5)
  }

  text(text: string): void {
    const length = Buffer.byteLength(text)
    if (length < 32) this.#byte(0xa0 | length)
    else if (length < 0x100) this.#head(0xd9, length, 1)
    else if (length < 0x10000) this.#head(0xda, length, 2)
    else this.#head(0xdb, length, 4)
    this.#reserve(length)
    this.#length += this.#bytes.write(text, this.#length, 'utf8')
  }

  /** Up to 255 bytes. */
  binary(bytes: Uint8Array): void {
    this.#head(0xc4, bytes.length, 1)
    this.#reserve(bytes.length)
    this.#bytes.set(bytes, this.#length)
    this.#length += bytes.length
  }

  /** The head of an array; its `length` items follow. */
  array(length: number): void {
    if (length < 16) this.#byte(0x90 | length)
    else if (length < 0x10000) this.#head(0xdc, length, 2)
    else this.#head(0xdd, length, 4)
  }

  /** The head of a map; `size` keys, each with its value, follow. At most 15. */
  map(size: number): void {
    this.#byte(0x80 | size)
  }

  #byte(byte: number): void {
    this.#reserve(1)
    this.#bytes[this.#length++] = byte
  }

  #head(type: number, length: number, width: 1 | 2 | 4): void {
    this.#reserve(1 + width)
    this.#bytes[this.#length] = type
    this.#length = this.#bytes.writeUIntBE(length, this.#length + 1, width)
  }

  #reserve(count: number): void {
    const needed = this.#length + count
    if (needed <= this.#bytes.length) return
    const grown = Buffer.allocUnsafe(Math.max(needed, 2 * this.#bytes.length))
    this.#bytes.copy(grown, 0, 0, this.#length)
    this.#bytes = grown
  }
}
