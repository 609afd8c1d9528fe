// The engine under anything that may come: requests of all kinds, aborts, resets, pauses, in any order, in a cache too small for
// them. What must hold then holds for every pod.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { BlockEvent } from '../../../cluster/simulator/block-pool.ts'
import { Engine, type EngineConfig } from '../../../cluster/simulator/engine.ts'
import type { Lora } from '../../../cluster/simulator/sequence.ts'
import { RECORDED_CONFIG, range, request } from './sequences.ts'

type Action =
  | {
      readonly do: 'add'
      readonly topic: number
      readonly tokens: number
      readonly answer: number
      readonly lora: number
      readonly priority: number
    }
  | { readonly do: 'abort'; readonly which: number }
  | { readonly do: 'step'; readonly times: number }
  | { readonly do: 'reset'; readonly takeBack: boolean; readonly offloaded: boolean }
  | { readonly do: 'pause'; readonly what: 'new' | 'all' }

const whole = (min: number, max: number) => fc.integer({ min, max })

const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('add' as const),
      topic: whole(0, 2),
      tokens: whole(1, 30),
      answer: whole(1, 12),
      lora: whole(0, 2),
      priority: whole(-1, 1),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('step' as const), times: whole(1, 6) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('abort' as const), which: whole(0, 20) }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('reset' as const), takeBack: fc.boolean(), offloaded: fc.boolean() }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('pause' as const), what: fc.constantFrom('new' as const, 'all' as const) }),
  },
)

const config: fc.Arbitrary<EngineConfig> = fc
  .record({
    blocks: whole(12, 24),
    seqs: whole(1, 4),
    budget: whole(3, 40),
    policy: fc.constantFrom('fcfs' as const, 'priority' as const),
    offload: whole(0, 12),
    maxLoras: whole(1, 2),
  })
  .map(({ blocks, seqs, budget, policy, offload, maxLoras }) => ({
    ...RECORDED_CONFIG,
    blockSizeTokens: 4,
    blocks,
    maxNumSeqs: seqs,
    maxNumBatchedTokens: budget,
    policy,
    maxLoras,
    speed: 1,
    offload: offload === 0 ? undefined : { blocks: offload, msPerBlock: 1.5, selfDescribing: true },
  }))

const LORAS: readonly (Lora | undefined)[] = [
  undefined,
  ...[1, 2].map((id) => ({ id, name: `a${id}`, path: `hub/a${id}` })),
]

const LAST: Action = { do: 'add', topic: 0, tokens: 1, answer: 1, lora: 0, priority: 0 }

/** Runs the actions, then all that is left to its end; tells every step what it saw. */
function run(engine: Engine, actions: readonly Action[], look: (step: ReturnType<Engine['end']>) => void): string[] {
  const ended: string[] = []
  const open: string[] = []
  let nowMs = 0
  let asked = 0
  const step = (): boolean => {
    const endsAtMs = engine.begin(nowMs)
    if (endsAtMs === undefined) return false
    expect(endsAtMs).toBeGreaterThanOrEqual(nowMs)
    nowMs = endsAtMs
    const result = engine.end()
    for (const { id, reason, outputTokens } of result.finished) ended.push(`${id} ${reason} ${outputTokens}`)
    look(result)
    return true
  }
  for (const one of actions) {
    switch (one.do) {
      case 'add': {
        const id = `r${asked++}`
        const lora = LORAS[one.lora]
        engine.add(
          request(range(1000 * one.topic, one.tokens), one.answer, { id, lora, priority: one.priority }),
          nowMs,
        )
        open.push(id)
        break
      }
      case 'abort': {
        const left = engine.abort(open[one.which % Math.max(1, open.length)] ?? '', nowMs)
        if (left) ended.push(`${left.id} ${left.reason} ${left.outputTokens}`)
        break
      }
      case 'reset':
        engine.resetPrefixCache(one.takeBack, one.offloaded)
        break
      case 'pause': {
        engine.pause(one.what)
        for (let times = 0; times < 3; times++) step()
        engine.pause('none')
        break
      }
      case 'step':
        for (let times = 0; times < one.times; times++) step()
    }
  }
  for (let steps = 0; step(); steps++) expect(steps, 'an end').toBeLessThan(5_000)
  expect(ended.map((line) => line.split(' ')[0]).sort()).toEqual([...open].sort())
  return ended
}

describe('whatever comes', () => {
  it('every request ends once, with all its tokens unless it was aborted, and no block stays held', () => {
    fc.assert(
      fc.property(config, fc.array(action, { maxLength: 40 }), (settings, actions) => {
        const engine = new Engine(settings)
        const ended = run(engine, actions, ({ prefillTokens, decodeSeqs, emissions }) => {
          const { running, usedBlocks, blocks, deferred, waiting } = engine.snapshot()
          expect(prefillTokens + decodeSeqs).toBeLessThanOrEqual(settings.maxNumBatchedTokens)
          expect(running).toBeLessThanOrEqual(settings.maxNumSeqs)
          expect(usedBlocks).toBeLessThanOrEqual(blocks)
          expect(deferred).toBeLessThanOrEqual(waiting)
          for (const { caching, promptTokens } of emissions) {
            expect(caching.cachedTokens).toBeLessThanOrEqual(promptTokens)
            expect(caching.offloadedTokens).toBeLessThanOrEqual(caching.cachedTokens)
          }
        })
        const answers = actions.flatMap((one) => (one.do === 'add' ? [one.answer] : []))
        for (const line of ended) {
          const [id = '', reason, tokens] = line.split(' ')
          if (reason === 'length') expect(Number(tokens)).toBe(answers[Number(id.slice(1))])
          else expect(reason).toBe('abort')
        }
        expect(engine.snapshot()).toMatchObject({ running: 0, waiting: 0, usedBlocks: 0, deferred: 0 })
        expect(engine.resetPrefixCache()).toBe(true)
      }),
      { numRuns: 300 },
    )
  })

  it('the events of each tier, told to a listener, are what can be found there', () => {
    fc.assert(
      fc.property(config, fc.array(action, { maxLength: 40 }), (settings, actions) => {
        const engine = new Engine(settings)
        const copies = { GPU: new Map<string, number>(), CPU: new Map<string, number>() }
        const hear = (event: BlockEvent) => {
          if (event.type === 'cleared') return copies.GPU.clear()
          const held = copies[event.medium]
          for (const hash of event.hashes) {
            const count = (held.get(hash) ?? 0) + (event.type === 'stored' ? 1 : -1)
            expect(count, 'removed no more often than stored').toBeGreaterThanOrEqual(0)
            held.set(hash, count)
          }
        }
        run(
          engine,
          // A tier that is emptied does not say so. A reset is told with the next step: there is one.
          [...actions.filter((one) => one.do !== 'reset' || !one.offloaded), LAST],
          ({ blockEvents }) => blockEvents.forEach(hear),
        )
        const sum = [...copies.GPU.values()].reduce((total, count) => total + count, 0)
        expect(sum).toBe(engine.snapshot().cachedBlocks)
        for (const count of copies.CPU.values()) expect(count).toBeLessThanOrEqual(1)
      }),
      { numRuns: 200 },
    )
  })

  it('the same again is the same again', () => {
    fc.assert(
      fc.property(config, fc.array(action, { maxLength: 40 }), (settings, actions) => {
        const once = () => {
          const seen: unknown[] = []
          const ended = run(new Engine(settings), actions, ({ endedAtMs, emissions, blockEvents }) => {
            seen.push([endedAtMs, emissions.map(({ id }) => id), blockEvents])
          })
          return { ended, seen }
        }
        expect(once()).toEqual(once())
      }),
      { numRuns: 50 },
    )
  })
})

describe('by priority', () => {
  it('the lower number goes first, and the higher one is taken back first, whoever came before', () => {
    const engine = new Engine({ ...RECORDED_CONFIG, policy: 'priority', blockSizeTokens: 4, blocks: 12, maxNumSeqs: 2 })
    const later = request(range(0, 20), 12, { id: 'later', priority: 5 })
    engine.add(later, 0)
    engine.begin(0)
    engine.end()
    engine.add(request(range(1000, 20), 12, { id: 'sooner', priority: -5 }), 1)
    engine.add(request(range(2000, 20), 1, { id: 'between', priority: 0 }), 2)
    const ends: string[] = []
    for (let endsAtMs = engine.begin(3); endsAtMs !== undefined; endsAtMs = engine.begin(3)) {
      ends.push(...engine.end().finished.map(({ id }) => id))
    }
    expect(ends).toEqual(['between', 'sooner', 'later'])
    expect(engine.snapshot().preemptions).toBeGreaterThan(0)
  })
})
