import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { EndpointView, Role } from '../../../cluster/endpoints/endpoint.ts'
import { buildProfile, type ProfileConfig, runProfile, type ScorerName } from '../../../cluster/scheduling/profile.ts'
import type { SchedulingRequest } from '../../../cluster/scheduling/types.ts'
import { createRandom } from '../../../shared/random.ts'
import { request } from '../requests.ts'
import { endpoint, view } from '../views.ts'

const ALL_SCORERS: ProfileConfig['scorers'] = [
  { name: 'load-scorer', weight: 0.4 },
  { name: 'queue-depth', weight: 0.3 },
  { name: 'active-requests', weight: 0.1 },
  { name: 'kv-usage', weight: 0.2 },
]

function run(endpoints: readonly EndpointView[], config: Partial<ProfileConfig> = {}, seed = 1, facts = request()) {
  const profile = buildProfile('decode', { filters: [], scorers: ALL_SCORERS, picker: 'max-score', ...config })
  return runProfile(profile, { request: facts, endpoints, random: createRandom(seed) })
}

function only(name: ScorerName, endpoints: readonly EndpointView[], facts: SchedulingRequest) {
  const { candidates } = run(endpoints, { scorers: [{ name, weight: 1 }] }, 1, facts)
  return Object.fromEntries(candidates.map(({ view, scores }) => [view.endpoint.id, scores[0]]))
}

const withRole = (id: string, role: Role) => view(id, {}, { endpoint: endpoint(id, { role }) })

describe('filters: a request never lands on a pod that cannot serve it', () => {
  const rows: readonly [string, EndpointView, string][] = [
    [
      'an ejected pod',
      view('a:1', {}, { availability: { state: 'ejected', cause: 'hung', gone: false } }),
      'available: hung',
    ],
    ['a pod of another model', view('a:1', {}, { models: ['x'] }), 'serves-model: it does not serve m'],
    [
      'a pod that has not said what it serves',
      view('a:1', {}, { models: undefined }),
      'serves-model: its /v1/models has not answered yet',
    ],
  ]
  it.each(rows)('%s is dropped, and why says so', (_, dropped, words) => {
    const { chosen, candidates } = run([dropped, view('b:1')])
    expect(chosen?.endpoint.id).toBe('b:1')
    const { filtered } = candidates.find(({ view }) => view === dropped) ?? {}
    expect(`${filtered?.by}: ${filtered?.because}`).toBe(words)
  })

  it('decode and prefill keep their role and those of both', () => {
    const pool = [withRole('p:1', 'prefill'), withRole('d:1', 'decode'), withRole('b:1', 'both')]
    const kept = (name: 'prefill' | 'decode') =>
      run(pool, { filters: [{ name }] })
        .candidates.filter(({ filtered }) => !filtered)
        .map(({ view }) => view.endpoint.id)
    expect(kept('decode').sort()).toEqual(['b:1', 'd:1'])
    expect(kept('prefill').sort()).toEqual(['b:1', 'p:1'])
  })

  it('role filters pass all in a pool without that role: a pool of prefill pods still answers', () => {
    expect(run([withRole('p:1', 'prefill')], { filters: [{ name: 'decode' }] }).chosen?.endpoint.id).toBe('p:1')
  })

  it('by-label keeps only endpoints with all labels', () => {
    const blue = view('a:1', {}, { endpoint: endpoint('a:1', { labels: { zone: 'x', tier: 'blue' } }) })
    const { chosen, candidates } = run([view('b:1'), blue], {
      filters: [{ name: 'by-label', labels: { tier: 'blue' } }],
    })
    expect(chosen?.endpoint.id).toBe('a:1')
    expect(candidates.at(-1)?.filtered?.because).toBe('it lacks the label tier=blue')
  })

  it('chooses nobody when nobody is left', () => {
    expect(run([view('a:1', {}, { models: [] })])).toMatchObject({ chosen: undefined, order: [] })
  })
})

describe('scores: an emptier pod is better', () => {
  const rows: readonly [string, Partial<EndpointView['load']>][] = [
    ['fewer active requests', { activeRequests: 5 }],
    ['a shorter queue', { queuedRequests: 3 }],
    ['a freer KV cache', { kvUsage: 0.9 }],
    ['fewer prompt tokens just sent', { sentPromptTokens: 50_000 }],
  ]
  it.each(rows)('%s wins', (_, worse) => {
    expect(run([view('busy:1', worse), view('idle:1')]).order).toEqual(['idle:1', 'busy:1'])
  })

  it('missing metrics are not zero: they neither beat a pod known to be idle nor lose to one known to be full', () => {
    const unknown = view('unknown:1', { queuedRequests: undefined, kvUsage: undefined, stale: true })
    const full = view('full:1', { queuedRequests: 50, kvUsage: 0.95 })
    expect(run([unknown, full, view('idle:1')]).order).toEqual(['idle:1', 'unknown:1', 'full:1'])
    const row = run([unknown, full]).candidates.find(({ view }) => view === unknown)
    expect(row?.scores).toEqual([expect.any(Number), undefined, expect.any(Number), undefined])
  })

  it('stay in [0, 1] and never NaN, whatever the pods say', () => {
    const load = fc.record({
      activeRequests: fc.nat(100_000),
      queuedRequests: fc.option(fc.nat(100_000), { nil: undefined }),
      kvUsage: fc.option(fc.double({ min: -1, max: 2, noNaN: true }), { nil: undefined }),
      sentPromptTokens: fc.nat(10_000_000),
    })
    fc.assert(
      fc.property(fc.array(load, { minLength: 1, maxLength: 20 }), fc.integer(), (loads, seed) => {
        const { candidates, chosen, order } = run(
          loads.map((each, index) => view(`p:${index}`, each)),
          {},
          seed,
        )
        expect(chosen).toBeDefined()
        expect(new Set(order).size).toBe(loads.length)
        for (const { scores, total } of candidates) {
          for (const score of [...scores, total]) {
            if (score !== undefined) expect(score >= 0 && score <= 1).toBe(true)
          }
        }
      }),
    )
  })
})

describe('scorers of warmth', () => {
  const pods = [view('a:1'), view('b:1'), view('c:1')]

  it('cache-scorer is the cached share of the prompt; a pod without events counts as cold beside those with some', () => {
    const facts = request({ promptTokens: 100, cached: { 'a:1': 80, 'b:1': 0 } })
    expect(only('cache-scorer', pods, facts)).toEqual({ 'a:1': 0.8, 'b:1': 0, 'c:1': 0 })
    expect(only('cache-scorer', pods, request())).toEqual({ 'a:1': undefined, 'b:1': undefined, 'c:1': undefined })
  })
  it('latency-scorer prefers the pod with the shorter time to the first token, and ignores milliseconds of noise', () => {
    const timed = [
      view('slow:1', { ttftSeconds: 1.95 }),
      view('fast:1', { ttftSeconds: 0.05 }),
      view('alike:1', { ttftSeconds: 0.052 }),
      view('new:1'),
    ]
    const scores = only('latency-scorer', timed, request())
    expect(scores).toMatchObject({ 'fast:1': 1, 'slow:1': 0.05, 'new:1': undefined })
    expect(scores['alike:1']).toBeGreaterThan(0.95)
  })
  it('session-affinity marks the pod of the last turn', () => {
    expect(only('session-affinity', pods, request({ session: 'b:1' }))).toEqual({ 'a:1': 0, 'b:1': 1, 'c:1': 0 })
    expect(only('session-affinity', pods, request())).toEqual({ 'a:1': 0, 'b:1': 0, 'c:1': 0 })
  })
  it('lora-affinity prefers a loaded adapter, then a free slot, and has no opinion on base models', () => {
    const serving = { models: ['m', 'ada'], adapters: ['ada'] }
    const pods = [
      view('has:1', { loras: { running: ['ada'], waiting: [], max: 2 } }, serving),
      view('free:1', { loras: { running: ['x'], waiting: [], max: 2 } }, serving),
      view('full:1', { loras: { running: ['x', 'y'], waiting: [], max: 2 } }, serving),
      view('soon:1', { loras: { running: ['x', 'y'], waiting: ['ada'], max: 2 } }, serving),
      view('mute:1', {}, serving),
    ]
    expect(only('lora-affinity', pods, request({ model: 'ada' }))).toEqual({
      'has:1': 1,
      'free:1': 0.8,
      'full:1': 0,
      'soon:1': 0.6,
      'mute:1': undefined,
    })
    expect(new Set(Object.values(only('lora-affinity', pods, request())))).toEqual(new Set([1]))
  })
  it('lru-scorer spreads cold prompts over pods, the one that got none longest first, and is silent when one is warm', () => {
    const pods = [view('late:1', {}, { lastColdAtMs: 30 }), view('early:1', {}, { lastColdAtMs: 10 }), view('never:1')]
    expect(only('lru-scorer', pods, request())).toEqual({ 'never:1': 1, 'early:1': 0.5, 'late:1': 0 })
    const warm = request({ cached: { 'late:1': 16 } })
    expect(new Set(Object.values(only('lru-scorer', pods, warm)))).toEqual(new Set([0.5]))
  })
  it('a warm pod beats an idle one under the default weights, until it is much busier', () => {
    const scorers: ProfileConfig['scorers'] = [
      { name: 'cache-scorer', weight: 0.5 },
      { name: 'load-scorer', weight: 0.3 },
      { name: 'latency-scorer', weight: 0.2 },
    ]
    const facts = request({ promptTokens: 1_000, cached: { 'warm:1': 900, 'idle:1': 0 } })
    const place = (activeRequests: number, cached: SchedulingRequest) =>
      run([view('warm:1', { activeRequests }), view('idle:1')], { scorers }, 1, cached).chosen?.endpoint.id
    expect(place(8, facts)).toBe('warm:1')
    const little = request({ promptTokens: 1_000, cached: { 'warm:1': 100, 'idle:1': 0 } })
    expect(place(16, little)).toBe('idle:1')
  })
})

describe('a session stays with its endpoint', () => {
  const cold = view('own:1', { activeRequests: 4 })
  const stay = (own: EndpointView, others: readonly EndpointView[], config: Partial<ProfileConfig> = {}) =>
    run([own, ...others], config, 1, request({ session: 'own:1', cached: { 'other:1': 90 } }))

  it('whatever the others score: its last turn was computed there', () => {
    expect(stay(cold, [view('other:1')])).toMatchObject({
      order: ['own:1', 'other:1'],
      session: { kind: 'kept' },
    })
  })
  it.each<[string, EndpointView, string]>([
    ['ejected', view('own:1', {}, { availability: { state: 'ejected', cause: 'hung', gone: false } }), 'own:1: hung'],
    [
      'overloaded by its queue',
      view('own:1', { queuedRequests: 9 }),
      'own:1 is overloaded: 9 requests wait there, 0 elsewhere',
    ],
    [
      'overloaded beside the others',
      view('own:1', { activeRequests: 30 }),
      'own:1 is overloaded: 30 requests are active there, 0 elsewhere',
    ],
    ['of another pool now', view('moved:1'), 'own:1 is gone'],
  ])('unless it is %s: then the scores decide, and why says so', (_, own, because) => {
    expect(stay(own, [view('other:1')])).toMatchObject({ session: { kind: 'left', because } })
    expect(stay(own, [view('other:1')]).chosen?.endpoint.id).not.toBe('own:1')
  })
  it('an overloaded pod is not chosen for what it has cached either, and is tried last', () => {
    const facts = request({ session: 'own:1', promptTokens: 100, cached: { 'own:1': 99, 'other:1': 0 } })
    const own = view('own:1', { queuedRequests: 30, activeRequests: 60, ttftSeconds: 30 })
    for (const scorers of [undefined, [{ name: 'session-affinity', weight: 1 }] as const]) {
      const { order, session, candidates } = run([own, view('other:1')], scorers ? { scorers } : {}, 1, facts)
      expect(order).toEqual(['other:1', 'own:1'])
      expect(session).toMatchObject({ kind: 'left', because: expect.stringContaining('own:1 is overloaded') })
      expect(candidates[1]?.filtered).toEqual({ by: 'overload', because: '30 requests wait there, 0 elsewhere' })
    }
  })
  it('when everybody is as busy, leaving would win nothing', () => {
    const busy = { queuedRequests: 9, activeRequests: 40 }
    expect(stay(view('own:1', busy), [view('other:1', busy)]).session).toEqual({ kind: 'kept' })
  })
  it('with the session-affinity scorer in the configuration, its weight decides instead', () => {
    const scorers: ProfileConfig['scorers'] = [
      { name: 'cache-scorer', weight: 0.5 },
      { name: 'session-affinity', weight: 0.2 },
    ]
    const { chosen, session } = stay(cold, [view('other:1')], { scorers })
    expect(chosen?.endpoint.id).toBe('other:1')
    expect(session).toEqual({ kind: 'left', because: 'own:1 was outweighed' })
  })
  it('a stored response binds harder: no other endpoint has it', () => {
    const facts = request({ bound: 'own:1', session: 'other:1' })
    expect(run([cold, view('other:1')], {}, 1, facts).order).toEqual(['own:1'])
  })
})

describe('pickers', () => {
  const pool = [view('a:1'), view('b:1'), view('c:1', { activeRequests: 14, queuedRequests: 3 })]
  const share = (picker: ProfileConfig['picker'], id: string) => {
    let hits = 0
    for (let seed = 0; seed < 2_000; seed++) if (run(pool, { picker }, seed).chosen?.endpoint.id === id) hits++
    return hits / 2_000
  }

  it('max-score breaks ties evenly, so that equal pods share the load of a cold start', () => {
    expect(share('max-score', 'a:1')).toBeCloseTo(0.5, 1)
    expect(share('max-score', 'c:1')).toBe(0)
  })
  it('weighted-random follows the scores', () => {
    const busy = share('weighted-random', 'c:1')
    expect(busy).toBeGreaterThan(0.02)
    expect(busy).toBeLessThan(share('weighted-random', 'a:1'))
  })
  it('power-of-two never takes the worst of three', () => {
    expect(share('power-of-two', 'c:1')).toBe(0)
  })
  it('the same seed makes the same choice: replay depends on it', () => {
    for (const picker of ['max-score', 'weighted-random', 'power-of-two'] as const) {
      expect(run(pool, { picker }, 7).order).toEqual(run(pool, { picker }, 7).order)
    }
  })
  it('the order begins with the choice, then goes on best first: that is where a failed request goes next', () => {
    for (let seed = 0; seed < 50; seed++) {
      const { chosen, order } = run(pool, { picker: 'weighted-random' }, seed)
      expect(order[0]).toBe(chosen?.endpoint.id)
      expect([...order].sort()).toEqual(['a:1', 'b:1', 'c:1'])
      if (order[0] !== 'c:1') expect(order[2]).toBe('c:1')
    }
  })
})
