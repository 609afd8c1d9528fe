// Token ids of words that were seen: a text's words repeat. One token, as most words are, is the number itself; several
// lie in one array, so that nothing is allocated to read them.

/** Longer ones seldom come again. */
const WORD_CHARS_MAX = 48
/** From this length on V8 makes a slice that keeps the whole text alive. */
const SLICE_CHARS_MIN = 13
/** Map entry, string, ids. */
const WORD_BYTES = 100
const IDS_PER_WORD = 2
const BYTES_PER_ID = 4

/** Invariant: a negative number in `#words` is the complement of a place in `#ids`: there a count, then as many ids. */
export class WordCache {
  readonly #words = new Map<string, number>()
  readonly #wordsMax: number
  readonly #ids: Uint32Array
  #end = 0

  /** @param bytes for all of it, roughly. */
  constructor(bytes: number) {
    this.#wordsMax = Math.max(1, Math.floor(bytes / (WORD_BYTES + IDS_PER_WORD * BYTES_PER_ID)))
    this.#ids = new Uint32Array(Math.max(2 * WORD_CHARS_MAX * 4, this.#wordsMax * IDS_PER_WORD))
  }

  /** An id, or a negative number for `lengthOf` and `copy`; undefined when the word is not known. */
  get(word: string): number | undefined {
    return this.#words.get(word)
  }

  lengthOf(known: number): number {
    return this.#ids[~known] as number
  }

  /** Writes the ids at `to`; gives the place behind them. */
  copy(known: number, into: Uint32Array, to: number): number {
    const ids = this.#ids
    const first = ~known + 1
    const count = ids[first - 1] as number
    for (let at = 0; at < count; at++) into[to + at] = ids[first + at] as number
    return to + count
  }

  put(word: string, ids: Uint32Array): void {
    if (word.length > WORD_CHARS_MAX) return
    // All anew: what is used often is back soon.
    if (this.#words.size >= this.#wordsMax || this.#end + ids.length + 1 > this.#ids.length) {
      this.#words.clear()
      this.#end = 0
    }
    const key = word.length < SLICE_CHARS_MIN ? word : Buffer.from(word, 'utf16le').toString('utf16le')
    if (ids.length === 1) {
      this.#words.set(key, ids[0] as number)
      return
    }
    this.#words.set(key, ~this.#end)
    this.#ids[this.#end] = ids.length
    this.#ids.set(ids, this.#end + 1)
    this.#end += ids.length + 1
  }
}
