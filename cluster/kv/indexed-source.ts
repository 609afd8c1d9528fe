// One publisher's stream of events, applied: what this rank of this endpoint holds, by its engine's hashes and by ours.
import type { EndpointId } from '../endpoints/endpoint.ts'
import { extendChain, mixExtraKeys, seedOf } from './block-hash.ts'
import { ENTRY_WORDS, HoldTable, metaOf, NO_SLOT, NOT_HELD, SIZES_MAX } from './hold-table.ts'
import type { Tier } from './holder-sets.ts'
import { GPU, Kinds } from './kinds.ts'
import type { BlocksRemoved, BlocksStored, KvBatch } from './kv-event.ts'
import { type Orphan, type OrphanLimits, Orphans } from './orphans.ts'
import { BLOCKS_AT_ONCE, type PromptTable } from './prompt-table.ts'

/**
 * Why an event changed nothing. `group-kind`: not attention over the whole prompt, so its gaps shorten no prefix.
 * `token-count`: tokens and hashes do not fit together. `unknown-block`: removed, or named without its tokens, and not
 * held. `block-size`: nonsense, or one too many. `kind`: one medium or group too many. `unknown-event`: of a kind that the
 * decoder does not know.
 */
export type IgnoredReason = 'group-kind' | 'token-count' | 'unknown-block' | 'block-size' | 'kind' | 'unknown-event'

/** Counted over the index's life. `unknown-block` counts blocks, the others events. */
export type SourceCounters = {
  readonly ignored: Record<IgnoredReason, number>
  shedBlocks: number
  orphansDropped: number
}

/** What all sources share. */
export type SourceSurroundings = {
  readonly prompts: PromptTable
  readonly counters: SourceCounters
  readonly orphanLimits: OrphanLimits
  /** Whether a block more may be held, now that the source has `held`. It counts from then on. */
  readonly admit: (held: number) => boolean
  readonly released: (blocks: number) => void
  /** Takes over all that was held under an ordinal, and gives the ordinal to go on with. */
  readonly retire: (ordinal: number, holds: HoldTable) => number
  /** The same at the end. */
  readonly leave: (ordinal: number, holds: HoldTable) => void
}

/** A block size that a source uses, and how many blocks have it. */
export type SizeInUse = { tokens: number; blocks: number }

/** Kinds whose blocks make up a prefix. Others leave blocks out of it that nobody needs any more. */
const WHOLE_PROMPT_KINDS: ReadonlySet<string | undefined> = new Set([
  undefined,
  'full_attention',
  'mla_attention',
  'sink_full_attention',
])

/** A block that is held. */
export type HeldBlock = { readonly hi: number; readonly lo: number; readonly media: readonly string[] }

/** What a source holds, as one index hands it to another. */
export type SourceContent = {
  readonly kinds: readonly { readonly group: number; readonly medium: string }[]
  readonly sizesTokens: readonly number[]
  /** As `HoldTable.entries` gives them. */
  readonly entries: Uint32Array
}

/** Where nobody looks. */
const UNUSED = new Uint32Array(2)
/** Copies of one block that are taken over: engines have a few. */
const RESTORED_TIMES_MAX = 1_024

/**
 * Invariant: the prompt table has `ordinal` among the holders of a block in a tier exactly when `#holds` has a key with
 * our hash of it and a kind of that tier; `#more` counts such keys beyond the first.
 */
export class IndexedSource {
  readonly endpoint: EndpointId
  readonly rank: number
  readonly sizes: SizeInUse[] = []
  ordinal: number
  /** Whether all events that count have been seen. */
  seenAll = false
  /** Blocks that it should hold and that were not taken in, since it was empty last. */
  shedBlocks = 0

  readonly #around: SourceSurroundings
  readonly #model: string
  readonly #seed: { readonly hi: number; readonly lo: number }
  readonly #orphans: Orphans
  readonly #chain = new Uint32Array(2 * BLOCKS_AT_ONCE)
  #holds = new HoldTable()
  /** Our hashes that several keys share, by hash and tier: two media of one tier, two groups. */
  #more: HoldTable | undefined
  readonly #kinds = new Kinds()
  /** Orphans whose parent has come, with our hash of it. */
  #adopted: { readonly orphan: Orphan; readonly hi: number; readonly lo: number }[] = []

  constructor(
    { endpoint, rank, model }: { readonly endpoint: EndpointId; readonly rank: number; readonly model: string },
    ordinal: number,
    around: SourceSurroundings,
  ) {
    this.endpoint = endpoint
    this.rank = rank
    this.ordinal = ordinal
    this.#model = model
    this.#around = around
    this.#seed = seedOf({ model, lora: undefined, cacheSalt: undefined })
    this.#orphans = new Orphans(around.orphanLimits, () => {
      around.counters.orphansDropped++
    })
  }

  /** Whether what it holds here is what its engine holds. */
  get isComplete(): boolean {
    return this.seenAll && this.shedBlocks === 0
  }

  get blocks(): number {
    return this.#holds.count
  }

  get bytes(): number {
    return this.#holds.bytes + (this.#more?.bytes ?? 0)
  }

  get orphans(): { readonly events: number; readonly tokens: number } {
    return this.#orphans
  }

  apply(batch: KvBatch): void {
    const { events } = batch
    for (const event of events) {
      if (event.type === 'removed') this.#removed(event)
      else if (event.type === 'stored') this.#stored(event)
      else this.clear()
    }
    this.#around.counters.ignored['unknown-event'] += batch.unknownEvents
  }

  clear(): void {
    this.#orphans.clear()
    this.#kinds.clear()
    this.sizes.length = 0
    this.shedBlocks = 0
    if (this.#holds.count === 0) return
    this.ordinal = this.#around.retire(this.ordinal, this.#holds)
    this.#holds = new HoldTable()
    this.#more = undefined
  }

  /** As `clear`, and the source is not used again. */
  close(): void {
    this.#orphans.clear()
    this.#around.leave(this.ordinal, this.#holds)
  }

  /** Our hash of a block that it holds, and the media that it lies in; undefined when it holds none of this name. */
  find(hi: number, lo: number, group: number): HeldBlock | undefined {
    const holds = this.#holds
    const slot = holds.findInGroup(hi, lo, this.#kinds.groups, group)
    if (slot === NO_SLOT) return undefined
    const media = this.#kinds.all.flatMap((kind, index) => {
      if (kind.group !== group) return []
      const at = holds.find(hi, lo, index)
      return at === NO_SLOT || holds.isEmpty(at) ? [] : [kind.medium]
    })
    return { hi: holds.ownHi(slot), lo: holds.ownLo(slot), media }
  }

  /** What it holds now, as a copy. */
  dump(): SourceContent {
    return {
      kinds: this.#kinds.all.map(({ group, medium }) => ({ group, medium })),
      sizesTokens: this.sizes.map(({ tokens }) => tokens),
      entries: this.#holds.entries(),
    }
  }

  /** Takes over what another index held of this source, from entry `from` on; gives where to go on. */
  restore({ kinds, sizesTokens, entries }: SourceContent, from: number, count: number): number {
    const end = Math.min(entries.length, (from + count) * ENTRY_WORDS)
    for (let at = from * ENTRY_WORDS; at < end; at += ENTRY_WORDS) {
      const { times, kind, size } = metaOf(entries[at + 4] as number)
      const { group, medium } = kinds[kind] ?? {}
      const tokens = sizesTokens[size]
      if (group === undefined || tokens === undefined || times === 0) continue
      const ownKind = this.#kinds.take(group, medium)
      const ownSize = this.#sizeOf(tokens)
      if (ownKind === undefined || ownSize === undefined) continue
      const [hi, lo, ownHi, ownLo] = entries.subarray(at, at + 4) as unknown as [number, number, number, number]
      for (let time = 0; time < Math.min(times, RESTORED_TIMES_MAX); time++) {
        this.#hold(hi, lo, ownHi, ownLo, ownKind, ownSize)
      }
    }
    return Math.floor(end / ENTRY_WORDS)
  }

  #stored(event: BlocksStored): void {
    const { hashes, tokenIds, blockSizeTokens, parent } = event
    if (!WHOLE_PROMPT_KINDS.has(event.specKind)) return this.#ignore('group-kind')
    const blocks = hashes.length / 2
    if (blocks === 0) return
    if (tokenIds.length === 0) return this.#storedByHash(event)
    if (!Number.isSafeInteger(blockSizeTokens) || blockSizeTokens < 1) return this.#ignore('block-size')
    if (tokenIds.length !== blocks * blockSizeTokens) return this.#ignore('token-count')
    if (parent === undefined) {
      const salt = event.extraKeys?.[0]?.salt
      const { loraName } = event
      const seed =
        loraName === undefined && salt === undefined
          ? this.#seed
          : seedOf({ model: this.#model, lora: loraName, cacheSalt: salt })
      this.#storeAfter(event, seed.hi, seed.lo, undefined)
    } else {
      const slot = this.#holds.findInGroup(parent.hi, parent.lo, this.#kinds.groups, event.group)
      if (slot === NO_SLOT) this.#orphans.park(event, parent)
      else this.#storeAfter(event, this.#holds.ownHi(slot), this.#holds.ownLo(slot), undefined)
    }
    for (let next = this.#adopted.pop(); next !== undefined; next = this.#adopted.pop()) {
      this.#storeAfter(next.orphan.event, next.hi, next.lo, next.orphan.removed)
    }
  }

  /** Old offload events name blocks that another medium already has. */
  #storedByHash({ hashes, medium, group }: BlocksStored): void {
    const kind = this.#kinds.take(group, medium)
    if (kind === undefined) return this.#ignore('kind')
    const holds = this.#holds
    for (let at = 0; at + 1 < hashes.length; at += 2) {
      const hi = hashes[at] as number
      const lo = hashes[at + 1] as number
      let slot = holds.findInGroup(hi, lo, this.#kinds.groups, group)
      if (slot === NO_SLOT) slot = holds.findInGroup(hi, lo, this.#kinds.groups, undefined)
      if (slot === NO_SLOT) this.#ignore('unknown-block')
      else this.#hold(hi, lo, holds.ownHi(slot), holds.ownLo(slot), kind, holds.sizeAt(slot))
    }
  }

  /** The event's blocks, after a block with our hash (`hi`, `lo`). */
  #storeAfter(event: BlocksStored, hi: number, lo: number, removed: Uint8Array | undefined): void {
    const kind = this.#kinds.take(event.group, event.medium)
    if (kind === undefined) return this.#ignore('kind')
    const size = this.#sizeOf(event.blockSizeTokens)
    if (size === undefined) return this.#ignore('block-size')
    const { hashes, extraKeys } = event
    // Once for all of its blocks: there may be a million.
    const others = extraKeys?.some(hasOthers) ? extraKeys : undefined
    const chain = this.#chain
    const blocks = hashes.length / 2
    let beforeHi = hi
    let beforeLo = lo
    for (let first = 0; first < blocks; first += BLOCKS_AT_ONCE) {
      const count = Math.min(BLOCKS_AT_ONCE, blocks - first)
      this.#extend(event, others, beforeHi, beforeLo, first, count)
      this.#holds.touch(hashes, first, first + count)
      this.#around.prompts.touch(chain, count)
      for (let block = 0; block < count; block++) {
        const engineHi = hashes[2 * (first + block)] as number
        const engineLo = hashes[2 * (first + block) + 1] as number
        beforeHi = chain[2 * block] as number
        beforeLo = chain[2 * block + 1] as number
        if (removed === undefined || removed[first + block] === 0) {
          this.#hold(engineHi, engineLo, beforeHi, beforeLo, kind, size)
        }
        if (this.#orphans.events > 0) {
          for (const orphan of this.#orphans.take(engineHi, engineLo, event.group)) {
            this.#adopted.push({ orphan, hi: beforeHi, lo: beforeLo })
          }
        }
      }
    }
  }

  /** Our hashes of `count` of the event's blocks, into `#chain`; `extraKeys` where any of them has others than a salt. */
  #extend(
    { tokenIds, blockSizeTokens }: BlocksStored,
    extraKeys: BlocksStored['extraKeys'],
    hi: number,
    lo: number,
    first: number,
    count: number,
  ): void {
    const chain = this.#chain
    if (extraKeys === undefined) {
      extendChain(hi, lo, tokenIds, first * blockSizeTokens, count, blockSizeTokens, chain, 0)
      return
    }
    let beforeHi = hi
    let beforeLo = lo
    for (let block = 0; block < count; block++) {
      const firstToken = (first + block) * blockSizeTokens
      extendChain(beforeHi, beforeLo, tokenIds, firstToken, 1, blockSizeTokens, chain, 2 * block)
      const others = extraKeys[first + block]?.others ?? ''
      if (others !== '') mixExtraKeys(chain, 2 * block, others)
      beforeHi = chain[2 * block] as number
      beforeLo = chain[2 * block + 1] as number
    }
  }

  #hold(hi: number, lo: number, ownHi: number, ownLo: number, kind: number, size: number): void {
    const holds = this.#holds
    const slot = holds.find(hi, lo, kind)
    if (slot !== NO_SLOT && !holds.isEmpty(slot)) return holds.storedAgain(slot)
    const { prompts, admit, released } = this.#around
    if (slot === NO_SLOT || !admit(holds.count)) return this.#shed()
    const tier = this.#kinds.tierOf(kind)
    const added = prompts.add(ownHi, ownLo, this.ordinal, tier)
    if (added === 'no-room') {
      released(1)
      return this.#shed()
    }
    if (added === 'held-before') this.#oneMore(ownHi, ownLo, tier)
    holds.insert(slot, hi, lo, ownHi, ownLo, kind, size)
    const inUse = this.sizes[size] as SizeInUse
    inUse.blocks++
  }

  #removed({ hashes, medium, group }: BlocksRemoved): void {
    const kind = this.#kinds.find(group, medium)
    const blocks = hashes.length / 2
    for (let first = 0; first < blocks; first += BLOCKS_AT_ONCE) {
      const end = Math.min(first + BLOCKS_AT_ONCE, blocks)
      this.#holds.touch(hashes, first, end)
      let gone = 0
      for (let block = first; block < end; block++) {
        const hi = hashes[2 * block] as number
        const lo = hashes[2 * block + 1] as number
        const size = kind === undefined ? NOT_HELD : this.#holds.remove(hi, lo, kind, this.#chain, 2 * gone)
        if (size >= 0) {
          gone++
          const inUse = this.sizes[size] as SizeInUse
          inUse.blocks--
        } else if (size === NOT_HELD) {
          const waits = this.#orphans.events > 0 && this.#orphans.remove(hi, lo, medium ?? GPU, group)
          if (!waits) this.#ignore('unknown-block')
        }
      }
      if (kind !== undefined) this.#release(gone, kind)
    }
  }

  /** The first `count` blocks of `#chain` are held under one key less, of this kind. */
  #release(count: number, kind: number): void {
    const chain = this.#chain
    const { prompts, released } = this.#around
    const tier = this.#kinds.tierOf(kind)
    released(count)
    prompts.touch(chain, count)
    for (let block = 0; block < count; block++) {
      const ownHi = chain[2 * block] as number
      const ownLo = chain[2 * block + 1] as number
      if (this.#more === undefined || !this.#oneLess(this.#more, ownHi, ownLo, tier)) {
        prompts.remove(ownHi, ownLo, this.ordinal, tier)
      }
    }
  }

  #oneMore(ownHi: number, ownLo: number, tier: Tier): void {
    this.#more ??= new HoldTable()
    const slot = this.#more.find(ownHi, ownLo, tier)
    if (slot === NO_SLOT) return
    if (this.#more.isEmpty(slot)) this.#more.insert(slot, ownHi, ownLo, ownHi, ownLo, tier, 0)
    else this.#more.storedAgain(slot)
  }

  /** False when only one key had it. */
  #oneLess(more: HoldTable, ownHi: number, ownLo: number, tier: Tier): boolean {
    return more.remove(ownHi, ownLo, tier, UNUSED, 0) !== NOT_HELD
  }

  #sizeOf(tokens: number): number | undefined {
    const { sizes } = this
    for (let size = 0; size < sizes.length; size++) if (sizes[size]?.tokens === tokens) return size
    if (sizes.length < SIZES_MAX) return sizes.push({ tokens, blocks: 0 }) - 1
    const unused = sizes.findIndex(({ blocks }) => blocks === 0)
    if (unused === -1) return undefined
    sizes[unused] = { tokens, blocks: 0 }
    return unused
  }

  #shed(): void {
    this.shedBlocks++
    this.#around.counters.shedBlocks++
  }

  #ignore(reason: IgnoredReason): void {
    this.#around.counters.ignored[reason]++
  }
}

function hasOthers(keys: { readonly others: string } | undefined): boolean {
  return keys !== undefined && keys.others !== ''
}
