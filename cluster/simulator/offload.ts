// The tier of KV blocks in the host's memory, as vLLM's OffloadingConnector keeps it on CPUs: every full block goes there too,
// the least recently used leaves, and a prompt finds there what the GPU has lost.
import type { Digest } from './block-hash.ts'
import type { BlockEvent, BlocksStored } from './block-pool.ts'

export type OffloadConfig = {
  readonly blocks: number
  /** Copying a block back to the GPU. */
  readonly msPerBlock: number
  /** Whether events of this tier tell tokens and parents; vLLM's do not unless `self_describing_kv_events` is set. */
  readonly selfDescribing: boolean
}

export class OffloadTier {
  readonly #config: OffloadConfig
  /** The least recently used first; as many as there are blocks, at most. */
  readonly #held = new Set<Digest>()

  constructor(config: OffloadConfig) {
    this.#config = config
  }

  get blocks(): number {
    return this.#held.size
  }

  /** How many blocks in a row it holds from one place of a chain on, at most up to another; they count as used. */
  hits(hashAt: (index: number) => Digest | undefined, from: number, to: number): number {
    let index = from
    for (; index < to; index++) {
      const hash = hashAt(index) as Digest
      if (!this.#held.delete(hash)) break
      this.#held.add(hash)
    }
    return index - from
  }

  /** Takes a run of blocks; gives what is to be told of that, in vLLM's order: what had to leave, then what came. */
  store(run: BlocksStored): readonly BlockEvent[] {
    const fresh = run.hashes.filter((hash) => {
      const isHeld = this.#held.delete(hash)
      if (isHeld) this.#held.add(hash)
      return !isHeld
    })
    // What alone would fill the tier is not stored at all.
    if (fresh.length > this.#config.blocks) return []
    for (const hash of fresh) this.#held.add(hash)
    const evicted: Digest[] = []
    for (const oldest of this.#held) {
      if (this.#held.size <= this.#config.blocks) break
      this.#held.delete(oldest)
      evicted.push(oldest)
    }
    const events: BlockEvent[] = []
    if (evicted.length > 0) events.push({ type: 'removed', medium: 'CPU', hashes: evicted })
    for (const hash of fresh) events.push(this.#storedEvent(run, hash))
    return events
  }

  clear(): void {
    this.#held.clear()
  }

  /** One for each block, with its own parent. */
  #storedEvent(run: BlocksStored, hash: Digest): BlocksStored {
    if (!this.#config.selfDescribing) {
      return {
        ...run,
        medium: 'CPU',
        hashes: [hash],
        parent: undefined,
        tokenIds: [],
        salt: undefined,
        lora: undefined,
      }
    }
    const index = run.hashes.indexOf(hash)
    const size = run.tokenIds.length / run.hashes.length
    return {
      ...run,
      medium: 'CPU',
      hashes: [hash],
      parent: index === 0 ? run.parent : run.hashes[index - 1],
      tokenIds: run.tokenIds.slice(index * size, (index + 1) * size),
    }
  }
}
