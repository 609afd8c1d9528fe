// The engine's prefix cache: tables for its rules, and a naive model of what is cached for everything that may happen.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Digest } from '../../../cluster/simulator/block-hash.ts'
import type { BlockEvent } from '../../../cluster/simulator/block-pool.ts'
import { Engine, type StepResult } from '../../../cluster/simulator/engine.ts'
import { encodeBatch } from '../../../cluster/simulator/kv-events.ts'
import type { SequenceRequest } from '../../../cluster/simulator/sequence.ts'
import { RECORDED_CONFIG as CONFIG, cachedTokens, drain, RECORDED_BATCHES, range, request, serve } from './sequences.ts'

describe('a prompt', () => {
  const small = { ...CONFIG, blockSizeTokens: 4, blocks: 20, maxNumBatchedTokens: 64 }

  it.each<[string, number, number, number]>([
    ['shorter than a block finds nothing', 3, 0, 0],
    ['of whole blocks computes its last one again, for the next token follows from it', 16, 12, 4],
    ['with a rest finds all whole blocks', 18, 16, 0],
  ])('asked twice: %s', (_, tokens, cached, created) => {
    const engine = new Engine(small)
    const [first, second] = serve(engine, request(range(1, tokens)), request(range(1, tokens)))
    expect(first?.caching).toMatchObject({ cachedTokens: 0, createdTokens: tokens - (tokens % 4) })
    expect(second?.caching).toMatchObject({ cachedTokens: cached, createdTokens: created })
  })

  it('computes only what is not cached, or a warm pod would answer no sooner than a cold one', () => {
    const engine = new Engine(small)
    const prefillTokens = [1, 2].map(() => {
      engine.add(request(range(1, 50)), 0)
      return drain(engine).map((step) => step.prefillTokens)
    })
    expect(prefillTokens).toEqual([[50], [2]])
    expect(engine.snapshot()).toMatchObject({
      usedBlocks: 0,
      cachedBlocks: 12,
      cacheQueriedTokens: 100,
      cacheHitTokens: 48,
    })
  })

  it('shares blocks with who computes them in the same step, and holds them once', () => {
    const engine = new Engine(small)
    for (const _ of [1, 2]) engine.add(request(range(1, 18), 3), 0)
    engine.begin(0)
    expect(engine.snapshot()).toMatchObject({ running: 2, usedBlocks: 6 })
    expect(cachedTokens(engine.end().emissions)).toEqual([0, 16])
  })

  it('finds what was said before, or every turn of a conversation would be computed again', () => {
    const engine = new Engine(small)
    const says = range(500, 9)
    const [, next] = serve(engine, request(range(1, 6), 9, {}, says), request([...range(1, 6), ...says, 900, 901]))
    // 6 + 8 tokens were computed: the ninth was only said.
    expect(next?.caching.cachedTokens).toBe(12)
  })

  it('finds nothing of another salt’s, and is not looked up when its own probabilities are wanted', () => {
    const engine = new Engine(small)
    const prompt = range(1, 18)
    const found = serve(
      engine,
      request(prompt, 1, { cacheSalt: 'a' }),
      request(prompt, 1, { cacheSalt: 'b' }),
      request(prompt),
      request(prompt, 1, { cacheSalt: 'a' }),
      request(prompt, 1, { ignoreCache: true }),
    )
    expect(cachedTokens(found)).toEqual([0, 0, 0, 16, 0])
    expect(engine.snapshot()).toMatchObject({ cacheQueriedTokens: 4 * 18, cacheHitTokens: 16 })
  })

  it('that was taken back finds its own blocks again, and counts once', () => {
    const engine = new Engine({ ...small, blocks: 9 })
    for (const from of [1, 101]) engine.add(request(range(from, 12), 8), 0)
    const steps = drain(engine)
    const { preemptions, cacheQueriedTokens, cacheHitTokens } = engine.snapshot()
    expect(preemptions).toBe(1)
    expect({ cacheQueriedTokens, cacheHitTokens }).toEqual({ cacheQueriedTokens: 24, cacheHitTokens: 0 })
    // Twice 12 tokens, and of the one that was taken back only what its last blocks had held.
    expect(steps.reduce((sum, { prefillTokens }) => sum + prefillTokens, 0)).toBeLessThan(36)
  })
})

describe('a reset', () => {
  it('is refused while a sequence holds blocks, told by the next step, and then nothing is found', () => {
    const engine = new Engine({ ...CONFIG, blockSizeTokens: 4 })
    engine.add(request(range(1, 8), 2), 0)
    engine.begin(0)
    expect(engine.resetPrefixCache()).toBe(false)
    engine.end()
    drain(engine)
    expect(engine.resetPrefixCache()).toBe(true)
    expect(engine.snapshot().cachedBlocks).toBe(0)
    engine.add(request(range(1, 8)), 0)
    const [step] = drain(engine)
    expect(step?.blockEvents.map(({ type }) => type)).toEqual(['cleared', 'stored'])
    expect(cachedTokens(step?.emissions ?? [])).toEqual([0])
  })

  it('can take back what runs, in the middle of a step too, and every answer stays whole', () => {
    const engine = new Engine({ ...CONFIG, blockSizeTokens: 4 })
    for (const from of [1, 101]) engine.add(request(range(from, 8), 3), 0)
    engine.begin(0)
    engine.end()
    engine.begin(0)
    expect(engine.resetPrefixCache(true)).toBe(true)
    expect(engine.snapshot()).toMatchObject({ running: 0, waiting: 2, usedBlocks: 0 })
    expect(engine.end().emissions).toEqual([])
    const said = drain(engine).flatMap(({ emissions }) => emissions.map(({ utterance }) => utterance.finish?.reason))
    expect(said).toEqual([undefined, undefined, 'length', 'length'])
  })
})

describe('under any load', () => {
  /** Prompts that share beginnings: a few roots, and tails of one of a few kinds. */
  const prompt = fc
    .tuple(fc.integer({ min: 0, max: 2 }), fc.integer({ min: 1, max: 24 }), fc.integer({ min: 0, max: 2 }), fc.nat(12))
    .map(([root, shared, tail, own]) => [...range(root * 1000 + 1, shared), ...range(10_000 + tail * 1000, own)])
  const load = fc.record({
    blocks: fc.integer({ min: 16, max: 40 }),
    blockSizeTokens: fc.integer({ min: 1, max: 5 }),
    requests: fc.array(
      fc.record({ prompt, maxTokens: fc.integer({ min: 1, max: 6 }), salt: fc.constantFrom(undefined, 'a') }),
      {
        maxLength: 30,
      },
    ),
  })

  /** What is cached, by the tokens that lead to the end of each block: how many blocks hold it. */
  function createNaiveCache(blockSizeTokens: number) {
    const names = new Map<Digest, string>()
    const copies = new Map<string, number>()
    const count = (name: string, change: number) => copies.set(name, (copies.get(name) ?? 0) + change)
    return {
      hear: (event: BlockEvent) => {
        if (event.type === 'cleared') copies.clear()
        if (event.type === 'removed') for (const hash of event.hashes) count(names.get(hash) ?? 'unknown', -1)
        if (event.type !== 'stored') return
        let name = event.parent === undefined ? `${event.salt ?? ''}:` : (names.get(event.parent) ?? 'unknown')
        for (const [index, hash] of event.hashes.entries()) {
          name += `${event.tokenIds.slice(index * blockSizeTokens, (index + 1) * blockSizeTokens).join(',')};`
          names.set(hash, name)
          count(name, 1)
        }
      },
      longestRun: (tokenIds: readonly number[], salt: string | undefined) => {
        let name = `${salt ?? ''}:`
        let tokens = 0
        while (tokens + blockSizeTokens < tokenIds.length) {
          name += `${tokenIds.slice(tokens, tokens + blockSizeTokens).join(',')};`
          if (!copies.get(name)) break
          tokens += blockSizeTokens
        }
        return tokens
      },
      copies: () => [...copies.values()],
    }
  }

  it('a prompt finds exactly the longest run of blocks that were stored and not removed, as whoever listens foresees', () => {
    fc.assert(
      fc.property(load, ({ blocks, blockSizeTokens, requests: asked }) => {
        const engine = new Engine({ ...CONFIG, blocks: Math.ceil(40 / blockSizeTokens) + blocks, blockSizeTokens })
        const naive = createNaiveCache(blockSizeTokens)
        for (const { prompt: tokenIds, maxTokens, salt } of asked) {
          const foreseen = naive.longestRun(tokenIds, salt)
          engine.add(request(tokenIds, maxTokens, { cacheSalt: salt }), 0)
          const steps = drain(engine)
          expect(steps[0]?.emissions[0]?.caching.cachedTokens).toBe(foreseen)
          for (const event of steps.flatMap(({ blockEvents }) => blockEvents)) naive.hear(event)
        }
      }),
    )
  })

  it('events add up to what is cached after every step, whatever runs together, is aborted or taken back', () => {
    fc.assert(
      fc.property(load, fc.array(fc.nat(40), { maxLength: 5 }), (given, aborted) => {
        const { blocks, blockSizeTokens, requests: asked } = given
        const engine = new Engine({
          ...CONFIG,
          maxNumBatchedTokens: 20,
          blocks: Math.ceil(42 / blockSizeTokens) + Math.floor(blocks / 4),
          blockSizeTokens,
        })
        const naive = createNaiveCache(blockSizeTokens)
        const ids = asked.map(({ prompt: tokenIds, maxTokens, salt }) => {
          const one = request(tokenIds, maxTokens, { cacheSalt: salt })
          engine.add(one, 0)
          return one.id
        })
        for (let step = 0; engine.begin(0) !== undefined; step++) {
          if (aborted.includes(step)) engine.abort(ids[step % ids.length] ?? '', 0)
          if (aborted[0] === step) engine.resetPrefixCache(true)
          for (const event of engine.end().blockEvents) naive.hear(event)
          const copies = naive.copies()
          expect(Math.min(0, ...copies)).toBe(0)
          expect(copies.reduce((sum, count) => sum + count, 0)).toBe(engine.snapshot().cachedBlocks)
        }
        expect(engine.snapshot()).toMatchObject({ running: 0, waiting: 0, usedBlocks: 0 })
      }),
    )
  })
})

describe('a prompt of 128,000 tokens', () => {
  it('costs no more than tens of milliseconds of CPU, cold and warm, or simulated pods would be slower than real ones', () => {
    const engine = new Engine({ ...CONFIG, blockSizeTokens: 16, maxNumBatchedTokens: 8192 })
    const tokenIds = Array.from({ length: 128_000 }, (_, index) => (index * 2_654_435) % 4_000_000_000)
    const spentMs = [tokenIds, [...tokenIds, 1]].map((ids) => {
      const before = process.cpuUsage()
      for (const { blockEvents } of serveSteps(engine, request(ids, 4))) {
        if (blockEvents.length > 0) encodeBatch(0, blockEvents, { ...RECORDED_BATCHES, blockSizeTokens: 16 })
      }
      const { user, system } = process.cpuUsage(before)
      return (user + system) / 1000
    })
    // Far above what it takes: this is for work that grows faster than the prompt.
    for (const ms of spentMs) expect(ms).toBeLessThan(400)
  })

  function serveSteps(engine: Engine, one: SequenceRequest): StepResult[] {
    engine.add(one, 0)
    return drain(engine)
  }
})
