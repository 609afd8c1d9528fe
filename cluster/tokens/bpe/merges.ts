// Byte-pair merges: from a word to its tokens, by the ranks of the pairs. Pairs lie in one flat table.
import { isObject, isTokenId, NotExact, type Settings } from './settings.ts'

/** Token ids of a word. What it gives is valid until the next call. */
export type Merges = (word: string) => Uint32Array

const MERGES_MAX = 4 * 1024 * 1024
/** A word that is longer is merged with a heap: looking at all pairs again and again takes the square of its length. */
const SCANNED_BYTES_MAX = 48
const NO_RANK = 0xffffffff
const SLOT_WORDS = 3
/** Of slots, how many may be filled. */
const FULL_MAX = 0.5

export function createMerges(model: Settings): Merges {
  const { type, vocab, merges, ignore_merges: wholeFirst } = model
  if (type !== 'BPE') throw new NotExact(`the model ${String(type)}`)
  for (const name of ['dropout', 'continuing_subword_prefix', 'end_of_word_suffix', 'byte_fallback'] as const) {
    if (model[name]) throw new NotExact(`the model has ${name}`)
  }
  if (!isObject(vocab) || !Array.isArray(merges)) throw new NotExact('the model has no vocabulary or no merges')
  if (merges.length > MERGES_MAX) throw new NotExact('the model has too many merges')
  const letters = lettersOfBytes()
  const { idOf, byteIds, pairs } = readVocabulary(vocab, merges, letters)
  const merger = new Merger(pairs)
  const bytes = new Uint8Array(4 * WORD_CHARS_FIRST)
  const whole = wholeFirst === true ? idOf : undefined
  const one = new Uint32Array(1)
  return (word) => {
    let size = 0
    let input = bytes
    if (word.length > WORD_CHARS_FIRST) {
      input = Buffer.from(word)
      size = input.length
    } else size = utf8.encodeInto(word, bytes).written
    if (whole !== undefined) {
      const id = whole.get(spelled(input, size, letters))
      if (id !== undefined) {
        one[0] = id
        return one
      }
    }
    return merger.merge(input, size, byteIds)
  }
}

/** Apart from the merging, so that nothing of it is kept that is not used: a vocabulary has a hundred thousand strings. */
function readVocabulary(vocab: Settings, merges: readonly unknown[], letters: readonly string[]) {
  const idOf = new Map<string, number>()
  for (const [token, id] of Object.entries(vocab)) {
    if (!isTokenId(id)) throw new NotExact('the vocabulary has an id that is none')
    idOf.set(token, id)
  }
  const byteIds = Uint32Array.from(letters, (letter) => {
    const id = idOf.get(letter)
    if (id === undefined) throw new NotExact('the vocabulary lacks a byte')
    return id
  })
  const pairs = new Pairs(merges.length)
  merges.forEach((merge: unknown, rank) => {
    const [left, right] = halvesOf(merge)
    const ids = [left, right, left + right].map((token) => idOf.get(token))
    if (!ids.every((id) => id !== undefined)) throw new NotExact('a merge names a token that there is not')
    const [leftId, rightId, id] = ids as [number, number, number]
    pairs.add(leftId, rightId, rank, id)
  })
  return { idOf, byteIds, pairs }
}

const WORD_CHARS_FIRST = 256
const utf8 = new TextEncoder()

function halvesOf(merge: unknown): readonly [string, string] {
  const halves = typeof merge === 'string' ? merge.split(' ') : merge
  if (!Array.isArray(halves) || halves.length !== 2) throw new NotExact('a merge is no pair')
  const [left, right] = halves as unknown[]
  if (typeof left !== 'string' || typeof right !== 'string') throw new NotExact('a merge is no pair')
  return [left, right]
}

/** The letter that stands for each byte in a vocabulary: itself where it is printable, else one from U+0100 on. */
function lettersOfBytes(): readonly string[] {
  let next = 0x100
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad)
    return String.fromCharCode(printable ? byte : next++)
  })
}

function spelled(bytes: Uint8Array, size: number, letters: readonly string[]): string {
  let text = ''
  for (let at = 0; at < size; at++) text += letters[bytes[at] as number]
  return text
}

/** Open addressing: left, right, rank in a slot; the merged id stands under its rank. */
class Pairs {
  readonly #slots: Uint32Array
  readonly #mask: number
  readonly #merged: Uint32Array

  constructor(count: number) {
    const slots = 2 ** Math.ceil(Math.log2(Math.max(16, count / FULL_MAX)))
    this.#mask = slots - 1
    this.#slots = new Uint32Array(slots * SLOT_WORDS)
    for (let at = 2; at < this.#slots.length; at += SLOT_WORDS) this.#slots[at] = NO_RANK
    this.#merged = new Uint32Array(count)
  }

  /** A pair that is named twice has the rank of its last mention, as in a map that is filled in order. */
  add(left: number, right: number, rank: number, merged: number): void {
    const at = this.#find(left, right)
    this.#slots[at] = left
    this.#slots[at + 1] = right
    this.#slots[at + 2] = rank
    this.#merged[rank] = merged
  }

  rank(left: number, right: number): number {
    return this.#slots[this.#find(left, right) + 2] as number
  }

  merged(rank: number): number {
    return this.#merged[rank] as number
  }

  #find(left: number, right: number): number {
    const slots = this.#slots
    let slot = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca77)
    slot = Math.imul(slot ^ (slot >>> 15), 0xc2b2ae3d)
    slot = (slot ^ (slot >>> 13)) & this.#mask
    for (;;) {
      const at = slot * SLOT_WORDS
      if (slots[at + 2] === NO_RANK || (slots[at] === left && slots[at + 1] === right)) return at
      slot = (slot + 1) & this.#mask
    }
  }
}

/** Scratch space for one word at a time. */
class Merger {
  readonly #pairs: Pairs
  #ids = new Uint32Array(WORD_CHARS_FIRST * 4)
  readonly #ranks = new Uint32Array(SCANNED_BYTES_MAX)

  constructor(pairs: Pairs) {
    this.#pairs = pairs
  }

  merge(bytes: Uint8Array, size: number, byteIds: Uint32Array): Uint32Array {
    const ids = size > this.#ids.length ? new Uint32Array(size) : this.#ids
    for (let at = 0; at < size; at++) ids[at] = byteIds[bytes[at] as number] as number
    const count = size > SCANNED_BYTES_MAX ? this.#mergeByHeap(ids, size) : this.#mergeByScan(ids, size)
    return ids.subarray(0, count)
  }

  #mergeByScan(ids: Uint32Array, size: number): number {
    const pairs = this.#pairs
    const ranks = this.#ranks
    let count = size
    for (let at = 0; at + 1 < count; at++) ranks[at] = pairs.rank(ids[at] as number, ids[at + 1] as number)
    for (;;) {
      let best = NO_RANK
      let place = 0
      for (let at = 0; at + 1 < count; at++) {
        const rank = ranks[at] as number
        if (rank < best) {
          best = rank
          place = at
        }
      }
      if (best === NO_RANK) return count
      ids[place] = pairs.merged(best)
      count--
      for (let at = place + 1; at < count; at++) {
        ids[at] = ids[at + 1] as number
        ranks[at] = ranks[at + 1] as number
      }
      if (place > 0) ranks[place - 1] = pairs.rank(ids[place - 1] as number, ids[place] as number)
      if (place + 1 < count) ranks[place] = pairs.rank(ids[place] as number, ids[place + 1] as number)
    }
  }

  /** Tokens are a linked list; the heap has the pairs by rank, then place. One that has changed since is passed over. */
  #mergeByHeap(ids: Uint32Array, size: number): number {
    const pairs = this.#pairs
    const next = new Int32Array(size)
    const previous = new Int32Array(size)
    const gone = new Uint8Array(size)
    for (let at = 0; at < size; at++) {
      next[at] = at + 1 < size ? at + 1 : -1
      previous[at] = at - 1
    }
    const heap = new Heap(size)
    const offer = (at: number): void => {
      const right = at < 0 ? -1 : (next[at] as number)
      if (right < 0) return
      const rank = pairs.rank(ids[at] as number, ids[right] as number)
      if (rank !== NO_RANK) heap.push(rank * PLACES + at)
    }
    for (let at = 0; at < size; at++) offer(at)
    for (let key = heap.pop(); key >= 0; key = heap.pop()) {
      const rank = Math.floor(key / PLACES)
      const at = key % PLACES
      const right = next[at] as number
      if (gone[at] === 1 || right < 0 || pairs.rank(ids[at] as number, ids[right] as number) !== rank) continue
      ids[at] = pairs.merged(rank)
      gone[right] = 1
      const after = next[right] as number
      next[at] = after
      if (after >= 0) previous[after] = at
      offer(previous[at] as number)
      offer(at)
    }
    let count = 0
    for (let at = 0; at >= 0; at = next[at] as number) ids[count++] = ids[at] as number
    return count
  }
}

/** Places in a word, so that rank and place are one number below 2^53. */
const PLACES = 2 ** 30

/** The smallest number first. */
class Heap {
  #keys: Float64Array
  #size = 0

  constructor(size: number) {
    this.#keys = new Float64Array(size + 16)
  }

  push(key: number): void {
    if (this.#size === this.#keys.length) {
      const roomier = new Float64Array(2 * this.#size)
      roomier.set(this.#keys)
      this.#keys = roomier
    }
    const keys = this.#keys
    let at = this.#size++
    while (at > 0) {
      const parent = (at - 1) >> 1
      if ((keys[parent] as number) <= key) break
      keys[at] = keys[parent] as number
      at = parent
    }
    keys[at] = key
  }

  /** -1 when it is empty. */
  pop(): number {
    if (this.#size === 0) return -1
    const keys = this.#keys
    const top = keys[0] as number
    const key = keys[--this.#size] as number
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= this.#size) break
      if (child + 1 < this.#size && (keys[child + 1] as number) < (keys[child] as number)) child++
      if ((keys[child] as number) >= key) break
      keys[at] = keys[child] as number
      at = child
    }
    keys[at] = key
    return top
  }
}
