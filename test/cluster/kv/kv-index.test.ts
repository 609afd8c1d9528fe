import { describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { createKvIndex, type KvIndex } from '../../../cluster/kv/kv-index.ts'
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

describe('what a query finds', () => {
  it('names every open source of the model, those that hold nothing too, in the order of opening', () => {
    const index = createKvIndex()
    const first = index.open(STREAM)
    index.open({ endpoint: 'b:1' as EndpointId, rank: 1, model: MODEL })
    index.open({ endpoint: 'c:1' as EndpointId, rank: 0, model: 'another' })
    first.apply(batchOf(storedPrompt(1, 0, 3)))
    first.complete(true)
    expect(match(index, promptOf(1, 3))).toEqual([
      { endpoint: POD, rank: 0, matchedTokens: 12, gpuTokens: 12, complete: true },
      { endpoint: 'b:1', rank: 1, matchedTokens: 0, gpuTokens: 0, complete: false },
    ])
    expect(match(index, promptOf(1, 3), { model: 'unknown' })).toEqual([])
  })

  it('is never the whole prompt: an engine computes the last token anew, and its block with it', () => {
    const index = createKvIndex()
    index.open(STREAM).apply(batchOf(storedPrompt(1, 0, 3)))
    const prompt = promptOf(1, 3)
    expect(Array.from({ length: 14 }, (_, tokens) => matched(index, prompt.subarray(0, tokens))[0])).toEqual([
      0, 0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12,
    ])
  })

  it('ends at the first block that is missing, even when later ones are there', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    source.apply(batchOf(storedPrompt(1, 0, 5), removed(hashesOf(1, 2, 3))))
    expect(matched(index, promptOf(1, 5))).toEqual([8])
  })

  it('keeps adapters and salts apart, so that no tenant is told of the blocks of another', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    source.apply(
      batchOf(
        storedPrompt(1, 0, 1, { loraName: 'sql' }),
        storedPrompt(2, 0, 2, { extraKeys: [{ salt: 'tenant-a', others: '' }, undefined] }),
      ),
    )
    const tokensOf = (names: { lora?: string; cacheSalt?: string }, start: number) =>
      match(index, promptOf(start, 2), names)[0]?.matchedTokens
    expect(tokensOf({ lora: 'sql' }, 1)).toBe(4)
    expect([tokensOf({}, 1), tokensOf({ lora: 'SQL' }, 1), tokensOf({ cacheSalt: 'sql' }, 1)]).toEqual([0, 0, 0])
    expect(tokensOf({ cacheSalt: 'tenant-a' }, 2)).toBe(8)
    expect([tokensOf({}, 2), tokensOf({ cacheSalt: 'tenant-b' }, 2), tokensOf({ lora: 'tenant-a' }, 2)]).toEqual([
      0, 0, 0,
    ])
  })

  it('leaves a prompt with an image to those who ask with it: the text alone matches up to the image', () => {
    const index = createKvIndex()
    const extraKeys = [undefined, { salt: undefined, others: 'image-1' }, undefined]
    index.open(STREAM).apply(batchOf(storedPrompt(1, 0, 3, { extraKeys })))
    expect(matched(index, promptOf(1, 3))).toEqual([4])
  })

  it('counts a block that only a slower tier has as matched, and not as in the GPU', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    source.apply(
      batchOf(
        storedPrompt(1, 0, 4),
        storedPrompt(1, 0, 4, { medium: 'CPU' }),
        removed(hashesOf(1, 1, 3)),
        removed(hashesOf(1, 2, 3), { medium: 'STORAGE' }),
      ),
    )
    expect(match(index, promptOf(1, 4))).toMatchObject([{ matchedTokens: 16, gpuTokens: 8 }])
  })

  it('hashes in each source as large blocks as that source has', () => {
    const index = createKvIndex()
    for (const size of [4, 3, 8]) {
      const endpoint = `pod-${size}:1` as EndpointId
      index.open({ endpoint, rank: 0, model: MODEL }).apply(batchOf(storedPrompt(1, 0, 2, { blockSizeTokens: size })))
    }
    expect(matched(index, promptOf(1, 8))).toEqual([8, 6, 16])
  })

  it('follows a source whose block size changes', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    source.apply(batchOf(storedPrompt(1, 0, 4)))
    source.apply(batchOf(storedPrompt(2, 0, 3, { blockSizeTokens: 16 })))
    expect(matched(index, promptOf(1, 4))).toEqual([16])
    expect(matched(index, promptOf(2, 3, 16))).toEqual([48])
    source.apply(batchOf({ type: 'cleared' }, storedPrompt(1, 0, 1, { blockSizeTokens: 16 })))
    expect(matched(index, promptOf(1, 4, 16))).toEqual([16])
  })

  it('tells as many sources apart as a fleet has, each with its own depth', () => {
    const index = createKvIndex()
    const sources = Array.from({ length: 1000 }, (_, name) =>
      index.open({ endpoint: `pod-${name}:1` as EndpointId, rank: 0, model: MODEL }),
    )
    for (const [name, source] of sources.entries()) source.apply(batchOf(storedPrompt(1, 0, name % 37)))
    expect(matched(index, promptOf(1, 40))).toEqual(sources.map((_, name) => (name % 37) * 4))
    for (const [name, source] of sources.entries()) if (name % 2 === 0) source.close()
    for (let name = 0; name < 500; name++)
      index.open({ endpoint: `new-${name}:1` as EndpointId, rank: 0, model: MODEL })
    const odd = sources.map((_, name) => name).filter((name) => name % 2 === 1)
    expect(matched(index, promptOf(1, 40))).toEqual([
      ...odd.map((name) => (name % 37) * 4),
      ...new Array<number>(500).fill(0),
    ])
  })
})

describe('copies', () => {
  it('a block stored twice survives one removal', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    source.apply(batchOf(storedPrompt(1, 0, 3), storedPrompt(1, 2, 3), removed(hashesOf(1, 2, 3))))
    expect(matched(index, promptOf(1, 3))).toEqual([12])
    source.apply(batchOf(removed(hashesOf(1, 2, 3))))
    expect(matched(index, promptOf(1, 3))).toEqual([8])
    expect(index.stats()).toMatchObject({ blocks: 2, promptBlocks: 2 })
  })

  it('two slower media are two copies: the block is in the tier until both are gone', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    source.apply(batchOf(storedPrompt(1, 0, 1, { medium: 'CPU' }), storedPrompt(1, 0, 1, { medium: 'STORAGE' })))
    source.apply(batchOf(removed(hashesOf(1, 0, 1), { medium: 'CPU' })))
    expect(match(index, promptOf(1, 1))).toMatchObject([{ matchedTokens: 4, gpuTokens: 0 }])
    source.apply(batchOf(removed(hashesOf(1, 0, 1), { medium: 'STORAGE' })))
    expect(matched(index, promptOf(1, 1))).toEqual([0])
  })

  it('one source that drops a block leaves it to the others', () => {
    const index = createKvIndex()
    const [a, b] = ['a:1', 'b:1'].map((name) => index.open({ ...STREAM, endpoint: name as EndpointId }))
    for (const source of [a, b]) source?.apply(batchOf(storedPrompt(1, 0, 3)))
    a?.apply(batchOf(removed(hashesOf(1, 0, 3))))
    expect(matched(index, promptOf(1, 3))).toEqual([0, 12])
    b?.clear()
    expect(matched(index, promptOf(1, 3))).toEqual([0, 0])
  })
})

describe('groups of a hybrid model', () => {
  it('a sliding-window group is left out, and its removals take nothing from the full one with the same hashes', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    const window = { group: 1, specKind: 'sliding_window' }
    source.apply(
      batchOf(
        // As vLLM does: more tokens than hashes, and lists without any.
        stored({ hashes: hashesOf(1, 2, 3), tokenIds: promptOf(1, 3).subarray(0, 12), ...window }),
        stored({ tokenIds: promptOf(1, 1), ...window }),
        storedPrompt(1, 0, 3),
        removed(hashesOf(1, 0, 3), { group: 1 }),
      ),
    )
    expect(matched(index, promptOf(1, 3))).toEqual([12])
    expect(index.stats().ignored).toMatchObject({ 'group-kind': 2, 'unknown-block': 3 })
  })

  it.each(['mla_attention', 'sink_full_attention', undefined])('%s counts as the whole prompt', (specKind) => {
    const index = createKvIndex()
    index.open(STREAM).apply(batchOf(storedPrompt(1, 0, 3, { specKind })))
    expect(matched(index, promptOf(1, 3))).toEqual([12])
  })
})

describe('events that do not fit', () => {
  it('are counted and change nothing', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    const tokenIds = promptOf(1, 2).subarray(0, 8)
    source.apply({
      ...batchOf(
        stored({ hashes: hashesOf(1, 0, 3), tokenIds }),
        stored({ hashes: hashesOf(1, 0, 2), tokenIds: tokenIds.subarray(1) }),
        stored({ hashes: hashesOf(1, 0, 2).subarray(1), tokenIds }),
        stored({ hashes: hashesOf(1, 0, 2), tokenIds, blockSizeTokens: 0 }),
        stored({ hashes: hashesOf(1, 0, 2), tokenIds: tokenIds.subarray(0, 3), blockSizeTokens: 1.5 }),
        stored({ hashes: hashesOf(1, 0, 2), tokenIds, blockSizeTokens: Number.NaN }),
        stored({ hashes: hashesOf(1, 0, 2), tokenIds, medium: 'x'.repeat(1000) }),
        stored({ hashes: hashesOf(1, 0, 2), blockSizeTokens: 0, medium: 'CPU' }),
        removed(hashesOf(1, 0, 1)),
        stored({ tokenIds }),
      ),
      unknownEvents: 4,
    })
    const { ignored, blocks, bytes } = index.stats()
    expect(ignored).toEqual({
      'group-kind': 0,
      'token-count': 3,
      'unknown-block': 3,
      'block-size': 3,
      kind: 1,
      'unknown-event': 4,
    })
    expect(blocks).toBe(0)
    expect(bytes).toBeGreaterThan(0)
  })

  it('offload events without tokens are resolved by the hash that the GPU blocks had', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    source.apply(batchOf(storedPrompt(1, 0, 3)))
    source.apply(batchOf(stored({ hashes: hashesOf(1, 0, 3), blockSizeTokens: 0, medium: 'CPU', specKind: undefined })))
    source.apply(batchOf(removed(hashesOf(1, 0, 3))))
    expect(match(index, promptOf(1, 3))).toMatchObject([{ matchedTokens: 12, gpuTokens: 0 }])
  })

  it('media, groups and block sizes without end are refused, and those before still count', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    for (let group = 0; group < 300; group++) source.apply(batchOf(storedPrompt(1, 0, 1, { group })))
    for (let size = 1; size <= 10; size++)
      source.apply(batchOf(storedPrompt(1 + size, 0, 1, { blockSizeTokens: size })))
    expect(index.stats().ignored).toMatchObject({ kind: 268, 'block-size': 6 })
    expect(matched(index, promptOf(1, 1))).toEqual([4])
  })
})

describe('one event of very many blocks', () => {
  it('costs a moment, with keys that say nothing as well', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    const blocks = 400_000
    const hashes = Uint32Array.from({ length: 2 * blocks }, (_, word) => word)
    const extraKeys = Array<undefined>(blocks).fill(undefined)
    const startedAtMs = performance.now()
    source.apply(batchOf(stored({ hashes, tokenIds: new Uint32Array(blocks), blockSizeTokens: 1, extraKeys })))
    expect(performance.now() - startedAtMs).toBeLessThan(1_000)
    expect(index.stats().promptBlocks).toBe(blocks)
  })
})

describe('blocks that come before their parent', () => {
  it('count as soon as the parent has come, all that hang on it, in whatever order', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    for (const from of [3, 1, 4, 2]) source.apply(batchOf(storedPrompt(1, from, from + 1)))
    expect(matched(index, promptOf(1, 5))).toEqual([0])
    expect(index.stats().orphans).toEqual({ events: 4, tokens: 16, dropped: 0 })
    source.apply(batchOf(storedPrompt(1, 0, 1)))
    expect(matched(index, promptOf(1, 5))).toEqual([20])
    expect(index.stats().orphans).toEqual({ events: 0, tokens: 0, dropped: 0 })
  })

  it('and were removed while they waited are not there afterwards', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    source.apply(batchOf(storedPrompt(1, 1, 4), removed(hashesOf(1, 3, 4))))
    source.apply(batchOf(storedPrompt(1, 0, 1)))
    expect(matched(index, promptOf(1, 4))).toEqual([12])
  })

  it('are copied: the message that brought them may be overwritten', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    const event = storedPrompt(1, 1, 2)
    source.apply(batchOf(event))
    event.tokenIds.fill(0)
    event.hashes.fill(0)
    source.apply(batchOf(storedPrompt(1, 0, 1)))
    expect(matched(index, promptOf(1, 2))).toEqual([8])
  })

  it('wait in a buffer with bounds: the oldest go, and are counted', () => {
    const index = createKvIndex({ orphans: { eventsMax: 3, tokensMax: 40 } })
    const source = index.open(STREAM)
    for (let start = 1; start <= 5; start++) source.apply(batchOf(storedPrompt(start, 1, 2)))
    expect(index.stats().orphans).toEqual({ events: 3, tokens: 12, dropped: 2 })
    source.apply(batchOf(storedPrompt(6, 1, 10)))
    expect(index.stats().orphans).toEqual({ events: 2, tokens: 40, dropped: 4 })
    source.apply(batchOf(storedPrompt(7, 1, 12)))
    expect(index.stats().orphans).toEqual({ events: 2, tokens: 40, dropped: 5 })
    for (let start = 1; start <= 7; start++) source.apply(batchOf(storedPrompt(start, 0, 1)))
    const depths = Array.from({ length: 7 }, (_, start) => matched(index, promptOf(start + 1, 12))[0])
    expect(depths).toEqual([4, 4, 4, 4, 8, 40, 4])
  })

  it('with long texts weigh what they hold: memory is bounded by more than tokens', () => {
    const index = createKvIndex({ orphans: { eventsMax: 100, tokensMax: 1_000 } })
    const source = index.open(STREAM)
    const others = 'x'.repeat(1_000)
    for (let start = 1; start <= 20; start++) {
      source.apply(batchOf(storedPrompt(start, 1, 2, { extraKeys: [{ salt: undefined, others }] })))
    }
    expect(index.stats().orphans).toMatchObject({ events: 3, dropped: 17 })
    source.apply(batchOf(storedPrompt(99, 1, 2, { loraName: 'x'.repeat(10_000) })))
    expect(index.stats().orphans).toMatchObject({ events: 3, dropped: 18 })
  })

  it('and are removed by the thousand cost a moment, even when all have one hash', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    const blocks = 60_000
    const hashes = Uint32Array.from({ length: 2 * blocks }, () => 7)
    const tokenIds = new Uint32Array(blocks)
    source.apply(batchOf(stored({ hashes, tokenIds, blockSizeTokens: 1, parent: { hi: 1, lo: 1 } })))
    const startedAtMs = performance.now()
    source.apply(batchOf(removed(Uint32Array.from({ length: 400_000 }, () => 7))))
    expect(performance.now() - startedAtMs).toBeLessThan(500)
    expect(index.stats().ignored).toMatchObject({ 'unknown-block': 200_000 - blocks })
  })

  it('are forgotten when the source is cleared', () => {
    const index = createKvIndex()
    const source = index.open(STREAM)
    source.apply(batchOf(storedPrompt(1, 1, 2), { type: 'cleared' }, storedPrompt(1, 0, 1)))
    expect(matched(index, promptOf(1, 2))).toEqual([4])
    expect(index.stats().orphans.events).toBe(0)
  })
})
