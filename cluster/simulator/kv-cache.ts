// What sequences hold of the paged KV cache: the blocks that they find cached, take for their next tokens and give back, each
// full one under the hash that finds it again.
import { type BlockHasher, createBlockHasher, type Digest } from './block-hash.ts'
import { type BlockEvent, BlockPool, type BlocksStored } from './block-pool.ts'
import { type OffloadConfig, OffloadTier } from './offload.ts'
import { knownTokens, type Sequence, tokensBetween } from './sequence.ts'

export type KvCacheConfig = {
  /** KV blocks; enough for the longest single request, or it would wait for ever. */
  readonly blocks: number
  readonly blockSizeTokens: number
  /** Pods with the same seed give the same block the same hash. */
  readonly hashSeed: string
  /** Whether steps tell of blocks stored and removed. */
  readonly kvEvents: boolean
  /** A second tier in the host's memory. */
  readonly offload?: OffloadConfig | undefined
}

/** A sequence holds blocks from its admission until they are released; their order is that of its tokens. */
export class KvCache {
  readonly #config: KvCacheConfig
  readonly #hasher: BlockHasher
  readonly #pool: BlockPool
  readonly #tier: OffloadTier | undefined

  constructor(config: KvCacheConfig) {
    this.#config = config
    this.#hasher = createBlockHasher(config.blockSizeTokens, config.hashSeed)
    this.#pool = new BlockPool(config.blocks, config.kvEvents)
    this.#tier = config.offload && new OffloadTier(config.offload)
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
  admit(sequence: Sequence, nowMs: number): boolean {
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
    sequence.loadedAtMs = undefined
    sequence.offeredBlocks = 0
    if (request.reportHits && found.length > 0) this.#announce(sequence, 0, found.length)
    if (this.#tier && !request.ignoreCache) this.#beginLoad(sequence, known, nowMs)
    return true
  }

  /** Takes blocks for what the host's memory has of the rest, all of it if need be: the copy takes its time. */
  #beginLoad(sequence: Sequence, known: number, nowMs: number): void {
    const { blockSizeTokens, offload } = this.#config
    const full = Math.floor(known / blockSizeTokens)
    this.#hashUpTo(sequence, full)
    const from = sequence.blocks.length
    const hits = this.#tier?.hits((index) => hashAt(sequence, index), from, full) ?? 0
    if (hits === 0) return
    this.#pool.take(hits, sequence.blocks)
    sequence.computedTokens = (from + hits) * blockSizeTokens
    sequence.loadedAtMs = nowMs + hits * (offload?.msPerBlock ?? 0)
  }

  /** What was copied can be found from now on; the last token is computed again where it was among it. */
  endLoad(sequence: Sequence): void {
    const { computedTokens, cachedBlocks } = sequence
    const loaded = computedTokens / this.#config.blockSizeTokens
    for (let index = cachedBlocks; index < loaded; index++) {
      this.#pool.cache(sequence.blocks[index] as number, hashAt(sequence, index) as Digest)
    }
    sequence.cachedBlocks = loaded
    this.#announce(sequence, cachedBlocks, loaded)
    sequence.loadedAtMs = undefined
    sequence.computedTokens = Math.min(computedTokens, knownTokens(sequence) - 1)
  }

  /** Offers the blocks that a sequence has filled to the host's memory. */
  offload(sequence: Sequence): void {
    const { offeredBlocks, cachedBlocks } = sequence
    if (!this.#tier || cachedBlocks <= offeredBlocks) return
    sequence.offeredBlocks = cachedBlocks
    for (const event of this.#tier.store(this.#runOf(sequence, offeredBlocks, cachedBlocks))) this.#pool.announce(event)
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
    sequence.loadedAtMs = undefined
  }

  /** Forgets everything cached on the GPU; false while any block is held. */
  clear(): boolean {
    return this.#pool.clear()
  }

  clearOffloaded(): void {
    this.#tier?.clear()
  }

  /** What happened since the last call, in order. */
  takeEvents(): readonly BlockEvent[] {
    return this.#pool.takeEvents()
  }

  #blocksFor(tokens: number): number {
    return Math.ceil(tokens / this.#config.blockSizeTokens)
  }

  #announce(sequence: Sequence, from: number, to: number): void {
    if (this.#pool.announces) this.#pool.announce(this.#runOf(sequence, from, to))
  }

  #runOf(sequence: Sequence, from: number, to: number): BlocksStored {
    const { blockSizeTokens } = this.#config
    const { cacheSalt, lora } = sequence.request
    const hashes: Digest[] = []
    for (let index = from; index < to; index++) hashes.push(hashAt(sequence, index) as Digest)
    return {
      type: 'stored',
      medium: 'GPU',
      hashes,
      parent: hashAt(sequence, from - 1),
      tokenIds: tokensBetween(sequence, from * blockSizeTokens, to * blockSizeTokens),
      salt: from === 0 ? cacheSalt : undefined,
      lora,
    }
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
