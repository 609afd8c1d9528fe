// Token ids of words that were seen: a text's words repeat. All of it lies in two flat arrays, so that neither a look-up
// makes garbage nor the collector has anything to look through.
import { randomInt } from 'node:crypto'

/** Longer ones seldom come again. */
const WORD_CHARS_MAX = 48
/** Of UTF-8: one unit is three bytes at most, and each byte may be a token. */
export const CACHED_IDS_MAX = 3 * WORD_CHARS_MAX
/** Hash, and where its entry is; 0 where there is none. */
const SLOT_WORDS = 2
const SLOT_BYTES = 4 * SLOT_WORDS
/** A word that finds no place sooner is not kept: nobody can make the look-ups long. */
const PROBES_MAX = 16
const HASH_MULTIPLIER = 0x9e3779b1
/** Drawn anew by each process, so that nobody knows which words share a place. */
const HASH_SEED = randomInt(2 ** 32)

/** Invariant: an entry in `#entries` is the word's length, how many ids it has, those in halves (low first), its units. */
export class WordCache {
  readonly #slots: Uint32Array
  readonly #mask: number
  readonly #entries: Uint16Array
  #end = 1
  #words = 0

  /** @param bytes for all of it. */
  constructor(bytes: number) {
    const slots = 2 ** Math.max(4, Math.floor(Math.log2(bytes / 2 / SLOT_BYTES)))
    this.#slots = new Uint32Array(slots * SLOT_WORDS)
    this.#mask = slots - 1
    this.#entries = new Uint16Array(Math.max(4 * CACHED_IDS_MAX, bytes / 4))
  }

  /**
   * Writes the ids of the word between two places at `to`, where there is room for `CACHED_IDS_MAX`. Gives the place behind
   * them; -1 when the word is not known.
   */
  copy(units: Uint16Array, start: number, end: number, into: Uint32Array, to: number): number {
    if (end - start > WORD_CHARS_MAX) return -1
    const slots = this.#slots
    const hash = hashOf(units, start, end)
    let slot = hash & this.#mask
    for (let probe = 0; probe < PROBES_MAX; probe++) {
      const entry = slots[SLOT_WORDS * slot + 1] as number
      if (entry === 0) return -1
      if (slots[SLOT_WORDS * slot] === hash && this.#isWord(entry, units, start, end))
        return this.#take(entry, into, to)
      slot = (slot + 1) & this.#mask
    }
    return -1
  }

  #isWord(entry: number, units: Uint16Array, start: number, end: number): boolean {
    const entries = this.#entries
    if (entries[entry] !== end - start) return false
    let at = entry + 2 + 2 * (entries[entry + 1] as number)
    for (let from = start; from < end; from++) if (entries[at++] !== units[from]) return false
    return true
  }

  #take(entry: number, into: Uint32Array, to: number): number {
    const entries = this.#entries
    const behind = to + (entries[entry + 1] as number)
    let at = entry + 2
    for (let place = to; place < behind; place++) {
      into[place] = (entries[at] as number) | ((entries[at + 1] as number) << 16)
      at += 2
    }
    return behind
  }

  /** A word that is not known yet. */
  put(units: Uint16Array, start: number, end: number, ids: Uint32Array): void {
    const length = end - start
    if (length > WORD_CHARS_MAX || ids.length > CACHED_IDS_MAX) return
    const entries = this.#entries
    // All anew: what is used often is back soon.
    if (2 * this.#words > this.#mask || this.#end + 2 + 2 * ids.length + length > entries.length) this.#clear()
    const hash = hashOf(units, start, end)
    const slot = this.#freeSlot(hash)
    if (slot === -1) return
    const entry = this.#end
    let at = entry
    entries[at++] = length
    entries[at++] = ids.length
    for (const id of ids) {
      entries[at++] = id
      entries[at++] = id >>> 16
    }
    for (let from = start; from < end; from++) entries[at++] = units[from] as number
    this.#end = at
    this.#slots[SLOT_WORDS * slot] = hash
    this.#slots[SLOT_WORDS * slot + 1] = entry
    this.#words++
  }

  /** -1 when there is none near. */
  #freeSlot(hash: number): number {
    let slot = hash & this.#mask
    for (let probe = 0; probe < PROBES_MAX; probe++) {
      if (this.#slots[SLOT_WORDS * slot + 1] === 0) return slot
      slot = (slot + 1) & this.#mask
    }
    return -1
  }

  #clear(): void {
    this.#slots.fill(0)
    this.#end = 1
    this.#words = 0
  }
}

function hashOf(units: Uint16Array, start: number, end: number): number {
  let hash = HASH_SEED | 0
  for (let at = start; at < end; at++) {
    hash = Math.imul(((hash << 5) | (hash >>> 27)) ^ (units[at] as number), HASH_MULTIPLIER)
  }
  hash = Math.imul(hash ^ (hash >>> 15), HASH_MULTIPLIER)
  return (hash ^ (hash >>> 13)) >>> 0
}
