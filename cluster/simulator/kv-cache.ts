// What sequences hold of the paged KV cache: the blocks that they find cached, take for their next tokens and give back, each
// full one under the hash that finds it again.
import { type BlockHasher, createBlockHasher, type Digest } from './block-hash.ts'
import { type BlockEvent, BlockPool } from './block-pool.ts'
import { knownTokens, type Sequence, tokensBetween } from './sequence.ts'

export type KvCacheConfig = {
  /** KV blocks; enough for the longest single request, or it would wait for ever. */
  readonly blocks: number
  readonly blockSizeTokens: number
  /** Pods with the same seed give the same block the same hash. */
  readonly hashSeed: string
  /** Whether steps tell of blocks stored and removed. */
  readonly kvEvents: boolean
}

/** A sequence holds blocks from its admission until they are released; their order is that of its tokens. */
export class KvCache {
  readonly #config: KvCacheConfig
  readonly #hasher: BlockHasher
  readonly #pool: BlockPool

  constructor(config: KvCacheConfig) {
    this.#config = config
    this.#hasher = createBlockHasher(config.blockSizeTokens, config.hashSeed)
    this.#pool = new BlockPool(config.blocks, config.kvEvents)
  }

  get usedBlocks(): number {
    return this.#pool.used
  }

  /** Blocks that can be found, held or not. */
  get cachedBlocks(): number {
    return this.#pool.cached
  }

  /** The hashes of a prompt's full blocks. */
  promptHashes({ promptTokenIds, cacheSalt, lora }: Sequence['request']): readonly Digest[] {
    return this.#hasher.prompt(promptTokenIds, { salt: cacheSalt, lora })
  }

  /**
   * Gives a waiting sequence the blocks that it finds cached, all but the last token's: the next one follows from that. False
   * when the rest of it does not fit: that looks at all of its tokens, not at its first chunk, for half a prompt in memory
   * helps nobody (`scheduler_reserve_full_isl`).
   */
  admit(sequence: Sequence): boolean {
    const { request } = sequence
    const { blockSizeTokens } = this.#config
    const known = knownTokens(sequence)
    const most = request.ignoreCache ? 0 : Math.floor((known - 1) / blockSizeTokens)
    this.#hashUpTo(sequence, most)
    const found = this.#pool.find((index) => hashAt(sequence, index), most)
    const needed = this.#blocksFor(known) - found.length + this.#pool.freeAmong(found)
    if (needed > this.#pool.free) return false
    this.#pool.share(found)
    sequence.blocks = found
    sequence.cachedBlocks = found.length
    sequence.computedTokens = found.length * blockSizeTokens
    if (request.reportHits && found.length > 0) this.#announce(sequence, 0, found.length)
    return true
  }

  /** Whether there are blocks for the next tokens of a sequence. */
  hasRoom({ computedTokens, blocks }: Sequence, tokens: number): boolean {
    return this.#blocksFor(computedTokens + tokens) - blocks.length <= this.#pool.free
  }

  /** Takes the blocks for the next tokens, for which there is room; those that will be full are findable at once. */
  hold(sequence: Sequence, tokens: number): void {
    const { blocks, computedTokens, cachedBlocks } = sequence
    this.#pool.take(this.#blocksFor(computedTokens + tokens) - blocks.length, blocks)
    const full = Math.floor((computedTokens + tokens) / this.#config.blockSizeTokens)
    if (full <= cachedBlocks) return
    this.#hashUpTo(sequence, full)
    for (let index = cachedBlocks; index < full; index++) {
      this.#pool.cache(blocks[index] as number, hashAt(sequence, index) as Digest)
    }
    sequence.cachedBlocks = full
    this.#announce(sequence, cachedBlocks, full)
  }

  /** Takes all blocks back; what they cached can still be found until their memory is needed. */
  release(sequence: Sequence): void {
    this.#pool.release(sequence.blocks)
    sequence.blocks = []
    sequence.cachedBlocks = 0
    sequence.computedTokens = 0
  }

  /** Forgets everything cached; false while any block is held. */
  clear(): boolean {
    return this.#pool.clear()
  }

  /** What happened since the last call, in order. */
  takeEvents(): readonly BlockEvent[] {
    return this.#pool.takeEvents()
  }

  #blocksFor(tokens: number): number {
    return Math.ceil(tokens / this.#config.blockSizeTokens)
  }

  #announce(sequence: Sequence, from: number, to: number): void {
    if (!this.#pool.announces) return
    const { blockSizeTokens } = this.#config
    const { cacheSalt, lora } = sequence.request
    const hashes: Digest[] = []
    for (let index = from; index < to; index++) hashes.push(hashAt(sequence, index) as Digest)
    this.#pool.announce({
      type: 'stored',
      hashes,
      parent: hashAt(sequence, from - 1),
      tokenIds: tokensBetween(sequence, from * blockSizeTokens, to * blockSizeTokens),
      salt: from === 0 ? cacheSalt : undefined,
      lora,
    })
  }

  /** Hashes what output has filled of the first `blocks` blocks. */
  #hashUpTo(sequence: Sequence, blocks: number): void {
    const { request, promptHashes, outputHashes } = sequence
    const { blockSizeTokens } = this.#config
    for (let index = promptHashes.length + outputHashes.length; index < blocks; index++) {
      const tokenIds = tokensBetween(sequence, index * blockSizeTokens, (index + 1) * blockSizeTokens)
      const keys = { salt: request.cacheSalt, lora: request.lora }
      outputHashes.push(this.#hasher.block(hashAt(sequence, index - 1), tokenIds, keys))
    }
  }
}

/** Undefined before the first. */
function hashAt({ promptHashes, outputHashes }: Sequence, index: number): Digest | undefined {
  return index < promptHashes.length ? promptHashes[index] : outputHashes[index - promptHashes.length]
}
