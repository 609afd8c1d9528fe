// When each piece of a prompt was used last, by its hash: open addressing in one flat array, because every piece of a prompt is
// looked up, and stamped anew, each time that it is computed.

const SLOT_WORDS = 3
const STAMP = 2
const SLOTS_MIN = 64
const FULL_MAX = 0.5
const FULL_MIN = 0.1
/** A piece that finds no place within as many is not kept: nobody can make the search long. */
const PROBES_MAX = 64

/** Hashes are two words each, well mixed; stamps are above 0. */
export class StampTable {
  #slots = new Uint32Array(SLOTS_MIN * SLOT_WORDS)
  #mask = SLOTS_MIN - 1
  #count = 0

  get count(): number {
    return this.#count
  }

  get bytes(): number {
    return this.#slots.byteLength
  }

  /** 0 when it is not there. */
  stampOf(hi: number, lo: number): number {
    const at = this.#find(hi, lo)
    return at === -1 ? 0 : (this.#slots[at + STAMP] as number)
  }

  /** Adds it, or stamps it anew. */
  put(hi: number, lo: number, stamp: number): void {
    const at = this.#find(hi, lo)
    if (at === -1) return
    if (this.#slots[at + STAMP] !== 0) {
      this.#slots[at + STAMP] = stamp
      return
    }
    this.#fill(at, hi, lo, stamp)
    if (++this.#count > FULL_MAX * (this.#mask + 1)) this.#resize(2 * (this.#mask + 1))
  }

  remove(hi: number, lo: number): void {
    let hole = this.#find(hi, lo)
    const slots = this.#slots
    if (hole === -1 || slots[hole + STAMP] === 0) return
    // What follows moves up, as far as it may stand before its present place.
    for (let at = this.#next(hole); slots[at + STAMP] !== 0; at = this.#next(at)) {
      const home = (slots[at + 1] as number) & this.#mask
      const fromHome = (at / SLOT_WORDS - home) & this.#mask
      const fromHole = ((at - hole) / SLOT_WORDS) & this.#mask
      if (fromHome < fromHole) continue
      slots.copyWithin(hole, at, at + SLOT_WORDS)
      hole = at
    }
    slots[hole + STAMP] = 0
    this.#count--
    if (this.#count < FULL_MIN * (this.#mask + 1) && this.#mask >= SLOTS_MIN) this.#resize((this.#mask + 1) / 2)
  }

  /** Its slot, or the one where it would be; -1 when there is none near. */
  #find(hi: number, lo: number): number {
    const slots = this.#slots
    let at = (lo & this.#mask) * SLOT_WORDS
    for (let probe = 0; probe < PROBES_MAX; probe++) {
      if (slots[at + STAMP] === 0 || (slots[at + 1] === lo && slots[at] === hi)) return at
      at = this.#next(at)
    }
    return -1
  }

  #next(at: number): number {
    const next = at + SLOT_WORDS
    return next === this.#slots.length ? 0 : next
  }

  #fill(at: number, hi: number, lo: number, stamp: number): void {
    const slots = this.#slots
    slots[at] = hi
    slots[at + 1] = lo
    slots[at + STAMP] = stamp
  }

  #resize(slotCount: number): void {
    const from = this.#slots
    this.#slots = new Uint32Array(slotCount * SLOT_WORDS)
    this.#mask = slotCount - 1
    this.#count = 0
    for (let slot = 0; slot < from.length; slot += SLOT_WORDS) {
      const stamp = from[slot + STAMP] as number
      if (stamp === 0) continue
      const hi = from[slot] as number
      const lo = from[slot + 1] as number
      const at = this.#find(hi, lo)
      if (at === -1) continue
      this.#fill(at, hi, lo, stamp)
      this.#count++
    }
  }
}
