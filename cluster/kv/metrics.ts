// What the index and the streams that feed it tell Prometheus, in a router and in a KV-Cache Manager.
import { Gauge, type Registry } from 'prom-client'
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { Caches } from './caches.ts'

/** Read when Prometheus asks, from where the truth is kept. */
export function registerCacheMetrics(registry: Registry, caches: Caches, ids: () => readonly EndpointId[]): void {
  const registers = [registry]
  const { index, watch, bound } = caches
  new Gauge({
    name: 'warmpath_kv_index_blocks',
    help: 'KV blocks that the index knows, each counted once however many endpoints hold it.',
    registers,
    collect() {
      this.set(index.stats().promptBlocks)
    },
  })
  new Gauge({
    name: 'warmpath_kv_index_bytes',
    help: 'Memory of the KV index.',
    registers,
    collect() {
      this.set(index.stats().bytes)
    },
  })
  new Gauge({
    name: 'warmpath_kv_ignored',
    help: 'What KV events brought and the index left out, by reason, since the start.',
    labelNames: ['reason'],
    registers,
    collect() {
      const { ignored, shedBlocks, orphans } = index.stats()
      for (const [reason, count] of Object.entries(ignored)) this.set({ reason }, count)
      this.set({ reason: 'no-room' }, shedBlocks)
      this.set({ reason: 'parent-never-came' }, orphans.dropped)
    },
  })
  new Gauge({
    name: 'warmpath_kv_shedding_sources',
    help: 'Publishers of KV events whose blocks the index has no room for.',
    registers,
    collect() {
      this.set(index.stats().sheddingSources)
    },
  })
  new Gauge({
    name: 'warmpath_kv_stream_live',
    help: '1 when an endpoint’s KV events arrive and none is missing, 0 while they do not or some are.',
    labelNames: ['endpoint', 'rank'],
    registers,
    collect() {
      this.reset()
      for (const id of ids()) {
        for (const { rank, state, complete } of watch.sourcesOf(id)) {
          this.set({ endpoint: id, rank: String(rank) }, state === 'live' && complete ? 1 : 0)
        }
      }
    },
  })
  new Gauge({
    name: 'warmpath_kv_faults',
    help: 'KV event messages of an endpoint that could not be read.',
    labelNames: ['endpoint', 'rank'],
    registers,
    collect() {
      this.reset()
      for (const id of ids()) {
        for (const { rank, faults } of watch.sourcesOf(id)) this.set({ endpoint: id, rank: String(rank) }, faults)
      }
    },
  })
  new Gauge({
    name: 'warmpath_kv_bound_faults',
    help: 'Messages of pods that dial which were dropped, by reason, since the start; absent where none may dial.',
    labelNames: ['reason'],
    registers,
    collect() {
      for (const [reason, count] of Object.entries(bound?.faults() ?? {})) this.set({ reason }, count)
    },
  })
}
