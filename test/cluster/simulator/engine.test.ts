// The engine in virtual time: tables for its rules, properties for what must hold under any load.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { HASH_SEED_DEFAULT } from '../../../cluster/simulator/block-hash.ts'
import { Engine, type EngineConfig } from '../../../cluster/simulator/engine.ts'
import { presetNamed } from '../../../cluster/simulator/preset.ts'
import type { Emission, FinishedSequence, SequenceRequest } from '../../../cluster/simulator/sequence.ts'
import { seedOf } from '../../../shared/random.ts'

const CONFIG: EngineConfig = {
  maxNumSeqs: 4,
  maxNumBatchedTokens: 64,
  policy: 'fcfs',
  maxLoras: 1,
  blocks: 40,
  blockSizeTokens: 4,
  hashSeed: HASH_SEED_DEFAULT,
  kvEvents: false,
  timing: presetNamed('h100-8b').timing.step,
  speed: 1,
}

/** Every id has a prompt of its own: nothing of it is cached. */
function sequence(id: string, promptTokens: number, maxTokens: number): SequenceRequest {
  let spoken = 0
  return {
    id,
    promptTokenIds: new Array(promptTokens).fill(seedOf([...Buffer.from(id)])),
    maxTokens,
    speak: (isLast) => ({
      tokenId: ++spoken,
      text: `${id}${spoken} `,
      finish: isLast ? { reason: 'length', stopReason: null } : undefined,
    }),
  }
}

function engineWith(config: Partial<EngineConfig>, ...requests: readonly SequenceRequest[]): Engine {
  const engine = new Engine({ ...CONFIG, ...config })
  for (const request of requests) engine.add(request, 0)
  return engine
}

type Run = { readonly emissions: Emission[]; readonly finished: FinishedSequence[]; readonly endedAtMs: number }

/** Steps until there is nothing left to do. */
function drain(engine: Engine, check: (engine: Engine, tokens: number) => void = () => undefined): Run {
  const emissions: Emission[] = []
  const finished: FinishedSequence[] = []
  let nowMs = 0
  for (let endsAtMs = engine.begin(nowMs); endsAtMs !== undefined; endsAtMs = engine.begin(nowMs)) {
    nowMs = endsAtMs
    const step = engine.end()
    emissions.push(...step.emissions)
    finished.push(...step.finished)
    check(engine, step.prefillTokens + step.decodeSeqs)
  }
  return { emissions, finished, endedAtMs: nowMs }
}

/** The tokens of each step until the engine is idle, as `prefill+decode`. */
function stepsOf(engine: Engine): string[] {
  const steps: string[] = []
  while (engine.begin(0) !== undefined) {
    const { prefillTokens, decodeSeqs } = engine.end()
    steps.push(`${prefillTokens}+${decodeSeqs}`)
  }
  return steps
}

describe('a step', () => {
  it.each([
    ['a prompt above the budget is prefilled in chunks', [[150, 2]], ['64+0', '64+0', '22+0', '0+1']],
    [
      'prefill fills what decodes leave of the budget',
      [
        [10, 4],
        [100, 1],
      ],
      ['64+0', '46+1', '0+1', '0+1'],
    ],
    [
      'two prompts share a step',
      [
        [10, 1],
        [20, 1],
      ],
      ['30+0'],
    ],
  ] as const)('%s, or a pod would answer faster than vLLM does', (_, load, steps) => {
    const requests = load.map(([prompt, max], index) => sequence(`r${index}`, prompt, max))
    expect(stepsOf(engineWith({}, ...requests))).toEqual(steps)
  })

  it('takes about 8 ms to decode and 0.03 ms a prompt token, or latencies would not look like an H100', () => {
    const engine = engineWith({ maxNumBatchedTokens: 8192, blocks: 4096 }, sequence('a', 1000, 2))
    expect(engine.begin(0)).toBeCloseTo(34.5, 1)
    engine.end()
    expect(engine.begin(34.5)).toBeCloseTo(42.5, 1)
  })

  it('takes about 18 ms to decode and 0.07 ms a prompt token for 70B on four of them', () => {
    const timing = presetNamed('h100x4-70b').timing.step
    const engine = engineWith({ timing, maxNumBatchedTokens: 8192, blocks: 4096 }, sequence('a', 8000, 2))
    expect(engine.begin(0)).toBeCloseTo(617, 1)
    engine.end()
    expect(engine.begin(0)).toBeCloseTo(17.8, 1)
  })

  it('shows a request as running while its only step is under way, or a router would see an idle pod', () => {
    const engine = engineWith({}, sequence('a', 5, 1))
    expect(engine.snapshot()).toMatchObject({ running: 0, waiting: 1 })
    engine.begin(0)
    expect(engine.snapshot()).toMatchObject({ running: 1, waiting: 0, usedBlocks: 2 })
    engine.end()
    expect(engine.snapshot()).toMatchObject({ running: 0, waiting: 0, usedBlocks: 0, steps: 1 })
  })
})

describe('the queue', () => {
  it('is first come, first served, and no longer than maxNumSeqs allows to run', () => {
    const engine = engineWith({ maxNumSeqs: 2 }, ...['a', 'b', 'c', 'd'].map((id) => sequence(id, 4, 3)))
    engine.begin(0)
    expect(engine.snapshot()).toMatchObject({ running: 2, waiting: 2 })
    engine.end()
    expect(drain(engine).finished.map(({ id }) => id)).toEqual(['a', 'b', 'c', 'd'])
  })

  it('holds a prompt that the free blocks cannot take, or the KV cache would overflow', () => {
    const engine = engineWith({ blocks: 10, blockSizeTokens: 4 }, sequence('a', 24, 2), sequence('b', 24, 2))
    engine.begin(0)
    expect(engine.snapshot()).toMatchObject({ running: 1, waiting: 1, usedBlocks: 6 })
    engine.end()
    expect(drain(engine).finished.map(({ id }) => id)).toEqual(['a', 'b'])
  })

  it('takes back the youngest when decoding runs out of blocks, and every answer stays whole', () => {
    const requests = ['a', 'b', 'c'].map((id) => sequence(id, 8, 20))
    const engine = engineWith({ blocks: 8, blockSizeTokens: 4 }, ...requests)
    const { emissions, finished } = drain(engine)
    expect(engine.snapshot().preemptions).toBeGreaterThan(0)
    expect(finished.find(({ id }) => id === 'a')?.preemptions).toBe(0)
    for (const id of ['a', 'b', 'c']) {
      const said = emissions.filter((emission) => emission.id === id).map(({ utterance }) => utterance.tokenId)
      expect(said).toEqual(Array.from({ length: 20 }, (_, index) => index + 1))
    }
  })
})

describe('abort', () => {
  it.each([
    ['waiting', 'd', { running: 1, waiting: 2 }],
    ['running', 'a', { running: 0, waiting: 3 }],
  ] as const)(
    'of a %s request frees it in the middle of a step, or a gone client would keep its slot',
    (_, id, after) => {
      const engine = engineWith({ maxNumSeqs: 1 }, ...['a', 'b', 'c', 'd'].map((name) => sequence(name, 8, 5)))
      engine.begin(0)
      expect(engine.abort(id, 3)).toMatchObject({ id, reason: 'abort', outputTokens: 0, finishedAtMs: 3 })
      expect(engine.abort(id, 3)).toBeUndefined()
      expect(engine.snapshot()).toMatchObject({ ...after, usedBlocks: after.running * 2 })
      expect(engine.end().emissions.map((emission) => emission.id)).not.toContain(id)
      expect(drain(engine).finished.map((finished) => finished.id)).not.toContain(id)
      expect(engine.snapshot()).toMatchObject({ running: 0, waiting: 0, usedBlocks: 0 })
    },
  )
})

describe('under any load', () => {
  const load = fc.record({
    config: fc.record({
      maxNumSeqs: fc.integer({ min: 1, max: 6 }),
      maxNumBatchedTokens: fc.integer({ min: 1, max: 50 }),
      blockSizeTokens: fc.integer({ min: 1, max: 8 }),
      spareBlocks: fc.integer({ min: 0, max: 20 }),
    }),
    requests: fc.array(fc.tuple(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 20 })), { maxLength: 12 }),
  })

  function build({ config, requests }: typeof load extends fc.Arbitrary<infer T> ? T : never) {
    const longest = Math.max(1, ...requests.map(([prompt, max]) => prompt + max))
    const blocks = Math.ceil(longest / config.blockSizeTokens) + config.spareBlocks
    const settled = { ...CONFIG, ...config, blocks }
    const engine = engineWith(settled, ...requests.map(([prompt, max], index) => sequence(`r${index}`, prompt, max)))
    return { engine, settled }
  }

  it('no step is over budget, no limit is passed, every request finishes, and the KV cache ends empty', () => {
    fc.assert(
      fc.property(load, (given) => {
        const { engine, settled } = build(given)
        const { emissions, finished } = drain(engine, (_, tokens) => {
          const { running, usedBlocks } = engine.snapshot()
          expect(tokens).toBeGreaterThan(0)
          expect(tokens).toBeLessThanOrEqual(settled.maxNumBatchedTokens)
          expect(running).toBeLessThanOrEqual(settled.maxNumSeqs)
          expect(usedBlocks).toBeLessThanOrEqual(settled.blocks)
        })
        expect(finished).toHaveLength(given.requests.length)
        expect(emissions).toHaveLength(given.requests.reduce((sum, [, max]) => sum + max, 0))
        expect(engine.snapshot()).toMatchObject({ running: 0, waiting: 0, usedBlocks: 0 })
      }),
    )
  })

  it('the same load gives the same steps, or a replay could not be repeated', () => {
    fc.assert(
      fc.property(load, (given) => {
        expect(drain(build(given).engine)).toEqual(drain(build(given).engine))
      }),
    )
  })
})
