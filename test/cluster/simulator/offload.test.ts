// The tier in the host's memory: what a GPU has lost is copied back instead of computed again.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { BlockEvent } from '../../../cluster/simulator/block-pool.ts'
import { Engine, type EngineConfig } from '../../../cluster/simulator/engine.ts'
import { encodeBatch } from '../../../cluster/simulator/kv-events.ts'
import { OffloadTier } from '../../../cluster/simulator/offload.ts'
import { presetNamed } from '../../../cluster/simulator/preset.ts'
import type { SequenceRequest } from '../../../cluster/simulator/sequence.ts'
import { readMsgpack } from '../../real/msgpack.ts'
import { post, startPod } from './pod.ts'
import { RECORDED_BATCHES, RECORDED_CONFIG, range, request } from './sequences.ts'

const OFFLOAD = { blocks: 100, msPerBlock: 2, selfDescribing: true }
/** Ten blocks of four tokens: two prompts of seven blocks do not fit together. */
const SMALL: EngineConfig = { ...RECORDED_CONFIG, blocks: 10, blockSizeTokens: 4, speed: 1, offload: OFFLOAD }

/** Serves one request after the other; each one's caching and time to its first token. */
function serve(engine: Engine, ...requests: readonly SequenceRequest[]) {
  let nowMs = 0
  return requests.map((one) => {
    engine.add(one, nowMs)
    const events: BlockEvent[] = []
    let told: { cachedTokens: number; offloadedTokens: number; tookMs: number } | undefined
    for (let endsAtMs = engine.begin(nowMs); endsAtMs !== undefined; endsAtMs = engine.begin(nowMs)) {
      nowMs = endsAtMs
      const { emissions, blockEvents } = engine.end()
      events.push(...blockEvents)
      for (const { caching, timeToFirstTokenMs } of emissions) {
        if (timeToFirstTokenMs !== undefined) told = { ...caching, tookMs: timeToFirstTokenMs }
      }
    }
    return { ...told, events }
  })
}

describe('a prompt that the GPU has lost', () => {
  const [one, two] = [range(1, 28), range(1001, 28)]

  it('is copied back: it counts as cached, and only its last token is computed', () => {
    const engine = new Engine(SMALL)
    const [, , again] = serve(engine, request(one), request(two), request(one))
    expect(again).toMatchObject({ cachedTokens: 28, offloadedTokens: 28 - 4 * 3 })
    expect(engine.snapshot()).toMatchObject({ cacheHitTokens: 12, offloadHitTokens: 16, running: 0, waiting: 0 })
  })

  it('takes as long as copying does, and waits meanwhile as deferred', () => {
    const engine = new Engine(SMALL)
    serve(engine, request(one), request(two))
    engine.add(request(one), 1_000)
    const loadedAtMs = engine.begin(1_000)
    // Three of its blocks are on the GPU still.
    expect(loadedAtMs).toBe(1_000 + 4 * OFFLOAD.msPerBlock)
    expect(engine.snapshot()).toMatchObject({ running: 0, waiting: 1, deferred: 1 })
    expect(engine.end().emissions).toEqual([])
    engine.begin(loadedAtMs as number)
    expect(engine.snapshot()).toMatchObject({ running: 1, waiting: 0, deferred: 0 })
    expect(engine.end().emissions).toHaveLength(1)
  })

  it('does not hold up those who can be computed', () => {
    const engine = new Engine(SMALL)
    serve(engine, request(one), request(two))
    const [slow, quick] = [request(one), request(range(5001, 4))]
    engine.add(slow, 1_000)
    engine.add(quick, 1_000)
    engine.begin(1_000)
    expect(engine.end().finished.map(({ id }) => id)).toEqual([quick.id])
  })

  it('is gone when the tier is emptied too, and not when only the GPU’s cache is', () => {
    for (const [offloaded, cachedTokens] of [
      [false, 28],
      [true, 0],
    ] as const) {
      const engine = new Engine(SMALL)
      serve(engine, request(one))
      expect(engine.resetPrefixCache(false, offloaded)).toBe(true)
      const [again] = serve(engine, request(one))
      expect(again).toMatchObject({ cachedTokens })
    }
  })

  it('leaves nothing behind when its client goes away while it is copied', () => {
    const engine = new Engine(SMALL)
    serve(engine, request(one), request(two))
    const left = request(one)
    engine.add(left, 1_000)
    engine.begin(1_000)
    engine.abort(left.id, 1_001)
    engine.end()
    expect(engine.begin(2_000)).toBeUndefined()
    expect(engine.snapshot()).toMatchObject({ usedBlocks: 0, waiting: 0, running: 0 })
  })
})

describe('the events of the tier', () => {
  const storedIn = (selfDescribing: boolean) => {
    const engine = new Engine({ ...SMALL, offload: { ...OFFLOAD, selfDescribing } })
    const [{ events }] = serve(engine, request(range(1, 8))) as unknown as [{ events: readonly BlockEvent[] }]
    const [, told] = readMsgpack(encodeBatch(1, events, { ...RECORDED_BATCHES, blockSizeTokens: 4 })) as [
      number,
      Record<string, unknown>[],
    ]
    return told
  }

  it('tell the hash alone, one block each, as vLLM does unless told otherwise', () => {
    const [gpu, ...cpu] = storedIn(false)
    const hashes = (gpu?.block_hashes ?? []) as readonly bigint[]
    expect(cpu).toEqual(
      hashes.map((hash) => ({
        type: 'BlockStored',
        block_hashes: [hash],
        parent_block_hash: null,
        token_ids: [],
        block_size: 0,
        lora_id: null,
        medium: 'CPU',
        lora_name: null,
        group_idx: 0,
      })),
    )
  })

  it('tell all, each with its own parent, where they describe themselves', () => {
    const [gpu, first, second] = storedIn(true)
    const [root, child] = (gpu?.block_hashes ?? []) as readonly bigint[]
    expect(first).toMatchObject({
      block_hashes: [root],
      parent_block_hash: null,
      token_ids: [1, 2, 3, 4],
      block_size: 4,
      medium: 'CPU',
    })
    expect(second).toMatchObject({ block_hashes: [child], parent_block_hash: root, token_ids: [5, 6, 7, 8] })
    expect(second).not.toHaveProperty('extra_keys')
  })

  it('told to a listener give exactly what the tier holds, however much comes and goes', () => {
    const offers = fc.array(fc.uniqueArray(fc.integer({ min: 0, max: 12 }), { minLength: 1, maxLength: 5 }), {
      maxLength: 30,
    })
    fc.assert(
      fc.property(offers, fc.integer({ min: 1, max: 6 }), (runs, blocks) => {
        const tier = new OffloadTier({ ...OFFLOAD, blocks })
        const heard = new Set<string>()
        for (const run of runs) {
          const hashes = run.map(String)
          const stored = {
            type: 'stored',
            medium: 'GPU',
            hashes,
            parent: undefined,
            tokenIds: run,
            salt: undefined,
            lora: undefined,
          } as const
          for (const event of tier.store(stored)) {
            if (event.type === 'stored') for (const hash of event.hashes) heard.add(hash)
            if (event.type === 'removed') for (const hash of event.hashes) heard.delete(hash)
          }
          expect(heard.size).toBe(tier.blocks)
          expect(tier.blocks).toBeLessThanOrEqual(blocks)
          for (const hash of heard) expect(tier.hits(() => hash, 0, 1)).toBe(1)
        }
      }),
    )
  })
})

it('a pod with the tier tells of it in usage and metrics', async () => {
  const preset = presetNamed('h100-8b')
  const pod = await startPod({
    preset,
    kvCacheTokens: 160,
    maxModelLen: 144,
    blockSize: 16,
    offload: { ...OFFLOAD, msPerBlock: 0.1 },
  })
  const ask = async (prompt: readonly number[]) => {
    const answer = await post(pod, '/v1/completions', { prompt, max_tokens: 1 })
    return ((await answer.json()) as { usage: { prompt_tokens_details: { cached_tokens: number } } }).usage
      .prompt_tokens_details
  }
  await ask(range(1, 120))
  await ask(range(100, 120))
  expect(await ask(range(1, 120))).toMatchObject({ cached_tokens: 112 })
  const page = await (await fetch(`${pod.url}/metrics`)).text()
  const value = (series: string) => Number(new RegExp(`^vllm:${series} (\\S+)$`, 'm').exec(page)?.[1])
  const labels = (more: string) => `\\{engine="0",model_name="sim-8b"${more}\\}`
  expect(value(`external_prefix_cache_hits_total${labels('')}`)).toBeGreaterThan(0)
  expect(value(`prompt_tokens_by_source_total${labels(',source="external_kv_transfer"')}`)).toBeGreaterThan(0)
  expect(value(`prompt_tokens_cached_by_source_total${labels(',source="host"')}`)).toBeGreaterThan(0)
})
