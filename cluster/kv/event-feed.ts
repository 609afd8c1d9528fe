// What happens in pods' KV caches, told to whoever watches: vLLM's events under the names of our own, with our hash of the
// prompt beside the engine's hashes. Nothing is made of an event while nobody watches.
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { BlocksStored, KvBatch } from './kv-event.ts'
import type { KvSource } from './kv-index.ts'

export type CacheEventType = 'kv_alloc' | 'kv_free' | 'kv_swap_in' | 'kv_swap_out'

export type CacheEvent = {
  readonly event_type: CacheEventType
  /** The publisher's number of the batch that it was in. */
  readonly seq_num: number
  /** Seconds since 1970, by the pod's clock. */
  readonly timestamp: number
  /** The engine's hashes, 16 hexadecimal digits each; none where everything was freed. */
  readonly block_ids: readonly string[]
  /** Our hash of the prompt up to the last of the blocks; null where it is not known. */
  readonly prompt_hash: string | null
  readonly endpoint: EndpointId
  readonly rank: number
  /** `GPU`, `CPU`, …; null where everything was freed. */
  readonly medium: string | null
  /** That the blocks hold; 0 where the event did not say. */
  readonly tokens: number
}

export type EventFeed = {
  /** A source whose batches are told, besides being applied. */
  readonly tap: (source: KvSource, endpoint: EndpointId, rank: number) => KvSource
  /** Gives what ends it; undefined when there are too many already. */
  readonly watch: (onEvent: (event: CacheEvent) => void) => (() => void) | undefined
  readonly watchers: () => number
}

const WATCHERS_MAX = 16
const GPU = 'GPU'

/** Told of every source's events, watched or not. */
export type CacheListener = {
  /** A batch was applied. */
  readonly applied: (endpoint: EndpointId) => void
  /** All that was known of an endpoint's cache is gone: it was reset, or its stream began anew. */
  readonly cleared: (endpoint: EndpointId) => void
}

export function createEventFeed(nowSeconds: () => number, listener?: CacheListener): EventFeed {
  const watchers = new Set<(event: CacheEvent) => void>()

  function tell(event: CacheEvent): void {
    for (const watcher of watchers) watcher(event)
  }

  function applyAndTell(source: KvSource, endpoint: EndpointId, rank: number, batch: KvBatch, seq: number): void {
    const common = { seq_num: seq, timestamp: batch.atSeconds, endpoint, rank }
    // What is removed is known before, and what is stored afterwards.
    const before = batch.events.map((event) => {
      if (event.type === 'cleared') return undefined
      const held = lastHeld(source, event.hashes, event.group)
      return { held, hash: hashOf(held) }
    })
    source.apply(batch, seq)
    batch.events.forEach((event, index) => {
      if (event.type === 'cleared') {
        tell({ ...common, event_type: 'kv_free', block_ids: [], prompt_hash: null, medium: null, tokens: 0 })
        return
      }
      if (event.hashes.length === 0) return
      const { medium = GPU } = event
      const was = before[index]
      const isStored = event.type === 'stored'
      tell({
        ...common,
        event_type: isStored ? storedType(medium, was?.held?.media ?? []) : 'kv_free',
        block_ids: blockIds(event.hashes),
        prompt_hash: (isStored ? hashOf(lastHeld(source, event.hashes, event.group)) : undefined) ?? was?.hash ?? null,
        medium,
        tokens: isStored ? (event as BlocksStored).tokenIds.length : 0,
      })
    })
  }

  return {
    tap(source, endpoint, rank) {
      const freeAll = (): void => {
        if (watchers.size === 0) return
        tell({
          event_type: 'kv_free',
          seq_num: -1,
          timestamp: nowSeconds(),
          block_ids: [],
          prompt_hash: null,
          endpoint,
          rank,
          medium: null,
          tokens: 0,
        })
      }
      return {
        ...source,
        apply(batch, seq = -1) {
          if (listener && batch.events.some(({ type }) => type === 'cleared')) listener.cleared(endpoint)
          if (watchers.size === 0) source.apply(batch, seq)
          else applyAndTell(source, endpoint, rank, batch, seq)
          listener?.applied(endpoint)
        },
        clear() {
          source.clear()
          listener?.cleared(endpoint)
          freeAll()
        },
        close() {
          source.close()
          freeAll()
        },
      }
    },
    watch(onEvent) {
      if (watchers.size >= WATCHERS_MAX) return undefined
      watchers.add(onEvent)
      return () => void watchers.delete(onEvent)
    },
    watchers: () => watchers.size,
  }
}

/** Into the GPU from where it was, out of it, or made there. */
function storedType(medium: string, mediaBefore: readonly string[]): CacheEventType {
  if (medium !== GPU) return 'kv_swap_out'
  return mediaBefore.some((each) => each !== GPU) ? 'kv_swap_in' : 'kv_alloc'
}

function lastHeld(source: KvSource, hashes: Uint32Array, group: number) {
  const at = hashes.length - 2
  return at < 0 ? undefined : source.find(hashes[at] as number, hashes[at + 1] as number, group)
}

function hashOf(held: { readonly hi: number; readonly lo: number } | undefined): string | undefined {
  return held && hex(held.hi, held.lo)
}

function blockIds(hashes: Uint32Array): string[] {
  const ids: string[] = []
  for (let at = 0; at + 1 < hashes.length; at += 2) ids.push(hex(hashes[at] as number, hashes[at + 1] as number))
  return ids
}

function hex(hi: number, lo: number): string {
  return hi.toString(16).padStart(8, '0') + lo.toString(16).padStart(8, '0')
}
