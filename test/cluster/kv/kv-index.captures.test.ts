// What a real vLLM published, against what it told its clients: before each request the index must foresee the engine's
// own cached_tokens.
import { readFileSync } from 'node:fs'
import * as v from 'valibot'
import { describe, expect, it } from 'vitest'
import type { BlocksStored, ExtraKeys, KvBatch, KvEvent } from '../../../cluster/kv/kv-event.ts'
import { createKvIndex, type KvIndex } from '../../../cluster/kv/kv-index.ts'
import { parseJson } from '../../parse-json.ts'
import { POD } from './kv-events.ts'

const FIXTURES = new URL('../../fixtures/vllm/', import.meta.url)
const MODEL = 'tiny'

const Hash = v.union([v.object({ $int: v.string() }), v.object({ $hex: v.string() })])
type Hash = v.InferOutput<typeof Hash>

const Event = v.variant('type', [
  v.object({
    type: v.literal('BlockStored'),
    block_hashes: v.array(Hash),
    parent_block_hash: v.nullable(Hash),
    token_ids: v.array(v.number()),
    block_size: v.number(),
    medium: v.nullable(v.string()),
    lora_name: v.nullable(v.string()),
    extra_keys: v.optional(v.array(v.nullable(v.tuple([v.string()])))),
    group_idx: v.number(),
    kv_cache_spec_kind: v.string(),
  }),
  v.object({
    type: v.literal('BlockRemoved'),
    block_hashes: v.array(Hash),
    medium: v.nullable(v.string()),
    group_idx: v.number(),
  }),
  v.object({ type: v.literal('AllBlocksCleared') }),
])

const Line = v.object({ decoded: v.tuple([v.number(), v.array(Event), v.number()]) })

const Requests = v.record(
  v.string(),
  v.array(
    v.object({
      name: v.string(),
      batchesBefore: v.number(),
      cacheSalt: v.optional(v.string()),
      cachedTokens: v.number(),
      prompt: v.array(v.number()),
    }),
  ),
)

const REQUESTS = v.parse(Requests, parseJson(readFileSync(new URL('kv-requests.json', FIXTURES), 'utf8')))

const CAPTURES = [
  'kv-events.sha256_cbor.int.jsonl',
  'kv-events.sha256.bytes.evictions.jsonl',
  'kv-events.gemma3-hybrid.jsonl',
  'kv-events.pd-prefill.jsonl',
  'kv-events.pd-decode.jsonl',
  'kv-events.tp2-two-node.jsonl',
]

describe.each(Object.entries(REQUESTS))('the requests behind %s', (capture, requests) => {
  it('get as many cached tokens from the engine as the index foresaw, in their order', () => {
    const batches = batchesOf(capture)
    const index = createKvIndex()
    const source = index.open({ endpoint: POD, rank: 0, model: MODEL })
    let applied = 0
    const foreseen: Record<string, unknown> = {}
    const cached: Record<string, unknown> = {}
    for (const { name, batchesBefore, prompt, cacheSalt, cachedTokens } of requests) {
      for (; applied < batchesBefore; applied++) source.apply(batches[applied] as KvBatch)
      foreseen[name] = matchedOf(index, prompt, cacheSalt)
      cached[name] = { matchedTokens: cachedTokens, gpuTokens: cachedTokens }
    }
    // An idle engine does not say that its cache was reset: the next request's events begin with it.
    if ('completion_after_reset' in cached) cached.completion_after_reset = { matchedTokens: 96, gpuTokens: 96 }
    expect(foreseen).toEqual(cached)
  })
})

it('a reset becomes known with the first batch after it, and leaves only what that batch stored', () => {
  const capture = 'kv-events.sha256_cbor.int.jsonl'
  const index = createKvIndex()
  const source = index.open({ endpoint: POD, rank: 0, model: MODEL })
  for (const batch of batchesOf(capture)) source.apply(batch)
  const left = (REQUESTS[capture] ?? []).map(
    ({ prompt, cacheSalt }) => matchedOf(index, prompt, cacheSalt).matchedTokens,
  )
  expect(left).toEqual([96, 128, 96, 32, 0, 0, 0, 0, 96, 0, 0, 0, 0, 0, 96])
})

describe.each(CAPTURES)('%s', (capture) => {
  it('leaves in the index what it says is there: every chain after each batch, and no block too many', () => {
    const index = createKvIndex()
    const source = index.open({ endpoint: POD, rank: 0, model: MODEL })
    const chainAt = new Map<string, Chain>()
    const copies = new Map<string, number>()
    for (const batch of batchesOf(capture)) {
      source.apply(batch)
      for (const event of batch.events) {
        if (event.type === 'cleared') copies.clear()
        else if (event.type === 'removed') count(copies, event, -1)
        else if (event.specKind === 'full_attention') count(copies, event, 1)
      }
      for (const event of batch.events) {
        if (event.type !== 'stored' || event.specKind !== 'full_attention') continue
        const { tokens, salt } = follow(chainAt, event)
        expect(matchedOf(index, [...tokens, 0], salt).matchedTokens).toBe(tokens.length)
      }
    }
    expect(index.stats().blocks).toBe([...copies.values()].filter((times) => times > 0).length)
    expect(index.stats()).toMatchObject({ shedBlocks: 0, orphans: { events: 0, dropped: 0 } })
  })
})

it('forgets the sliding-window group beside the full one: their hashes are equal, their removals are not', () => {
  const index = createKvIndex()
  const source = index.open({ endpoint: POD, rank: 0, model: MODEL })
  const first = Array.from({ length: 100 }, (_, position) => 1000 + position)
  const seen = batchesOf('kv-events.gemma3-hybrid.jsonl').map((batch) => {
    source.apply(batch)
    return matchedOf(index, first, undefined).matchedTokens
  })
  // The engine evicted the first prompt, for it stored all of it again when it came back last.
  expect(seen[0]).toBe(96)
  expect(seen.slice(-2)).toEqual([0, 96])
})

function matchedOf(index: KvIndex, prompt: readonly number[], cacheSalt: string | undefined) {
  const [match] = index.match({ tokenIds: Uint32Array.from(prompt), model: MODEL, lora: undefined, cacheSalt })
  if (!match) throw new Error('the source is open')
  return { matchedTokens: match.matchedTokens, gpuTokens: match.gpuTokens }
}

type Chain = { readonly tokens: readonly number[]; readonly salt: string | undefined }

/** The whole chain up to the event's last block, from what earlier events said. */
function follow(chainAt: Map<string, Chain>, event: BlocksStored): Chain {
  const { parent, tokenIds, hashes, blockSizeTokens, extraKeys } = event
  const before = parent ? chainAt.get(`${parent.hi}:${parent.lo}`) : { tokens: [], salt: extraKeys?.[0]?.salt }
  if (!before) throw new Error('a parent that was never stored')
  const { salt } = before
  const tokens = [...before.tokens, ...tokenIds]
  for (let block = 0; block < hashes.length / 2; block++) {
    const end = before.tokens.length + (block + 1) * blockSizeTokens
    chainAt.set(hashAt(hashes, block), { tokens: tokens.slice(0, end), salt })
  }
  return { tokens, salt }
}

function count(copies: Map<string, number>, event: { hashes: Uint32Array; group: number }, by: number): void {
  for (let block = 0; block < event.hashes.length / 2; block++) {
    const key = `${event.group}|${hashAt(event.hashes, block)}`
    copies.set(key, (copies.get(key) ?? 0) + by)
  }
}

function hashAt(hashes: Uint32Array, block: number): string {
  return `${hashes[2 * block]}:${hashes[2 * block + 1]}`
}

function batchesOf(capture: string): KvBatch[] {
  const lines = readFileSync(new URL(capture, FIXTURES), 'utf8').trimEnd().split('\n')
  return lines.map((line) => {
    const [atSeconds, events, rank] = v.parse(Line, parseJson(line)).decoded
    return { atSeconds, rank, events: events.map(eventOf), unknownEvents: 0 }
  })
}

function eventOf(event: v.InferOutput<typeof Event>): KvEvent {
  if (event.type === 'AllBlocksCleared') return { type: 'cleared' }
  const hashes = Uint32Array.from(event.block_hashes.flatMap(wordsOf))
  const medium = event.medium ?? undefined
  if (event.type === 'BlockRemoved') return { type: 'removed', hashes, medium, group: event.group_idx }
  const [hi = 0, lo = 0] = event.parent_block_hash === null ? [] : wordsOf(event.parent_block_hash)
  return {
    type: 'stored',
    hashes,
    parent: event.parent_block_hash === null ? undefined : { hi, lo },
    tokenIds: Uint32Array.from(event.token_ids),
    blockSizeTokens: event.block_size,
    medium,
    loraName: event.lora_name ?? undefined,
    extraKeys: event.extra_keys?.map((keys): ExtraKeys | undefined =>
      keys === null ? undefined : { salt: keys[0], others: '' },
    ),
    group: event.group_idx,
    specKind: event.kv_cache_spec_kind,
  }
}

/** As vLLM makes a number of its digest: the last eight bytes. */
function wordsOf(hash: Hash): [number, number] {
  const value = '$int' in hash ? BigInt(hash.$int) : BigInt(`0x${hash.$hex.slice(-16)}`)
  return [Number(value >> 32n), Number(value & 0xffffffffn)]
}
