// From our own block hash to its holders: open addressing in flat arrays, cut into segments so that no growth stops the
// process for long. A slot is three words: the hash and the number of its set of holders.
import { GPU_TIER, HolderSets, NOBODY, SLOW_TIER, type Tier } from './holder-sets.ts'
import { homeScale, keysMax, keysMin, LINE_WORDS, PROBES_MAX, slotsAt, smaller } from './open-addressing.ts'

/** At most so many blocks are looked up, or touched, in one call. */
export const BLOCKS_AT_ONCE = 256

const SLOT_WORDS = 3
/** By the hash's first byte. */
const SEGMENTS = 256
const SEGMENT_SHIFT = 24
const FULL_MAX = 0.6

/** What became of a block that a source says it holds. */
export type Added = 'added' | 'held-before' | 'no-room'

/** Invariant: a slot whose set is NOBODY is empty; between a block's home and its slot there is no empty one. */
export class PromptTable {
  readonly sets = new HolderSets()
  /** Each with LINE_WORDS unused words at its end, so that one may be read that far behind any slot. */
  readonly #segments: Uint32Array[] = []
  readonly #counts = new Uint32Array(SEGMENTS)
  /** Of keys: beyond these a segment gets another size. */
  readonly #countsMax = new Uint32Array(SEGMENTS)
  readonly #countsMin = new Uint32Array(SEGMENTS)
  readonly #scales = new Float64Array(SEGMENTS)
  /** How often it has grown, and not shrunk again. */
  readonly #levels = new Uint8Array(SEGMENTS)
  readonly #homes = new Int32Array(BLOCKS_AT_ONCE)
  #blocks = 0
  #words = 0
  /** What was read last for nothing. It is kept, or the compiler would leave the reading out. */
  #touched = 0

  constructor() {
    for (let segment = 0; segment < SEGMENTS; segment++) this.#install(segment, 0)
  }

  get blocks(): number {
    return this.#blocks
  }

  get bytes(): number {
    return 4 * this.#words + this.sets.bytes
  }

  /** The source with this ordinal holds the block in this tier. */
  add(hi: number, lo: number, ordinal: number, tier: Tier): Added {
    const segment = hi >>> SEGMENT_SHIFT
    const slots = this.#segments[segment] as Uint32Array
    const at = this.#find(slots, segment, hi, lo)
    if (at < 0) return 'no-room'
    const { sets } = this
    const before = slots[at + 2] as number
    const after = sets.joined(before, ordinal, tier)
    if (after === NOBODY) return 'no-room'
    if (after === before) return 'held-before'
    sets.retain(after)
    slots[at + 2] = after
    if (before !== NOBODY) {
      sets.release(before)
      return 'added'
    }
    slots[at] = hi
    slots[at + 1] = lo
    this.#count(segment, 1)
    return 'added'
  }

  /** It does not any more. Nothing happens when it did not. */
  remove(hi: number, lo: number, ordinal: number, tier: Tier): void {
    const segment = hi >>> SEGMENT_SHIFT
    const slots = this.#segments[segment] as Uint32Array
    const at = this.#find(slots, segment, hi, lo)
    if (at < 0) return
    const { sets } = this
    const before = slots[at + 2] as number
    if (before === NOBODY) return
    const after = sets.left(before, ordinal, tier)
    if (after === before) return
    if (after === NOBODY) {
      this.#empty(slots, segment, at)
      this.#count(segment, -1)
    } else {
      sets.retain(after)
      slots[at + 2] = after
    }
    sets.release(before)
  }

  /** The source with this ordinal holds the block in no tier. */
  removeHolder(hi: number, lo: number, ordinal: number): void {
    this.remove(hi, lo, ordinal, GPU_TIER)
    this.remove(hi, lo, ordinal, SLOW_TIER)
  }

  /** Writes the numbers of the sets that hold the first `count` of these blocks into `into`. */
  lookUp(hashes: Uint32Array, count: number, into: Uint32Array): void {
    this.touch(hashes, count)
    const segments = this.#segments
    const homes = this.#homes
    for (let block = 0; block < count; block++) {
      const hi = hashes[2 * block] as number
      const lo = hashes[2 * block + 1] as number
      const slots = segments[hi >>> SEGMENT_SHIFT] as Uint32Array
      const end = slots.length - LINE_WORDS
      let at = homes[block] as number
      let set = slots[at + 2] as number
      while (set !== NOBODY && (slots[at + 1] !== lo || slots[at] !== hi)) {
        at += SLOT_WORDS
        if (at === end) at = 0
        set = slots[at + 2] as number
      }
      into[block] = set
    }
  }

  /**
   * Reads where these blocks would be and does nothing with it: without decisions in between, the processor waits for many
   * places of memory at a time, and a search that follows finds them in its cache.
   */
  touch(hashes: Uint32Array, count: number): void {
    const segments = this.#segments
    const scales = this.#scales
    const homes = this.#homes
    // Two short loops, because the fewer steps lie between two reads, the more reads are under way.
    for (let block = 0; block < count; block++) {
      const scale = scales[(hashes[2 * block] as number) >>> SEGMENT_SHIFT] as number
      homes[block] = (((hashes[2 * block + 1] as number) * scale) | 0) * SLOT_WORDS
    }
    let touched = 0
    for (let block = 0; block < count; block++) {
      const slots = segments[(hashes[2 * block] as number) >>> SEGMENT_SHIFT] as Uint32Array
      const home = homes[block] as number
      touched ^= (slots[home] as number) ^ (slots[home + LINE_WORDS] as number)
    }
    this.#touched ^= touched
  }

  /** Where the block is, or the empty slot for it; -1 when a search that long finds neither. */
  #find(slots: Uint32Array, segment: number, hi: number, lo: number): number {
    const end = slots.length - LINE_WORDS
    let at = ((lo * (this.#scales[segment] as number)) | 0) * SLOT_WORDS
    for (let probes = 0; probes < PROBES_MAX; probes++) {
      if (slots[at + 2] === NOBODY || (slots[at + 1] === lo && slots[at] === hi)) return at
      at += SLOT_WORDS
      if (at === end) at = 0
    }
    return -1
  }

  #empty(slots: Uint32Array, segment: number, slot: number): void {
    const scale = this.#scales[segment] as number
    const end = slots.length - LINE_WORDS
    let hole = slot
    let at = slot
    for (;;) {
      at += SLOT_WORDS
      if (at === end) at = 0
      if (slots[at + 2] === NOBODY) break
      const home = (((slots[at + 1] as number) * scale) | 0) * SLOT_WORDS
      // Moves up when the hole lies between its home and itself, around the end too.
      if (hole <= at ? home <= hole || home > at : home <= hole && home > at) {
        slots[hole] = slots[at] as number
        slots[hole + 1] = slots[at + 1] as number
        slots[hole + 2] = slots[at + 2] as number
        hole = at
      }
    }
    slots[hole + 2] = NOBODY
  }

  #count(segment: number, change: 1 | -1): void {
    this.#blocks += change
    const count = (this.#counts[segment] as number) + change
    this.#counts[segment] = count
    if (count > (this.#countsMax[segment] as number)) this.#resize(segment, (this.#levels[segment] as number) + 1)
    else if (count < (this.#countsMin[segment] as number))
      this.#resize(segment, smaller(this.#levels[segment] as number))
  }

  #install(segment: number, level: number): Uint32Array {
    const slotCount = slotsAt(level, segment / SEGMENTS)
    const slots = new Uint32Array(slotCount * SLOT_WORDS + LINE_WORDS)
    this.#words += slots.length - (this.#segments[segment]?.length ?? 0)
    this.#segments[segment] = slots
    this.#scales[segment] = homeScale(slotCount)
    this.#countsMax[segment] = keysMax(slotCount, FULL_MAX)
    this.#countsMin[segment] = keysMin(level, slotCount)
    this.#levels[segment] = level
    return slots
  }

  #resize(segment: number, level: number): void {
    const from = this.#segments[segment] as Uint32Array
    const to = this.#install(segment, level)
    for (let source = 0; source < from.length - LINE_WORDS; source += SLOT_WORDS) {
      if (from[source + 2] === NOBODY) continue
      const at = this.#vacant(to, segment, from[source + 1] as number)
      to[at] = from[source] as number
      to[at + 1] = from[source + 1] as number
      to[at + 2] = from[source + 2] as number
    }
  }

  #vacant(slots: Uint32Array, segment: number, lo: number): number {
    const end = slots.length - LINE_WORDS
    let at = ((lo * (this.#scales[segment] as number)) | 0) * SLOT_WORDS
    while (slots[at + 2] !== NOBODY) {
      at += SLOT_WORDS
      if (at === end) at = 0
    }
    return at
  }
}
