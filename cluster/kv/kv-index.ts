// The KV index: what every engine's cache holds, kept from its events, and how much of a prompt each would find there.
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { HoldTable } from './hold-table.ts'
import {
  type HeldBlock,
  type IgnoredReason,
  IndexedSource,
  type SourceContent,
  type SourceCounters,
  type SourceSurroundings,
} from './indexed-source.ts'
import type { KvBatch } from './kv-event.ts'
import { Matching } from './matching.ts'
import { Ordinals } from './ordinals.ts'
import type { OrphanLimits } from './orphans.ts'
import type { MatchPrefix } from './prefix-match.ts'
import { PromptTable } from './prompt-table.ts'

export type KvIndexLimits = {
  /** Blocks held, counted once for each source and medium; some 70 bytes each. */
  readonly blocksMax: number
  /** Besides, a source that holds more than what is still free gets no more: one that floods leaves room for others. */
  readonly blocksPerSourceMax: number
  readonly sourcesMax: number
  /** For each source, what may wait for a parent. */
  readonly orphans: OrphanLimits
}

/** One publisher's stream: a rank of an endpoint. */
export type KvSource = {
  /**
   * Applies a batch, in the order of its events. Never throws; what makes no sense is counted and left out.
   *
   * @param seq the publisher's number of it, for those who watch.
   */
  readonly apply: (batch: KvBatch, seq?: number) => void
  /** Forgets all its blocks: the publisher began anew, or events are missing. At once, whatever their number. */
  readonly clear: () => void
  /** Whether all events that count have been seen. False when opened. */
  readonly complete: (isComplete: boolean) => void
  readonly find: (hi: number, lo: number, group: number) => HeldBlock | undefined
  readonly dump: () => SourceContent
  /** Takes `count` entries over, from `from` on; gives where to go on: at the number of entries it is done. */
  readonly restore: (content: SourceContent, from: number, count: number) => number
  /** Forgets it. Nothing it is told afterwards has an effect. */
  readonly close: () => void
}

/** A source began to have blocks that were not taken in, or there is room for its blocks again. */
export type SheddingChange = {
  readonly endpoint: EndpointId
  readonly rank: number
  readonly shedding: boolean
  /** That the index holds of it. */
  readonly blocks: number
  /** That it should hold and does not, since it was empty last. */
  readonly shedBlocks: number
}

export type KvIndexStats = {
  readonly sources: number
  /** Counted once for each source and medium. */
  readonly blocks: number
  /** Different ones, whoever holds them. */
  readonly promptBlocks: number
  /** Of sources that were cleared or closed, not swept up yet. */
  readonly blocksToSweep: number
  readonly bytes: number
  readonly orphans: { readonly events: number; readonly tokens: number; readonly dropped: number }
  readonly ignored: Readonly<Record<IgnoredReason, number>>
  /** Blocks not taken in because a limit was reached. */
  readonly shedBlocks: number
  /** Sources whose blocks are not taken in now. */
  readonly sheddingSources: number
}

export type KvIndex = {
  /** Begins to index one stream. Beyond the most sources it gets a source that holds nothing and sheds everything. */
  readonly open: (stream: { readonly endpoint: EndpointId; readonly rank: number; readonly model: string }) => KvSource
  /** Base models of the open sources. */
  readonly models: () => readonly string[]
  /** One entry for each open source of the query's model, in the order of opening. */
  readonly match: MatchPrefix
  /**
   * Frees a part of what `clear` and `close` left behind, for less than a millisecond; true when nothing is left. Every
   * batch does as much, so it is needed only where no events come.
   */
  readonly sweep: () => boolean
  readonly stats: () => KvIndexStats
}

const DEFAULT_LIMITS: KvIndexLimits = {
  blocksMax: 16 * 1024 * 1024,
  blocksPerSourceMax: 4 * 1024 * 1024,
  sourcesMax: 4096,
  orphans: { eventsMax: 1024, tokensMax: 64 * 1024 },
}

/** Of a source that got no room. It is never asked for, because such a source holds nothing. */
const NO_ORDINAL = -1

/** There is room again when a source holds no more than this share of what it may: else it would change with each block. */
const ROOM_AGAIN = 0.9

/**
 * @param limits those given replace the defaults, which suit some hundred engines.
 * @param onShedding told at a source's first block that is not taken in, and with its first batch when there is room again.
 */
export function createKvIndex(
  limits: Partial<KvIndexLimits> = {},
  onShedding: (change: SheddingChange) => void = () => undefined,
): KvIndex {
  const { blocksMax, blocksPerSourceMax, sourcesMax, orphans: orphanLimits } = { ...DEFAULT_LIMITS, ...limits }
  const prompts = new PromptTable()
  const ordinals = new Ordinals(prompts)
  const matching = new Matching(prompts)
  const byModel = new Map<string, IndexedSource[]>()
  const counters: SourceCounters = {
    ignored: {
      'group-kind': 0,
      'token-count': 0,
      'unknown-block': 0,
      'block-size': 0,
      kind: 0,
      'unknown-event': 0,
    },
    shedBlocks: 0,
    orphansDropped: 0,
  }
  let sources = 0
  let sheddingSources = 0
  /** Without those that are still to be swept up. */
  let blocks = 0

  function leave(ordinal: number, holds: HoldTable): void {
    blocks -= holds.count
    ordinals.giveBack(ordinal, holds)
  }

  /** What any one source may hold now. The more of them hold much, the less each gets, and a part stays free for the rest. */
  function mayHold(): number {
    return Math.min(blocksPerSourceMax, blocksMax - blocks)
  }

  const surroundings: SourceSurroundings = {
    prompts,
    counters,
    orphanLimits,
    admit(held) {
      while (blocks + ordinals.blocksToSweep >= blocksMax && ordinals.blocksToSweep > 0) ordinals.sweep()
      if (held >= mayHold()) return false
      blocks++
      return true
    },
    released(count) {
      blocks -= count
    },
    retire(ordinal, holds) {
      leave(ordinal, holds)
      return ordinals.take()
    },
    leave,
  }

  function list(source: IndexedSource, model: string): () => void {
    const listed = byModel.get(model) ?? []
    byModel.set(model, listed)
    listed.push(source)
    return () => {
      listed.splice(listed.indexOf(source), 1)
      if (listed.length === 0) byModel.delete(model)
    }
  }

  return {
    open(stream) {
      const hasRoom = sources < sourcesMax
      const source = new IndexedSource(stream, hasRoom ? ordinals.take() : NO_ORDINAL, surroundings)
      const unlist = list(source, stream.model)
      if (hasRoom) sources++
      let isOpen = true
      let isShedding = false

      function applyAll(batch: KvBatch): void {
        if (hasRoom) return source.apply(batch)
        const shed = storedBlocksOf(batch)
        source.shedBlocks += shed
        counters.shedBlocks += shed
      }

      function setShedding(shedding: boolean): void {
        isShedding = shedding
        sheddingSources += shedding ? 1 : -1
        const { shedBlocks } = source
        onShedding({ endpoint: stream.endpoint, rank: stream.rank, shedding, blocks: source.blocks, shedBlocks })
      }

      return {
        apply(batch) {
          ordinals.sweep()
          if (!isOpen) return
          const before = counters.shedBlocks
          applyAll(batch)
          const sheds = counters.shedBlocks > before
          if (sheds && !isShedding) setShedding(true)
          else if (isShedding && !sheds && hasRoom && source.blocks <= ROOM_AGAIN * mayHold()) setShedding(false)
        },
        clear() {
          if (isOpen) source.clear()
        },
        complete(isComplete) {
          source.seenAll = isComplete && hasRoom
        },
        find: (hi, lo, group) => (isOpen && hasRoom ? source.find(hi, lo, group) : undefined),
        dump: () => source.dump(),
        restore: (content, from, count) =>
          isOpen && hasRoom ? source.restore(content, from, count) : content.entries.length,
        close() {
          if (!isOpen) return
          isOpen = false
          if (isShedding) setShedding(false)
          unlist()
          if (!hasRoom) return
          sources--
          source.close()
        },
      }
    },
    models: () => [...byModel.keys()],
    match: (query) => matching.match(byModel.get(query.model) ?? [], query),
    sweep: () => ordinals.sweep(),
    stats() {
      const open = [...byModel.values()].flat()
      return {
        sources: open.length,
        blocks,
        promptBlocks: prompts.blocks,
        blocksToSweep: ordinals.blocksToSweep,
        bytes: open.reduce((sum, { bytes }) => sum + bytes, prompts.bytes + ordinals.bytesToSweep),
        orphans: {
          events: open.reduce((sum, { orphans }) => sum + orphans.events, 0),
          tokens: open.reduce((sum, { orphans }) => sum + orphans.tokens, 0),
          dropped: counters.orphansDropped,
        },
        ignored: { ...counters.ignored },
        shedBlocks: counters.shedBlocks,
        sheddingSources,
      }
    },
  }
}

function storedBlocksOf({ events }: KvBatch): number {
  return events.reduce((sum, event) => sum + (event.type === 'stored' ? event.hashes.length / 2 : 0), 0)
}
