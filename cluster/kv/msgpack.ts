// A reader of MessagePack, as far as KV events need it: over bytes, straight into typed arrays, without an object per
// number. Libraries read 64-bit hashes as BigInt or lose their low bits, and cost four times as much.

import type { HashList } from './hash-list.ts'
import type { Words } from './words.ts'

/** The bytes are no MessagePack, or not of the type that was asked for. */
export class MsgpackFault extends Error {}

export type MsgpackKind = 'nil' | 'bool' | 'integer' | 'float' | 'text' | 'bytes' | 'array' | 'map' | 'extension'

/** Values nested deeper than this are refused by `canonicalText`; skipping has no depth. */
const DEPTH_MAX = 16
/** An engine hash is the end of a digest: all that this project keeps of it. */
const HASH_BYTES = 8

const NO_WORDS = new Uint32Array(0)
const DECODER = new TextDecoder('utf-8', { ignoreBOM: true })

/**
 * Reads one value after the other. Invariant: `#at` never passes the end, and no count that a header claims is believed
 * beyond the bytes that are left, so what is allocated stays within a small multiple of the payload.
 */
export class MsgpackReader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #words: Words
  #at = 0
  // The hash read last: two numbers here instead of an object per block.
  #hi = 0
  #lo = 0

  /** @param words texts that are expected often. */
  constructor(bytes: Uint8Array, words: Words) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    this.#words = words
  }

  /** Offset of the next value, for `seek`. */
  get at(): number {
    return this.#at
  }

  get bytesLeft(): number {
    return this.#bytes.length - this.#at
  }

  /** Goes to an offset that `at` gave. */
  seek(at: number): void {
    this.#at = at
  }

  /** Passes over the next bytes if they are those between two offsets that `at` gave, end excluded. */
  passAlike(from: number, to: number): boolean {
    const start = this.#at
    const length = to - from
    if (length > this.bytesLeft) return false
    const view = this.#view
    let offset = 0
    for (; offset + 4 <= length; offset += 4) {
      if (view.getUint32(start + offset) !== view.getUint32(from + offset)) return false
    }
    const bytes = this.#bytes
    for (; offset < length; offset++) if (bytes[start + offset] !== bytes[from + offset]) return false
    this.#at = start + length
    return true
  }

  /** What the next value is, unread. */
  kind(): MsgpackKind {
    const head = this.#peek()
    if (head < 0x80 || head >= 0xe0) return 'integer'
    if (head < 0x90) return 'map'
    if (head < 0xa0) return 'array'
    if (head < 0xc0) return 'text'
    return KINDS[head - 0xc0] ?? this.#fail('an unused type byte')
  }

  /** Takes the next value if it is nil. */
  nil(): boolean {
    if (this.#peek() !== 0xc0) return false
    this.#at++
    return true
  }

  /** How many values follow in the array that begins here. */
  array(): number {
    const head = this.#take()
    if (head >= 0x90 && head < 0xa0) return this.#counted(head & 0x0f)
    if (head === 0xdc) return this.#counted(this.#unsigned(2))
    if (head === 0xdd) return this.#counted(this.#unsigned(4))
    return this.#fail('no array')
  }

  /** How many pairs of values follow in the map that begins here. */
  map(): number {
    const head = this.#take()
    if (head >= 0x80 && head < 0x90) return this.#counted(2 * (head & 0x0f)) / 2
    if (head === 0xde) return this.#counted(2 * this.#unsigned(2)) / 2
    if (head === 0xdf) return this.#counted(2 * this.#unsigned(4)) / 2
    return this.#fail('no map')
  }

  /** An integer or a float. Integers beyond 2^53 lose their low bits here; hashes are read by `hashes`. */
  number(): number {
    const head = this.#peek()
    if (head !== 0xca && head !== 0xcb) {
      this.#integer()
      return (this.#hi | 0) * 2 ** 32 + this.#lo + (head === 0xcf && this.#hi >= 2 ** 31 ? 2 ** 64 : 0)
    }
    this.#at++
    const size = head === 0xca ? 4 : 8
    const at = this.#advance(size)
    return size === 4 ? this.#view.getFloat32(at) : this.#view.getFloat64(at)
  }

  /** Malformed UTF-8 becomes U+FFFD. */
  text(): string {
    const head = this.#take()
    let length: number
    if (head >= 0xa0 && head < 0xc0) length = head & 0x1f
    else if (head >= 0xd9 && head <= 0xdb) length = this.#unsigned(1 << (head - 0xd9))
    else return this.#fail('no text')
    return this.#textOf(length)
  }

  /** The next value if it is a text; anything else is passed over, and undefined. */
  textOrSkip(): string | undefined {
    const head = this.#peek()
    // Names of fields are short: the rest is for what else there may be.
    if (head >= 0xa0 && head < 0xc0) {
      this.#at++
      return this.#textOf(head & 0x1f)
    }
    if (head >= 0xd9 && head <= 0xdb) return this.text()
    this.skip()
    return undefined
  }

  /** A view of the payload, not a copy. */
  bytes(): Uint8Array {
    const head = this.#take()
    if (head < 0xc4 || head > 0xc6) return this.#fail('no bytes')
    const length = this.#unsigned(1 << (head - 0xc4))
    const at = this.#advance(length)
    return this.#bytes.subarray(at, at + length)
  }

  /** Passes over the next value, however deep: the stack does not grow with it. */
  skip(): void {
    let pending = 1
    while (pending > 0) {
      if (pending > this.bytesLeft) this.#fail('more values than bytes')
      pending--
      const head = this.#take()
      if (head < 0x80 || head >= 0xe0 || head === 0xc0 || head === 0xc2 || head === 0xc3) continue
      if (head < 0x90) pending += 2 * (head & 0x0f)
      else if (head < 0xa0) pending += head & 0x0f
      else if (head < 0xc0) this.#advance(head & 0x1f)
      else if (head === 0xdc || head === 0xdd) pending += this.#unsigned(head === 0xdc ? 2 : 4)
      else if (head === 0xde || head === 0xdf) pending += 2 * this.#unsigned(head === 0xde ? 2 : 4)
      else if (head === 0xc1) this.#fail('an unused type byte')
      else if (head <= 0xc6) this.#advance(this.#unsigned(1 << (head - 0xc4)))
      else if (head <= 0xc9) this.#advance(1 + this.#unsigned(1 << (head - 0xc7)))
      else if (head >= 0xd9) this.#advance(this.#unsigned(1 << (head - 0xd9)))
      else this.#advance(FIXED_BYTES[head - 0xca] as number)
    }
  }

  /** An array of integers from 0 to 2^32 - 1; undefined, and passed over, when anything else is in it. */
  uint32s(): Uint32Array | undefined {
    const start = this.#at
    const count = this.array()
    if (count === 0) return NO_WORDS
    const values = new Uint32Array(count)
    const bytes = this.#bytes
    const view = this.#view
    const { length } = bytes
    let at = this.#at
    for (let index = 0; index < count; index++) {
      const head = bytes[at] as number
      if (head < 0x80) {
        values[index] = head
        at++
      } else if (at + 4 < length && (head - 0xcd) >>> 0 <= 1) {
        // Two bytes or four, as it comes: a processor cannot guess which, so that there is no branch.
        const wide = head - 0xcd
        values[index] = view.getUint32(at + 1) >>> (16 - 16 * wide)
        at += 3 + 2 * wide
      } else {
        this.#at = at
        if (this.kind() === 'integer') {
          this.#integer()
          if (this.#hi === 0) {
            values[index] = this.#lo
            at = this.#at
            continue
          }
        }
        this.#at = start
        this.skip()
        return undefined
      }
    }
    this.#at = at
    return values
  }

  /** An array of no more than `most` hashes as pairs of words, high word first. */
  hashes(most: number): Uint32Array {
    const count = this.#atMost(most)
    if (count === 0) return NO_WORDS
    const words = new Uint32Array(2 * count)
    this.#hashesInto(words, 0, count)
    return words
  }

  /** The same, behind what is in the list. */
  hashesOnto(list: HashList, most: number): void {
    const count = this.#atMost(most)
    const from = list.length
    this.#hashesInto(list.extend(2 * count), from, count)
  }

  /** One hash. Integers of any width, negative ones in two's complement; of bytes the last eight, big-endian. */
  hash(): { readonly hi: number; readonly lo: number } {
    this.#hash()
    return { hi: this.#hi, lo: this.#lo }
  }

  /** The next value as a text that is the same for equal values, whatever widths and key order they were written in. */
  canonicalText(depth = 0): string {
    if (depth > DEPTH_MAX) return this.#fail('values nested too deeply')
    switch (this.kind()) {
      case 'nil':
        this.#at++
        return 'null'
      case 'bool':
        return this.#take() === 0xc3 ? 'true' : 'false'
      case 'float':
        return String(this.number())
      case 'integer': {
        const start = this.#at
        const value = this.number()
        if (Number.isSafeInteger(value)) return String(value)
        this.#at = start
        this.#integer()
        return `0x${word(this.#hi)}${word(this.#lo)}`
      }
      case 'text':
        return JSON.stringify(this.text())
      case 'bytes':
        return `x${hex(this.bytes())}`
      case 'extension': {
        const start = this.#at
        this.skip()
        return `ext${hex(this.#bytes.subarray(start, this.#at))}`
      }
      case 'array': {
        const items: string[] = []
        for (let left = this.array(); left > 0; left--) items.push(this.canonicalText(depth + 1))
        return `[${items.join(',')}]`
      }
      case 'map': {
        const items: string[] = []
        for (let left = this.map(); left > 0; left--) {
          items.push(`${this.canonicalText(depth + 1)}:${this.canonicalText(depth + 1)}`)
        }
        return `{${items.sort().join(',')}}`
      }
    }
  }

  #textOf(length: number): string {
    const at = this.#advance(length)
    return this.#words.find(this.#view, at, length) ?? DECODER.decode(this.#bytes.subarray(at, at + length))
  }

  #atMost(most: number): number {
    const count = this.array()
    return count <= most ? count : this.#fail(`${count} hashes where ${most} may be`)
  }

  #hashesInto(words: Uint32Array, from: number, count: number): void {
    const bytes = this.#bytes
    const view = this.#view
    const end = from + 2 * count
    const last = bytes.length - HASH_BYTES
    let at = this.#at
    for (let to = from; to < end; to += 2) {
      // What vLLM writes unless told otherwise.
      if (bytes[at] === 0xcf && at < last) {
        words[to] = view.getUint32(at + 1)
        words[to + 1] = view.getUint32(at + 5)
        at += 1 + HASH_BYTES
        continue
      }
      this.#at = at
      this.#hash()
      words[to] = this.#hi
      words[to + 1] = this.#lo
      at = this.#at
    }
    this.#at = at
  }

  #hash(): void {
    const head = this.#peek()
    if (head < 0xc4 || head > 0xc6) return this.#integer()
    this.#at++
    const length = this.#unsigned(1 << (head - 0xc4))
    if (length < HASH_BYTES) this.#fail(`a hash of ${length} bytes`)
    const end = this.#advance(length) + length
    this.#hi = this.#view.getUint32(end - 8)
    this.#lo = this.#view.getUint32(end - 4)
  }

  /** Any integer, into the two words. */
  #integer(): void {
    const head = this.#take()
    if (head < 0x80) return this.#set(0, head)
    if (head >= 0xe0) return this.#set(-1, head - 0x100)
    switch (head) {
      case 0xcc:
        return this.#set(0, this.#view.getUint8(this.#advance(1)))
      case 0xcd:
        return this.#set(0, this.#view.getUint16(this.#advance(2)))
      case 0xce:
        return this.#set(0, this.#view.getUint32(this.#advance(4)))
      case 0xd0:
        return this.#setSigned(this.#view.getInt8(this.#advance(1)))
      case 0xd1:
        return this.#setSigned(this.#view.getInt16(this.#advance(2)))
      case 0xd2:
        return this.#setSigned(this.#view.getInt32(this.#advance(4)))
      case 0xcf:
      case 0xd3: {
        const at = this.#advance(8)
        return this.#set(this.#view.getUint32(at), this.#view.getUint32(at + 4))
      }
      default:
        this.#fail('no integer')
    }
  }

  #setSigned(value: number): void {
    this.#set(value < 0 ? -1 : 0, value)
  }

  #set(hi: number, lo: number): void {
    this.#hi = hi >>> 0
    this.#lo = lo >>> 0
  }

  /** Every value takes a byte at least: a count beyond the bytes that are left is a lie, and costs nothing here. */
  #counted(values: number): number {
    return values <= this.bytesLeft ? values : this.#fail('more values than bytes')
  }

  #unsigned(size: number): number {
    const at = this.#advance(size)
    if (size === 1) return this.#view.getUint8(at)
    return size === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at)
  }

  /** Gives the offset before `size` bytes, and stands after them. */
  #advance(size: number): number {
    const at = this.#at
    if (size > this.bytesLeft) this.#fail('the end inside a value')
    this.#at = at + size
    return at
  }

  #take(): number {
    const head = this.#peek()
    this.#at++
    return head
  }

  #peek(): number {
    return this.#bytes[this.#at] ?? this.#fail('the end where a value should be')
  }

  #fail(what: string): never {
    throw new MsgpackFault(`${what} at byte ${this.#at} of ${this.#bytes.length}`)
  }
}

/** Of the type bytes 0xc0 to 0xdf. */
const KINDS: readonly (MsgpackKind | undefined)[] = [
  'nil',
  undefined,
  'bool',
  'bool',
  ...new Array<MsgpackKind>(3).fill('bytes'),
  ...new Array<MsgpackKind>(3).fill('extension'),
  ...new Array<MsgpackKind>(2).fill('float'),
  ...new Array<MsgpackKind>(8).fill('integer'),
  ...new Array<MsgpackKind>(5).fill('extension'),
  ...new Array<MsgpackKind>(3).fill('text'),
  ...new Array<MsgpackKind>(2).fill('array'),
  ...new Array<MsgpackKind>(2).fill('map'),
]

/** Bytes after the type bytes 0xca to 0xd8: floats, integers, extensions of a fixed size. */
const FIXED_BYTES: readonly number[] = [4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 3, 5, 9, 17]

function word(value: number): string {
  return value.toString(16).padStart(8, '0')
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex')
}
