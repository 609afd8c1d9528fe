// What the KV index does when much comes at once: clearing, and its limits.
import { describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { createKvIndex, type KvIndex, type SheddingChange } from '../../../cluster/kv/kv-index.ts'
import { batchOf, hashesOf, POD, promptOf, removed, stored, storedPrompt } from './kv-events.ts'

const MODEL = 'm'
const STREAM = { endpoint: POD, rank: 0, model: MODEL }

function match(
  index: KvIndex,
  tokenIds: Uint32Array,
  names: { lora?: string; cacheSalt?: string; model?: string } = {},
) {
  return index.match({ tokenIds, model: names.model ?? MODEL, lora: names.lora, cacheSalt: names.cacheSalt })
}

function matched(index: KvIndex, tokenIds: Uint32Array): number[] {
  return match(index, tokenIds).map(({ matchedTokens }) => matchedTokens)
}

/** Sweeps until nothing is left. */
function sweepAll(index: KvIndex): number {
  let parts = 1
  while (!index.sweep()) parts++
  return parts
}

describe('clearing', () => {
  const BLOCKS = 30_000

  function filled() {
    const index = createKvIndex()
    const big = index.open(STREAM)
    const other = index.open({ endpoint: 'other:1' as EndpointId, rank: 0, model: MODEL })
    for (let start = 0; start < 30; start++) {
      big.apply(batchOf(storedPrompt(start, 0, BLOCKS / 30)))
      other.apply(batchOf(storedPrompt(start, 0, 10)))
    }
    return { index, big, other }
  }

  it('a large source is empty at once, and is swept up afterwards in parts, while it fills anew', () => {
    const { index, big } = filled()
    big.clear()
    expect(index.stats()).toMatchObject({ blocks: 300, blocksToSweep: BLOCKS, promptBlocks: BLOCKS })
    expect(matched(index, promptOf(3, 100))).toEqual([0, 40])
    big.apply(batchOf(storedPrompt(3, 0, 50)))
    expect(matched(index, promptOf(3, 100))).toEqual([200, 40])
    expect(sweepAll(index)).toBeGreaterThan(10)
    expect(matched(index, promptOf(3, 100))).toEqual([200, 40])
    expect(index.stats()).toMatchObject({ blocks: 350, blocksToSweep: 0, promptBlocks: 340 })
  })

  it('a source that goes takes its blocks with it, and nothing it says later counts', () => {
    const { index, big, other } = filled()
    big.close()
    big.close()
    big.apply(batchOf(storedPrompt(3, 0, 50)))
    big.clear()
    expect(matched(index, promptOf(3, 100))).toEqual([40])
    other.close()
    sweepAll(index)
    expect(match(index, promptOf(3, 100))).toEqual([])
    expect(index.stats()).toMatchObject({ sources: 0, blocks: 0, promptBlocks: 0, blocksToSweep: 0 })
  })

  it('again and again costs no more memory than once', () => {
    const { index, big } = filled()
    sweepAll(index)
    const before = index.stats().bytes
    for (let round = 0; round < 400; round++) {
      big.clear()
      for (let start = 0; start < 2; start++) big.apply(batchOf(storedPrompt(start, 0, 1000)))
    }
    sweepAll(index)
    expect(index.stats().bytes).toBeLessThanOrEqual(before)
    expect(matched(index, promptOf(1, 1000))).toEqual([4000, 40])
  })
})

describe('limits', () => {
  it('blocks beyond the most are shed and counted, and room comes back when others go', () => {
    const index = createKvIndex({ blocksMax: 20 })
    const source = index.open(STREAM)
    source.apply(batchOf(storedPrompt(1, 0, 8), storedPrompt(2, 0, 8)))
    expect(index.stats()).toMatchObject({ blocks: 10, shedBlocks: 6 })
    expect([matched(index, promptOf(1, 8)), matched(index, promptOf(2, 8))]).toEqual([[32], [8]])
    // Copies of what is held take no room.
    source.apply(batchOf(storedPrompt(1, 7, 8), removed(hashesOf(1, 0, 8)), storedPrompt(3, 0, 7)))
    expect(index.stats()).toMatchObject({ blocks: 10, shedBlocks: 6 })
    expect(matched(index, promptOf(3, 7))).toEqual([28])
  })

  it('blocks that wait to be swept up give way to new ones', () => {
    const index = createKvIndex({ blocksMax: 6000 })
    const source = index.open(STREAM)
    for (let round = 0; round < 10; round++) {
      source.apply(batchOf(storedPrompt(round, 0, 3000), { type: 'cleared' }))
    }
    source.apply(batchOf(storedPrompt(10, 0, 3000)))
    expect(index.stats()).toMatchObject({ blocks: 3000, shedBlocks: 0 })
  })

  it('one source cannot take the room of all', () => {
    const index = createKvIndex({ blocksPerSourceMax: 5 })
    const [a, b] = ['a:1', 'b:1'].map((name) => index.open({ ...STREAM, endpoint: name as EndpointId }))
    a?.apply(batchOf(storedPrompt(1, 0, 8)))
    b?.apply(batchOf(storedPrompt(1, 0, 4)))
    expect(matched(index, promptOf(1, 8))).toEqual([20, 16])
  })

  it.each([1, 2, 5])('%i that flood leave as much room for the next one as each of them got', (floods) => {
    const index = createKvIndex({ blocksMax: 600 })
    const sources = Array.from({ length: floods + 1 }, (_, at) =>
      index.open({ ...STREAM, endpoint: `pod-${at}:1` as EndpointId }),
    )
    const share = 600 / (floods + 1)
    for (const source of sources.slice(0, floods)) source.apply(batchOf(storedPrompt(1, 0, 100)))
    for (let start = 2; start < 8; start++) {
      for (const source of sources.slice(0, floods)) source.apply(batchOf(storedPrompt(start, 0, 100)))
    }
    expect(index.stats().blocks).toBeLessThanOrEqual(floods * share)
    sources.at(-1)?.apply(batchOf(storedPrompt(99, 0, Math.floor(share / 2))))
    expect(matched(index, promptOf(99, Math.floor(share / 2))).at(-1)).toBe(4 * Math.floor(share / 2))
  })

  it('what is shed is told once, and once more when there is room again', () => {
    const told: SheddingChange[] = []
    const index = createKvIndex({ blocksPerSourceMax: 10 }, (change) => told.push(change))
    const source = index.open(STREAM)
    const other = index.open({ ...STREAM, endpoint: 'other:1' as EndpointId })
    const of = { endpoint: POD, rank: 0 }
    source.apply(batchOf(storedPrompt(1, 0, 10)))
    expect(told).toEqual([])
    source.apply(batchOf(storedPrompt(2, 0, 3)))
    source.apply(batchOf(storedPrompt(3, 0, 2)))
    other.apply(batchOf(storedPrompt(1, 0, 10)))
    expect(told).toEqual([{ ...of, shedding: true, blocks: 10, shedBlocks: 3 }])
    expect(index.stats()).toMatchObject({ sheddingSources: 1, shedBlocks: 5 })
    // As full as before, as far as a block more or less counts.
    source.apply(batchOf(storedPrompt(1, 9, 10)))
    expect(told).toHaveLength(1)
    source.apply(batchOf(removed(hashesOf(1, 8, 10)), removed(hashesOf(1, 9, 10))))
    expect(told.slice(1)).toEqual([{ ...of, shedding: false, blocks: 8, shedBlocks: 5 }])
    source.apply(batchOf(storedPrompt(4, 0, 3)))
    source.close()
    expect(told.slice(2).map(({ shedding }) => shedding)).toEqual([true, false])
    expect(index.stats()).toMatchObject({ sheddingSources: 0 })
  })

  it('a source is not complete from the first block that was shed until it begins anew', () => {
    const index = createKvIndex({ blocksPerSourceMax: 4 })
    const source = index.open(STREAM)
    const complete = () => match(index, promptOf(1, 4)).map(({ complete }) => complete)
    source.complete(true)
    source.apply(batchOf(storedPrompt(1, 0, 4)))
    expect(complete()).toEqual([true])
    source.apply(batchOf(storedPrompt(2, 0, 1), removed(hashesOf(1, 0, 4))))
    expect(complete()).toEqual([false])
    source.apply(batchOf({ type: 'cleared' }, storedPrompt(1, 0, 4)))
    expect(complete()).toEqual([true])
  })

  it('a medium for each event costs no more than the few that are taken in', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    source.apply(batchOf(storedPrompt(1, 0, 4)))
    const { bytes } = index.stats()
    for (let batch = 0; batch < 20; batch++) {
      const events = Array.from({ length: 1_000 }, (_, at) =>
        storedPrompt(2, 0, 1, { medium: `medium ${batch * 1_000 + at}` }),
      )
      source.apply(batchOf(...events, ...events.map(({ hashes, medium }) => removed(hashes, { medium }))))
    }
    expect(index.stats().ignored.kind).toBe(20_000 - 31)
    expect(index.stats().bytes).toBeLessThan(bytes + 10_000)
    expect(matched(index, promptOf(1, 4))).toEqual([16])
  })

  it('sources beyond the most hold nothing, and are never complete', () => {
    const index = createKvIndex({ sourcesMax: 1 })
    const first = index.open(STREAM)
    const second = index.open({ endpoint: 'b:1' as EndpointId, rank: 0, model: MODEL })
    second.apply(batchOf(storedPrompt(1, 0, 4)))
    second.complete(true)
    expect(match(index, promptOf(1, 4))).toMatchObject([{}, { endpoint: 'b:1', matchedTokens: 0, complete: false }])
    expect(index.stats()).toMatchObject({ sources: 2, blocks: 0, shedBlocks: 4 })
    second.close()
    first.close()
    index.open(STREAM).apply(batchOf(storedPrompt(1, 0, 4)))
    expect(matched(index, promptOf(1, 4))).toEqual([16])
  })

  it('hashes chosen to collide are refused instead of making every search long', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    for (let block = 0; block < 20_000; block++) {
      const tokenIds = Uint32Array.of(block, 0, 0, 0)
      source.apply(batchOf(stored({ hashes: colliding(block), tokenIds })))
    }
    const { blocks, shedBlocks } = index.stats()
    expect(blocks + shedBlocks).toBe(20_000)
    expect(shedBlocks).toBeGreaterThan(10_000)
  })
})

/** Hashes that the engine's table mixes to one value. */
function colliding(hi: number): Uint32Array {
  return Uint32Array.of(hi, Math.imul(hi, 0x9e3779b1) ^ 12_345)
}
