// All that is known of pods' KV caches, wired: the index, those who feed it, those who watch it, and the way it is handed to
// another replica.
import type { Endpoint, EndpointId } from '../endpoints/endpoint.ts'
import { type BoundEvent, type BoundPublishers, bindPublishers } from './bound-publishers.ts'
import { type CacheListener, createEventFeed, type EventFeed } from './event-feed.ts'
import { ENTRY_WORDS } from './hold-table.ts'
import { createKvIndex, type KvIndex, type SheddingChange } from './kv-index.ts'
import { beginSnapshot, decodeSnapshot, encodeSource, endSnapshot, type SourceSnapshot } from './snapshot.ts'
import { createKvWatch, type KvWatch, type KvWatchDeps, type KvWatchEvent } from './watch.ts'

export const CACHE_TTL_SECONDS_DEFAULT = 3_600
const TOLD_INTERVAL_MS = 60_000
/** For the whole of a snapshot. */
const SNAPSHOT_TIMEOUT_MS = 60_000

export type CachesEvent =
  | KvWatchEvent
  | BoundEvent
  /** The index takes no more blocks of a source, or takes them again. */
  | ({ readonly type: 'kv-shedding' | 'kv-room-again' } & Omit<SheddingChange, 'shedding'>)
  | { readonly type: 'kv-snapshot-loaded'; readonly from: string; readonly sources: number; readonly blocks: number }
  | { readonly type: 'kv-snapshot-lost'; readonly from: string; readonly cause: string; readonly sources: number }

export type CachesOptions = {
  readonly askSources: KvWatchDeps['askSources']
  /** Where pods dial, like `tcp://*:5555`; undefined: none do. */
  readonly bind: string | undefined
  readonly cacheTtlSeconds: number
  /** Origin of a replica whose snapshot is loaded before anything is followed. */
  readonly snapshotFrom: string | undefined
  /** Whether a pod is known to answer, however long it has published nothing. */
  readonly lives: (endpoint: EndpointId) => boolean
  readonly listener?: CacheListener
  readonly nowMs: () => number
  readonly epochMs: () => number
  readonly onEvent: (event: CachesEvent) => void
}

export type Caches = {
  readonly index: KvIndex
  readonly watch: KvWatch
  readonly feed: EventFeed
  readonly bound: BoundPublishers | undefined
  /** Whether anybody's events are followed, dialled or bound. */
  readonly follows: () => boolean
  readonly follow: (endpoint: Endpoint, baseModel: string) => Promise<void>
  /** The index as it is now, source by source. */
  readonly snapshot: () => AsyncGenerator<Buffer>
  readonly close: () => Promise<void>
}

/** Rejects with a UserError when the address cannot be bound. A snapshot that cannot be had is told, and missed. */
export async function startCaches(options: CachesOptions): Promise<Caches> {
  const { bind, snapshotFrom, nowMs, onEvent } = options
  // A publisher may bring about both with each of its batches.
  const toldAtMs = new Map<string, number>()
  const index = createKvIndex({}, ({ shedding, ...change }) => {
    const type = shedding ? 'kv-shedding' : 'kv-room-again'
    const key = `${type} ${change.endpoint} ${change.rank}`
    if (nowMs() - (toldAtMs.get(key) ?? Number.NEGATIVE_INFINITY) < TOLD_INTERVAL_MS) return
    toldAtMs.set(key, nowMs())
    onEvent({ type, ...change })
  })
  const feed = createEventFeed(() => options.epochMs() / 1_000, options.listener)
  const restored = snapshotFrom === undefined ? [] : await loadSnapshot(snapshotFrom, onEvent)
  const dialled = new Map(restored.filter(({ dials }) => !dials).map((source) => [keyOf(source), source]))
  const watch = createKvWatch({
    index,
    feed,
    askSources: options.askSources,
    nowMs,
    onEvent,
    restored(endpoint, rank, model) {
      const key = keyOf({ endpoint, rank, model })
      const source = dialled.get(key)
      dialled.delete(key)
      return source
    },
  })
  const bound =
    bind === undefined
      ? undefined
      : await bindPublishers({
          address: bind,
          index,
          feed,
          silentMs: options.cacheTtlSeconds * 1_000,
          lives: options.lives,
          restored: restored.filter(({ dials }) => dials),
          dialled: (endpoint) => watch.sourcesOf(endpoint).length > 0,
          nowMs,
          onEvent,
        })
  return {
    index,
    watch,
    feed,
    bound,
    follows: () => watch.follows() || (bound?.endpoints().length ?? 0) > 0,
    follow: watch.follow,
    async *snapshot() {
      yield beginSnapshot()
      for (const dump of [...watch.dumps(), ...(bound?.dumps() ?? [])]) {
        const source = dump()
        if (source !== undefined) yield* encodeSource(source)
        await new Promise((resolve) => setImmediate(resolve))
      }
      yield endSnapshot()
    },
    async close() {
      await Promise.all([watch.close(), bound?.close()])
    },
  }
}

function keyOf({ endpoint, rank, model }: Pick<SourceSnapshot, 'endpoint' | 'rank' | 'model'>): string {
  return JSON.stringify([endpoint, rank, model])
}

async function loadSnapshot(origin: string, onEvent: CachesOptions['onEvent']): Promise<readonly SourceSnapshot[]> {
  const sources: SourceSnapshot[] = []
  try {
    const answer = await fetch(`${origin}/snapshot`, {
      redirect: 'error',
      signal: AbortSignal.timeout(SNAPSHOT_TIMEOUT_MS),
    })
    if (!answer.ok || !answer.body) throw new Error(`its /snapshot answers ${answer.status}`)
    for await (const source of decodeSnapshot(answer.body)) sources.push(source)
    const blocks = sources.reduce((sum, { content }) => sum + content.entries.length / ENTRY_WORDS, 0)
    onEvent({ type: 'kv-snapshot-loaded', from: origin, sources: sources.length, blocks })
  } catch (error) {
    const { message, cause } = error as Error & { readonly cause?: { readonly code?: string } }
    // Each source that came is whole.
    onEvent({ type: 'kv-snapshot-lost', from: origin, cause: cause?.code ?? message, sources: sources.length })
  }
  return sources
}
