// Who holds a block: sets of (source, tier), each stored once however many blocks have it. Blocks of one prefix mostly
// have the same holders, so a table of blocks needs one word for them, and runs of equal sets are seen by their number.

/** Faster first. */
export const GPU_TIER = 0
export const SLOW_TIER = 1
export type Tier = typeof GPU_TIER | typeof SLOW_TIER

/** The set of no one. No block has it. */
export const NOBODY = 0

const IDS_MIN = 256
const INDEX_MIN = 1024
/** Slots of the index per set, at least. */
const INDEX_ROOM = 2
const GROWTH = 1.5
/** Sets that differ for nearly every block could cost a kilobyte each with thousands of sources. */
const ROW_WORDS_MAX = 128 * 1024 * 1024

type Change = { from: number; member: number; to: number }

/**
 * Sets by number. Invariant: every set in use has a row, a number of uses above 0 and one entry in `#index`; equal rows
 * have equal numbers. A row is `#words` words of GPU holders, then as many of slower tiers.
 */
export class HolderSets {
  #words = 1
  #rows = new Uint32Array(2 * IDS_MIN)
  /** Blocks that have this set. */
  #uses = new Uint32Array(IDS_MIN)
  /** A row's hash; of a free number the next free one. */
  #hashes = new Uint32Array(IDS_MIN)
  #index = new Uint32Array(INDEX_MIN)
  #mask = INDEX_MIN - 1
  #nextId = 1
  #freeId = NOBODY
  #size = 0
  #scratch = new Uint32Array(2)

  // The last change in each direction: a chain's blocks change alike, one after the other.
  readonly #joined: Change = { from: -1, member: -1, to: NOBODY }
  readonly #left: Change = { from: -1, member: -1, to: NOBODY }

  get size(): number {
    return this.#size
  }

  get bytes(): number {
    return 4 * (this.#rows.length + this.#uses.length + this.#hashes.length + this.#index.length)
  }

  /** Words of one tier in a row: the holder with ordinal n is bit n % 32 of word n / 32. */
  get words(): number {
    return this.#words
  }

  /** All rows; set `id` begins at `id * 2 * words`. Valid until the next change. */
  get rows(): Uint32Array {
    return this.#rows
  }

  has(id: number, ordinal: number, tier: Tier): boolean {
    const word = this.#rows[(2 * id + tier) * this.#words + (ordinal >>> 5)] as number
    return ((word >>> (ordinal & 31)) & 1) === 1
  }

  /** The set with one holder more; NOBODY when there is no room for it. It lives only once `retain` was called. */
  joined(id: number, ordinal: number, tier: Tier): number {
    const member = 2 * ordinal + tier
    const memo = this.#joined
    if (memo.from === id && memo.member === member) return memo.to
    const row = this.#copy(id)
    const at = tier * this.#words + (ordinal >>> 5)
    row[at] = (row[at] as number) | (1 << (ordinal & 31))
    return remember(memo, id, member, this.#intern())
  }

  /** The set with one holder less. NOBODY when none is left, or when there is no room for the rest: then it is forgotten. */
  left(id: number, ordinal: number, tier: Tier): number {
    const member = 2 * ordinal + tier
    const memo = this.#left
    if (memo.from === id && memo.member === member) return memo.to
    const row = this.#copy(id)
    const at = tier * this.#words + (ordinal >>> 5)
    row[at] = (row[at] as number) & ~(1 << (ordinal & 31))
    return remember(memo, id, member, row.every(isZero) ? NOBODY : this.#intern())
  }

  retain(id: number): void {
    this.#uses[id] = (this.#uses[id] as number) + 1
  }

  release(id: number): void {
    const uses = (this.#uses[id] as number) - 1
    this.#uses[id] = uses
    if (uses === 0) this.#free(id)
  }

  /** Makes room for holders with ordinals below `ordinals`. */
  widen(ordinals: number): void {
    const before = this.#words
    let words = before
    while (32 * words < ordinals) words *= 2
    if (words === before) return
    const rows = new Uint32Array(2 * words * this.#uses.length)
    for (let half = 0; half < 2 * this.#nextId; half++) {
      rows.set(this.#rows.subarray(half * before, (half + 1) * before), half * words)
    }
    this.#words = words
    this.#rows = rows
    this.#scratch = new Uint32Array(2 * words)
    for (let id = 1; id < this.#nextId; id++) {
      if (this.#uses[id] !== 0) this.#hashes[id] = hashOf(rows, 2 * words * id, 2 * words)
    }
    this.#reindex(this.#index.length)
  }

  #copy(id: number): Uint32Array {
    const length = 2 * this.#words
    const row = this.#scratch
    const rows = this.#rows
    const at = id * length
    for (let word = 0; word < length; word++) row[word] = rows[at + word] as number
    return row
  }

  /** The number of the set in `#scratch`; NOBODY when there is no room. */
  #intern(): number {
    const row = this.#scratch
    const { length } = row
    const hash = hashOf(row, 0, length)
    let at = hash & this.#mask
    for (let id = this.#index[at] as number; id !== 0; id = this.#index[at] as number) {
      if (this.#hashes[id] === hash && this.#equals(id, row)) return id
      at = (at + 1) & this.#mask
    }
    const id = this.#take()
    if (id === NOBODY) return NOBODY
    this.#rows.set(row, id * length)
    this.#hashes[id] = hash
    this.#size++
    if (this.#size * INDEX_ROOM > this.#index.length) this.#reindex(2 * this.#index.length, id)
    else this.#index[at] = id
    return id
  }

  #equals(id: number, row: Uint32Array): boolean {
    const rows = this.#rows
    const start = id * row.length
    for (let word = 0; word < row.length; word++) if (rows[start + word] !== row[word]) return false
    return true
  }

  #take(): number {
    const free = this.#freeId
    if (free !== NOBODY) {
      this.#freeId = this.#hashes[free] as number
      return free
    }
    if (this.#nextId === this.#uses.length) {
      const ids = Math.min(Math.ceil(this.#nextId * GROWTH), Math.floor(ROW_WORDS_MAX / (2 * this.#words)))
      if (ids <= this.#nextId) return NOBODY
      this.#rows = copied(this.#rows, 2 * this.#words * ids)
      this.#uses = copied(this.#uses, ids)
      this.#hashes = copied(this.#hashes, ids)
    }
    return this.#nextId++
  }

  #free(id: number): void {
    this.#unindex(id)
    this.#size--
    this.#hashes[id] = this.#freeId
    this.#freeId = id
    // A number that is used again means another set.
    for (const memo of [this.#joined, this.#left]) if (memo.from === id || memo.to === id) memo.from = -1
  }

  #unindex(id: number): void {
    const index = this.#index
    const mask = this.#mask
    let hole = (this.#hashes[id] as number) & mask
    while (index[hole] !== id) hole = (hole + 1) & mask
    // Those behind move up, unless that would put them before their own place: a search stops at the first empty slot.
    let at = (hole + 1) & mask
    for (let other = index[at] as number; other !== 0; other = index[at] as number) {
      const home = (this.#hashes[other] as number) & mask
      if (((at - home) & mask) >= ((at - hole) & mask)) {
        index[hole] = other
        hole = at
      }
      at = (at + 1) & mask
    }
    index[hole] = 0
  }

  #reindex(slots: number, fresh = NOBODY): void {
    const index = new Uint32Array(slots)
    const mask = slots - 1
    for (let id = 1; id < this.#nextId; id++) {
      // The newest is not in use yet.
      if (this.#uses[id] === 0 && id !== fresh) continue
      let at = (this.#hashes[id] as number) & mask
      while (index[at] !== 0) at = (at + 1) & mask
      index[at] = id
    }
    this.#index = index
    this.#mask = mask
  }
}

function remember(change: Change, from: number, member: number, to: number): number {
  change.from = from
  change.member = member
  change.to = to
  return to
}

function hashOf(words: Uint32Array, from: number, length: number): number {
  let hash = 0x2f0b4c47
  for (let at = from; at < from + length; at++) {
    hash = Math.imul(hash ^ (words[at] as number), 0x9e3779b1)
    hash ^= hash >>> 15
  }
  hash = Math.imul(hash, 0x85ebca77)
  return (hash ^ (hash >>> 13)) >>> 0
}

function copied(from: Uint32Array, length: number): Uint32Array<ArrayBuffer> {
  const to = new Uint32Array(length)
  to.set(from)
  return to
}

function isZero(word: number): boolean {
  return word === 0
}
