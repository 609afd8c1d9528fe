// vLLM's events under the guide's names: what each of them means, and that nobody pays for them who does not watch.
import { describe, expect, it } from 'vitest'
import { type CacheEvent, createEventFeed } from '../../../cluster/kv/event-feed.ts'
import { createKvIndex } from '../../../cluster/kv/kv-index.ts'
import { batchOf, hashesOf, POD, removed, storedPrompt } from './kv-events.ts'

function rig() {
  const applied: string[] = []
  const feed = createEventFeed(() => 7, {
    applied: (endpoint) => applied.push(`applied ${endpoint}`),
    cleared: (endpoint) => applied.push(`cleared ${endpoint}`),
  })
  const index = createKvIndex()
  const source = feed.tap(index.open({ endpoint: POD, rank: 2, model: 'm' }), POD, 2)
  const seen: CacheEvent[] = []
  return { feed, index, source, seen, applied, watch: () => feed.watch((event) => seen.push(event)) }
}

const types = (seen: readonly CacheEvent[]) => seen.map(({ event_type, medium }) => [event_type, medium])

describe('what an event is called', () => {
  it('is made, moved out of the GPU and back, and freed, each in its medium', () => {
    const { source, seen, watch } = rig()
    watch()
    source.apply(batchOf(storedPrompt(1, 0, 3)), 0)
    source.apply(batchOf(storedPrompt(1, 0, 3, { medium: 'CPU' })), 1)
    source.apply(batchOf(removed(hashesOf(1, 0, 3))), 2)
    source.apply(batchOf(storedPrompt(1, 0, 3)), 3)
    source.apply(batchOf(removed(hashesOf(1, 0, 3), { medium: 'CPU' })), 4)
    source.apply(batchOf({ type: 'cleared' }), 5)
    expect(types(seen)).toEqual([
      ['kv_alloc', 'GPU'],
      ['kv_swap_out', 'CPU'],
      ['kv_free', 'GPU'],
      ['kv_swap_in', 'GPU'],
      ['kv_free', 'CPU'],
      ['kv_free', null],
    ])
    expect(seen.map(({ seq_num }) => seq_num)).toEqual([0, 1, 2, 3, 4, 5])
    // The prompt is the same one all along, and the blocks are.
    expect(new Set(seen.slice(0, 5).map(({ prompt_hash }) => prompt_hash)).size).toBe(1)
    expect(new Set(seen.slice(0, 5).map(({ block_ids }) => block_ids.join())).size).toBe(1)
    expect(seen[0]).toMatchObject({ endpoint: POD, rank: 2, tokens: 12, block_ids: { length: 3 } })
  })

  it('is that everything was freed, when the stream begins anew or its pod goes', () => {
    const { source, seen, watch, applied } = rig()
    watch()
    source.clear()
    source.close()
    expect(types(seen)).toEqual([
      ['kv_free', null],
      ['kv_free', null],
    ])
    expect(applied).toEqual([`cleared ${POD}`])
  })
})

describe('without watchers', () => {
  it('batches are applied, and the router hears of them all the same', () => {
    const { source, seen, index, applied } = rig()
    source.apply(batchOf(storedPrompt(1, 0, 3)), 0)
    source.apply(batchOf({ type: 'cleared' }), 1)
    expect([seen.length, index.stats().blocks]).toEqual([0, 0])
    expect(applied).toEqual([`applied ${POD}`, `cleared ${POD}`, `applied ${POD}`])
  })

  it('one that goes away hears nothing more, and its place is free', () => {
    const { source, seen, watch, feed } = rig()
    const stops = Array.from({ length: 16 }, () => watch())
    expect([stops.every((stop) => stop !== undefined), watch()]).toEqual([true, undefined])
    for (const stop of stops) stop?.()
    expect(feed.watchers()).toBe(0)
    source.apply(batchOf(storedPrompt(1, 0, 3)), 0)
    expect(seen).toEqual([])
  })
})
