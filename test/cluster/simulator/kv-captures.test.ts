// The engine given the requests of a recorded vLLM 0.32: the same blocks, with the same hashes, in the same order.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { createBlockHasher, type Digest, HASH_SEED_DEFAULT } from '../../../cluster/simulator/block-hash.ts'
import type { BlockEvent } from '../../../cluster/simulator/block-pool.ts'
import { Engine, type StepResult } from '../../../cluster/simulator/engine.ts'
import { encodeBatch } from '../../../cluster/simulator/kv-events.ts'
import { RECORDED_BATCHES as BATCHES, RECORDED_CONFIG as CONFIG, drain, range, request } from './sequences.ts'

type Hash = { readonly $int: string } | { readonly $hex: string }

type RecordedEvent = {
  readonly type: 'BlockStored' | 'BlockRemoved' | 'AllBlocksCleared'
  readonly block_hashes?: readonly Hash[]
  readonly parent_block_hash?: Hash | null
  readonly token_ids?: readonly number[]
  readonly extra_keys?: readonly (readonly string[] | null)[]
}

type RecordedBatch = {
  readonly frames_hex: readonly [string, string, string]
  readonly decoded: readonly [number, readonly RecordedEvent[], number]
}

function recorded(file: string): readonly RecordedBatch[] {
  const text = readFileSync(new URL(`../../fixtures/vllm/${file}`, import.meta.url), 'utf8')
  return text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
}

describe('the hash of a block', () => {
  const intOf = (hash: Hash | null | undefined) => (hash && '$int' in hash ? BigInt(hash.$int) : undefined)
  const numberOf = (digest: Digest) => Buffer.from(digest, 'latin1').readBigUInt64BE(24)

  it('is the real one for every block that a vLLM with sha256_cbor announced, salted ones too', () => {
    const hasher = createBlockHasher(32, '0')
    const known = new Map<bigint, Digest>()
    let blocks = 0
    for (const { decoded } of recorded('kv-events.sha256_cbor.int.jsonl')) {
      for (const {
        block_hashes: hashes = [],
        parent_block_hash: before,
        token_ids: ids = [],
        ...event
      } of decoded[1]) {
        let parent = known.get(intOf(before) ?? 0n)
        if (event.type === 'BlockStored' && before) expect(parent).toBeDefined()
        for (const [index, hash] of hashes.entries()) {
          const salt = event.extra_keys?.[index]?.[0]
          parent = hasher.block(parent, ids.slice(index * 32, (index + 1) * 32), { salt })
          expect(numberOf(parent)).toBe(intOf(hash))
          known.set(numberOf(parent), parent)
          blocks++
        }
      }
    }
    expect(blocks).toBeGreaterThan(200)
  })

  it('follows from the seed, and without one from vLLM’s own', () => {
    const first = (seed?: string) => createBlockHasher(2, seed).prompt([1, 2])[0]
    expect(first()).toBe(first(HASH_SEED_DEFAULT))
    expect(first('0')).not.toBe(first('1'))
  })

  it('takes a token id of any size', () => {
    const hasher = createBlockHasher(6, '0')
    const [digest = ''] = hasher.prompt([23, 24, 255, 256, 65_536, 4_294_967_295])
    // As Python's cbor2 and hashlib have it.
    expect(Buffer.from(digest, 'latin1').toString('hex')).toBe(
      '651d5d6ccfab1d84e6d38b33b3ef23609e78882819eb553d9451ed5765fa2937',
    )
  })
})

describe('like the real vLLM', () => {
  it('announces the same bytes for the same requests, or what a router learns here would not hold there', () => {
    const engine = new Engine(CONFIG)
    const batches = recorded('kv-events.sha256_cbor.int.jsonl')
    const stored = (seq: number) => batches[seq]?.decoded[1].at(-1)?.token_ids ?? []
    const decoded = [...stored(4), ...stored(5), ...stored(6)].slice(31)
    const first = range(1000, 128)
    const steps = [
      request(first),
      request([...first, ...range(2000, 32)]),
      request(first),
      request([...range(1000, 48), ...range(3000, 80)]),
      request(range(4000, 31), 66, {}, decoded),
      request(first, 1, { cacheSalt: 'tenant-a' }),
      request(first, 1, { cacheSalt: 'tenant-b' }),
      request(first, 1, { cacheSalt: 'tenant-a' }),
      request(first, 1, { reportHits: true }),
      request(Array.from({ length: 6000 }, (_, index) => (index * 7919) % 100_000)),
    ].flatMap((one) => {
      engine.add(one, 0)
      return drain(engine)
    })
    for (const _ of [0, 1]) engine.add(request(range(5000, 100), 8), 0)
    steps.push(...drain(engine))
    for (const _ of [0, 1]) {
      engine.add(request([...stored(15), 1, 2], 8), 0)
      steps.push(...drain(engine))
    }
    expect(engine.resetPrefixCache()).toBe(true)
    engine.add(request(first), 0)
    steps.push(...drain(engine))

    const told = steps.map(({ blockEvents }) => blockEvents).filter((events) => events.length > 0)
    expect(told).toHaveLength(batches.length)
    for (const [index, { frames_hex: frames, decoded }] of batches.entries()) {
      const payload = encodeBatch(decoded[0], told[index] ?? [], BATCHES)
      expect(payload.toString('hex'), `batch ${index}`).toBe(frames[2])
    }
  })

  it('evicts and takes back in its order: 39 blocks, two long answers that do not fit together', () => {
    const batches = recorded('kv-events.sha256.bytes.evictions.jsonl')
    const real = spell(batches.flatMap(({ decoded }) => decoded[1]).map(toOurs))
    const engine = new Engine({ ...CONFIG, blocks: 39 })
    const events: BlockEvent[] = []
    const keep = (steps: readonly StepResult[]) => {
      for (const { blockEvents } of steps) events.push(...blockEvents)
    }
    for (const [from, count] of [
      [1000, 320],
      [2000, 320],
      [3000, 320],
      [4000, 640],
      [1000, 320],
      [1000, 320],
      [5000, 1000],
    ] as const) {
      engine.add(request(range(from, count)), 0)
      keep(drain(engine))
    }
    // The second one came a step later.
    engine.add(request(range(7000, 500), 400, {}, saidAfter(batches, 7000)), 0)
    engine.begin(0)
    keep([engine.end()])
    engine.add(request(range(8000, 500), 400, {}, saidAfter(batches, 8000)), 0)
    keep(drain(engine))
    expect(engine.snapshot().preemptions).toBeGreaterThan(0)
    engine.resetPrefixCache()
    engine.add(request(range(100, 70)), 0)
    keep(drain(engine))
    expect(spell(events)).toEqual(real)
  })

  /** What a prompt that begins with this token was answered, as far as blocks tell. */
  function saidAfter(batches: readonly RecordedBatch[], firstToken: number): number[] {
    const chains = new Map<string, readonly number[]>()
    let longest: readonly number[] = []
    for (const event of batches.flatMap(({ decoded }) => decoded[1]).map(toOurs)) {
      if (event.type !== 'stored') continue
      let tokens = chains.get(event.parent ?? '') ?? []
      for (const [index, hash] of event.hashes.entries()) {
        tokens = [...tokens, ...event.tokenIds.slice(index * 32, (index + 1) * 32)]
        chains.set(hash, tokens)
      }
      if (tokens[0] === firstToken && tokens.length > longest.length) longest = tokens
    }
    return longest.slice(500)
  }

  function toOurs(event: RecordedEvent): BlockEvent {
    const nameOf = (hash: Hash) => ('$hex' in hash ? hash.$hex : hash.$int)
    const hashes = (event.block_hashes ?? []).map(nameOf)
    switch (event.type) {
      case 'BlockStored': {
        const { parent_block_hash: parent, token_ids: tokenIds = [] } = event
        return {
          type: 'stored',
          medium: 'GPU',
          hashes,
          parent: parent ? nameOf(parent) : undefined,
          tokenIds,
          salt: undefined,
          lora: undefined,
        }
      }
      case 'BlockRemoved':
        return { type: 'removed', medium: 'GPU', hashes }
      case 'AllBlocksCleared':
        return { type: 'cleared' }
    }
  }

  /** Events with each hash replaced by what it stands for: engines with different seeds then say the same. */
  function spell(events: readonly BlockEvent[]): string[] {
    const names = new Map<Digest, string>()
    const namesOf = (event: Extract<BlockEvent, { type: 'stored' }>) => {
      let name = event.parent === undefined ? '' : names.get(event.parent)
      return event.hashes.map((hash, index) => {
        name = `${name}/${event.tokenIds[index * 32]}-${event.tokenIds[index * 32 + 31]}`
        names.set(hash, name)
        return name
      })
    }
    return events.map((event) => {
      if (event.type === 'stored') return `stored ${namesOf(event).join(' ')}`
      return event.type === 'removed' ? `removed ${names.get(event.hashes[0] ?? '')}` : event.type
    })
  }
})
