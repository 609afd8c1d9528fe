// What one source holds, by the hash that its engine gave a block: our own hash of it, and how often it was stored.
// Open addressing in flat arrays, cut into segments so that no growth stops the process for long.
import { homeScale, keysMax, keysMin, LINE_WORDS, PROBES_MAX, slotsAt, smaller } from './open-addressing.ts'

const SLOT_WORDS = 5
const OWN_HI = 2
const OWN_LO = 3
/** From the top: 22 bits how often it was stored, 8 bits the kind, 2 bits the size. 0 in an empty slot. */
const META = 4

const KIND_SHIFT = 2
const KINDS_MAX = 256
export const SIZES_MAX = 4
const KIND_MASK = (KINDS_MAX - 1) << KIND_SHIFT
const ONCE = KINDS_MAX * SIZES_MAX
const ONCE_SHIFT = 10
const TIMES_MAX = 2 ** 32 / ONCE - 1

const SEGMENTS = 16
const SEGMENT_MASK = SEGMENTS - 1
const SEGMENT_BITS = 4

/** A removal closes its gap up to the next empty slot: with more of them it is done sooner. */
const FULL_MAX = 0.45

/** Words of an entry in `entries`. */
export const ENTRY_WORDS = SLOT_WORDS

/** What an entry's last word says. */
export function metaOf(word: number): { readonly times: number; readonly kind: number; readonly size: number } {
  return { times: word >>> ONCE_SHIFT, kind: (word & KIND_MASK) >>> KIND_SHIFT, size: word & (SIZES_MAX - 1) }
}

/** The table has no slot for it. */
export const NO_SLOT = -1

/** What `remove` found, besides sizes. */
export const NOT_HELD = -1
export const STILL_HELD = -2

/**
 * Keys are an engine's hash and a kind (KV-cache group and medium): the same hash stands once for each kind.
 * A slot is named by a number, its segment in the lowest bits, which the next change makes invalid.
 */
export class HoldTable {
  /** Each with LINE_WORDS unused words at its end, so that one may be read that far behind any slot. */
  readonly #segments: Uint32Array[] = []
  readonly #counts = new Uint32Array(SEGMENTS)
  /** Of keys: beyond these a segment gets another size. */
  readonly #countsMax = new Uint32Array(SEGMENTS)
  readonly #countsMin = new Uint32Array(SEGMENTS)
  readonly #scales = new Float64Array(SEGMENTS)
  /** How often it has grown, and not shrunk again. */
  readonly #levels = new Uint8Array(SEGMENTS)
  #count = 0
  #words = 0
  /** What was read last for nothing. It is kept, or the compiler would leave the reading out. */
  #touched = 0
  #drained = 0

  constructor() {
    for (let segment = 0; segment < SEGMENTS; segment++) this.#install(segment, 0)
  }

  /** Keys, however often each was stored. */
  get count(): number {
    return this.#count
  }

  get bytes(): number {
    return 4 * this.#words
  }

  /** The key's slot; or the empty one that it would get; or NO_SLOT. Ask `isEmpty` which. */
  find(hi: number, lo: number, kind: number): number {
    const mixed = mix(hi, lo)
    const segment = mixed & SEGMENT_MASK
    const slots = this.#segments[segment] as Uint32Array
    const end = slots.length - LINE_WORDS
    const meta = kind << KIND_SHIFT
    let at = ((mixed * (this.#scales[segment] as number)) | 0) * SLOT_WORDS
    for (let probes = 0; probes < PROBES_MAX; probes++) {
      const found = slots[at + META] as number
      if (found === 0 || (slots[at + 1] === lo && slots[at] === hi && (found & KIND_MASK) === meta)) {
        return (at << SEGMENT_BITS) | segment
      }
      at += SLOT_WORDS
      if (at === end) at = 0
    }
    return NO_SLOT
  }

  /** A slot with this hash and a kind of this group (any when undefined), whatever the medium; NO_SLOT when there is none. */
  findInGroup(hi: number, lo: number, groupOfKind: readonly number[], group: number | undefined): number {
    const mixed = mix(hi, lo)
    const segment = mixed & SEGMENT_MASK
    const slots = this.#segments[segment] as Uint32Array
    const end = slots.length - LINE_WORDS
    let at = ((mixed * (this.#scales[segment] as number)) | 0) * SLOT_WORDS
    for (let probes = 0; probes < PROBES_MAX; probes++) {
      const found = slots[at + META] as number
      if (found === 0) return NO_SLOT
      if (slots[at + 1] === lo && slots[at] === hi) {
        if (group === undefined || groupOfKind[(found & KIND_MASK) >>> KIND_SHIFT] === group) {
          return (at << SEGMENT_BITS) | segment
        }
      }
      at += SLOT_WORDS
      if (at === end) at = 0
    }
    return NO_SLOT
  }

  /** Reads where the blocks `from` to `to` would be, so that searches find them in the processor's cache. */
  touch(hashes: Uint32Array, from: number, to: number): void {
    let touched = 0
    for (let block = from; block < to; block++) {
      const mixed = mix(hashes[2 * block] as number, hashes[2 * block + 1] as number)
      const slots = this.#segments[mixed & SEGMENT_MASK] as Uint32Array
      const home = ((mixed * (this.#scales[mixed & SEGMENT_MASK] as number)) | 0) * SLOT_WORDS
      touched ^= (slots[home] as number) ^ (slots[home + LINE_WORDS] as number)
    }
    this.#touched ^= touched
  }

  isEmpty(slot: number): boolean {
    return this.#word(slot, META) === 0
  }

  ownHi(slot: number): number {
    return this.#word(slot, OWN_HI)
  }

  ownLo(slot: number): number {
    return this.#word(slot, OWN_LO)
  }

  sizeAt(slot: number): number {
    return this.#word(slot, META) & (SIZES_MAX - 1)
  }

  /** Fills an empty slot that `find` gave, with one store. */
  insert(slot: number, hi: number, lo: number, ownHi: number, ownLo: number, kind: number, size: number): void {
    const segment = slot & SEGMENT_MASK
    const slots = this.#segments[segment] as Uint32Array
    const at = slot >>> SEGMENT_BITS
    slots[at] = hi
    slots[at + 1] = lo
    slots[at + OWN_HI] = ownHi
    slots[at + OWN_LO] = ownLo
    slots[at + META] = ONCE | (kind << KIND_SHIFT) | size
    this.#counted(segment, 1)
  }

  storedAgain(slot: number): void {
    const meta = this.#word(slot, META)
    if (meta >>> ONCE_SHIFT < TIMES_MAX) this.#setMeta(slot, meta + ONCE)
  }

  /**
   * Takes one store back. When it was the last, the key goes, and our hash is written to `into[at]` and the word behind.
   * Gives the block's size then; else whether it is held still (STILL_HELD) or never was (NOT_HELD).
   */
  remove(hi: number, lo: number, kind: number, into: Uint32Array, at: number): number {
    const slot = this.find(hi, lo, kind)
    if (slot === NO_SLOT) return NOT_HELD
    const segment = slot & SEGMENT_MASK
    const slots = this.#segments[segment] as Uint32Array
    const from = slot >>> SEGMENT_BITS
    const meta = slots[from + META] as number
    if (meta === 0) return NOT_HELD
    if (meta >>> ONCE_SHIFT > 1) {
      slots[from + META] = meta - ONCE
      return STILL_HELD
    }
    into[at] = slots[from + OWN_HI] as number
    into[at + 1] = slots[from + OWN_LO] as number
    this.#empty(segment, slots, from)
    return meta & (SIZES_MAX - 1)
  }

  #empty(segment: number, slots: Uint32Array, slot: number): void {
    const scale = this.#scales[segment] as number
    const end = slots.length - LINE_WORDS
    let hole = slot
    let at = slot
    for (;;) {
      at += SLOT_WORDS
      if (at === end) at = 0
      if (slots[at + META] === 0) break
      const home = ((mix(slots[at] as number, slots[at + 1] as number) * scale) | 0) * SLOT_WORDS
      // Moves up when the hole lies between its home and itself, around the end too.
      if (hole <= at ? home <= hole || home > at : home <= hole && home > at) {
        for (let word = 0; word < SLOT_WORDS; word++) slots[hole + word] = slots[at + word] as number
        hole = at
      }
    }
    slots[hole + META] = 0
    this.#counted(segment, -1)
  }

  /** All of it, five words an entry: the engine's hash, ours (high words first), and what `metaOf` makes. */
  entries(): Uint32Array {
    const all = new Uint32Array(this.#count * SLOT_WORDS)
    let to = 0
    for (const slots of this.#segments) {
      for (let at = 0; at < slots.length - LINE_WORDS; at += SLOT_WORDS) {
        if (slots[at + META] === 0) continue
        for (let word = 0; word < SLOT_WORDS; word++) all[to++] = slots[at + word] as number
      }
    }
    return all
  }

  /** Visits our hashes in the next `slotCount` slots, from where it stopped before; true at the end. */
  drain(slotCount: number, visit: (ownHi: number, ownLo: number) => void): boolean {
    for (let left = slotCount; left > 0; left--) {
      const slots = this.#segments[this.#drained & SEGMENT_MASK] as Uint32Array
      const at = this.#drained >>> SEGMENT_BITS
      if (at + LINE_WORDS === slots.length) {
        if ((this.#drained & SEGMENT_MASK) === SEGMENT_MASK) return true
        this.#drained = (this.#drained & SEGMENT_MASK) + 1
        continue
      }
      if (slots[at + META] !== 0) visit(slots[at + OWN_HI] as number, slots[at + OWN_LO] as number)
      this.#drained += SLOT_WORDS << SEGMENT_BITS
    }
    return false
  }

  #word(slot: number, word: number): number {
    return (this.#segments[slot & SEGMENT_MASK] as Uint32Array)[(slot >>> SEGMENT_BITS) + word] as number
  }

  #setMeta(slot: number, meta: number): void {
    const slots = this.#segments[slot & SEGMENT_MASK] as Uint32Array
    slots[(slot >>> SEGMENT_BITS) + META] = meta
  }

  #counted(segment: number, change: 1 | -1): void {
    this.#count += change
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
    const scale = this.#scales[segment] as number
    const end = to.length - LINE_WORDS
    for (let source = 0; source < from.length - LINE_WORDS; source += SLOT_WORDS) {
      if (from[source + META] === 0) continue
      let at = ((mix(from[source] as number, from[source + 1] as number) * scale) | 0) * SLOT_WORDS
      while (to[at + META] !== 0) {
        at += SLOT_WORDS
        if (at === end) at = 0
      }
      for (let word = 0; word < SLOT_WORDS; word++) to[at + word] = from[source + word] as number
    }
  }
}

/** Engines' hashes need not be mixed well: some count up. The highest bits are the best. */
function mix(hi: number, lo: number): number {
  return Math.imul(lo ^ Math.imul(hi, 0x9e3779b1), 0x85ebca77) >>> 0
}
