// The paged KV cache as vLLM's block pool keeps it: reference-counted blocks, full ones findable by their hash, freed
// ones still cached until their memory is needed. It says what a router may learn of it: blocks stored, removed, cleared.
import type { Digest } from './block-hash.ts'
import type { Lora } from './sequence.ts'

/** Where blocks lie. */
export type Medium = 'GPU' | 'CPU'

/** A run of blocks of one chain that became full, or that a request asked to hear of again. */
export type BlocksStored = {
  readonly type: 'stored'
  readonly medium: Medium
  readonly hashes: readonly Digest[]
  /** The hash before the first one; undefined at the root of a chain. */
  readonly parent: Digest | undefined
  readonly tokenIds: readonly number[]
  /** The salt of the request, where the run begins at the root. */
  readonly salt: string | undefined
  readonly lora: Lora | undefined
}

/** Blocks lost their content; on a GPU one physical block at a time. */
export type BlockRemoved = { readonly type: 'removed'; readonly medium: Medium; readonly hashes: readonly Digest[] }

export type BlocksCleared = { readonly type: 'cleared' }

export type BlockEvent = BlocksStored | BlockRemoved | BlocksCleared

const NONE = -1

/**
 * A block is in the free list exactly when nobody refers to it. A block with a hash is found under it, in use or free;
 * one hash can have several blocks, because two requests may fill the same content at the same time. (vLLM's block 0,
 * which never holds anything, is left out.)
 */
export class BlockPool {
  readonly size: number
  /** Whether events are wanted. */
  readonly announces: boolean
  readonly #references: Int32Array
  readonly #hashes: (Digest | undefined)[]
  readonly #cached = new Map<Digest, number | number[]>()
  #cachedBlocks = 0
  /** The free list, next to be taken first: neighbours of each block, and of the list's two ends at `size`. */
  readonly #next: Int32Array
  readonly #previous: Int32Array
  #free: number
  #events: BlockEvent[] = []

  constructor(size: number, announces: boolean) {
    this.size = size
    this.announces = announces
    this.#references = new Int32Array(size)
    this.#hashes = new Array(size).fill(undefined)
    this.#next = new Int32Array(size + 1)
    this.#previous = new Int32Array(size + 1)
    this.#free = size
    for (let block = 0; block <= size; block++) {
      this.#next[block] = block === size ? 0 : block + 1
      this.#previous[block] = block === 0 ? size : block - 1
    }
  }

  get free(): number {
    return this.#free
  }

  get used(): number {
    return this.size - this.#free
  }

  /** Blocks that a hash finds, in use or free. */
  get cached(): number {
    return this.#cachedBlocks
  }

  /** The blocks of the longest run of hashes from the first one on, at most `most`. */
  find(hashAt: (index: number) => Digest | undefined, most: number): number[] {
    const found: number[] = []
    for (let index = 0; index < most; index++) {
      const block = this.#cached.get(hashAt(index) as Digest)
      if (block === undefined) break
      found.push(typeof block === 'number' ? block : (block[0] as number))
    }
    return found
  }

  /** How many of these blocks would leave the free list when they are taken. */
  freeAmong(blocks: readonly number[]): number {
    return blocks.reduce((count, block) => count + (this.#references[block] === 0 ? 1 : 0), 0)
  }

  /** Refers to blocks that were found. */
  share(blocks: readonly number[]): void {
    for (const block of blocks) {
      if (this.#references[block] === 0) this.#unlink(block)
      this.#references[block] = (this.#references[block] as number) + 1
    }
  }

  /** Takes blocks for new content; what they cached is lost. There must be so many free ones. */
  take(count: number, into: number[]): void {
    for (let taken = 0; taken < count; taken++) {
      const block = this.#next[this.size] as number
      if (block === this.size) throw new Error('the block pool is empty')
      this.#unlink(block)
      const hash = this.#hashes[block]
      if (hash !== undefined) {
        this.#forget(block, hash)
        this.announce({ type: 'removed', medium: 'GPU', hashes: [hash] })
      }
      this.#references[block] = 1
      into.push(block)
    }
  }

  /** Makes a full block findable. */
  cache(block: number, hash: Digest): void {
    this.#hashes[block] = hash
    this.#cachedBlocks++
    const known = this.#cached.get(hash)
    if (known === undefined) this.#cached.set(hash, block)
    else if (typeof known === 'number') this.#cached.set(hash, [known, block])
    else known.push(block)
  }

  /** Gives up one reference to each block of a chain. Its tail is reused first, and what has no hash before all else. */
  release(chain: readonly number[]): void {
    let front = this.size
    for (let index = chain.length - 1; index >= 0; index--) {
      const block = chain[index] as number
      const references = (this.#references[block] as number) - 1
      this.#references[block] = references
      if (references > 0) continue
      if (this.#hashes[block] === undefined) {
        this.#linkAfter(front, block)
        front = block
      } else {
        this.#linkAfter(this.#previous[this.size] as number, block)
      }
    }
  }

  /** Forgets everything cached. Refuses while any block is in use. */
  clear(): boolean {
    if (this.used > 0) return false
    this.#cached.clear()
    this.#hashes.fill(undefined)
    this.#cachedBlocks = 0
    this.announce({ type: 'cleared' })
    return true
  }

  announce(event: BlockEvent): void {
    if (this.announces) this.#events.push(event)
  }

  /** What happened since the last call, in order. */
  takeEvents(): readonly BlockEvent[] {
    const events = this.#events
    this.#events = []
    return events
  }

  #forget(block: number, hash: Digest): void {
    this.#hashes[block] = undefined
    this.#cachedBlocks--
    const known = this.#cached.get(hash)
    if (typeof known === 'number') {
      this.#cached.delete(hash)
      return
    }
    const left = known?.filter((other) => other !== block) ?? []
    if (left.length === 0) this.#cached.delete(hash)
    else this.#cached.set(hash, left)
  }

  #linkAfter(before: number, block: number): void {
    const after = this.#next[before] as number
    this.#next[before] = block
    this.#previous[block] = before
    this.#next[block] = after
    this.#previous[after] = block
    this.#free++
  }

  #unlink(block: number): void {
    const before = this.#previous[block] as number
    const after = this.#next[block] as number
    this.#next[before] = after
    this.#previous[after] = before
    this.#next[block] = NONE
    this.#previous[block] = NONE
    this.#free--
  }
}
