// Engine hashes one after the other in one array that grows, so that a block needs none of its own.

const WORDS_MIN = 4 * 1024
/** An array that grew beyond this is not kept. */
const WORDS_KEPT_MAX = 64 * 1024

/** Pairs of words, high word first, as many as come. */
export class HashList {
  #words = new Uint32Array(WORDS_MIN)
  #length = 0

  /** In words. */
  get length(): number {
    return this.#length
  }

  /** Makes it longer, and gives the array to fill from the former length on; valid until it is made longer again. */
  extend(words: number): Uint32Array {
    this.#length += words
    if (this.#length > this.#words.length) {
      const roomier = new Uint32Array(Math.max(this.#length, 2 * this.#words.length))
      roomier.set(this.#words)
      this.#words = roomier
    }
    return this.#words
  }

  /** Forgets what is behind the first `length` words. */
  cut(length: number): void {
    this.#length = length
    if (length === 0 && this.#words.length > WORDS_KEPT_MAX) this.#words = new Uint32Array(WORDS_MIN)
  }

  /** Takes the first `length` words out; what is left moves up. */
  take(length: number): Uint32Array {
    const taken = this.#words.slice(0, length)
    this.#words.copyWithin(0, length, this.#length)
    this.#length -= length
    return taken
  }
}
