import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { EndpointView, Role } from '../../../cluster/endpoints/endpoint.ts'
import { buildProfile, type ProfileConfig, runProfile } from '../../../cluster/scheduling/profile.ts'
import { createRandom } from '../../../shared/random.ts'
import { endpoint, view } from '../views.ts'

const ALL_SCORERS: ProfileConfig['scorers'] = [
  { name: 'load-scorer', weight: 0.4 },
  { name: 'queue-depth', weight: 0.3 },
  { name: 'active-requests', weight: 0.1 },
  { name: 'kv-usage', weight: 0.2 },
]

function run(endpoints: readonly EndpointView[], config: Partial<ProfileConfig> = {}, seed = 1) {
  const profile = buildProfile('decode', { filters: [], scorers: ALL_SCORERS, picker: 'max-score', ...config })
  const request = { model: 'm', promptTokens: 100 }
  return runProfile(profile, { request, endpoints, random: createRandom(seed) })
}

const withRole = (id: string, role: Role) => view(id, {}, { endpoint: endpoint(id, { role }) })

describe('filters: a request never lands on a pod that cannot serve it', () => {
  const rows: readonly [string, EndpointView, string][] = [
    ['an ejected pod', view('a:1', {}, { availability: { state: 'ejected', cause: 'hung' } }), 'available: hung'],
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

describe('pickers', () => {
  const pool = [view('a:1'), view('b:1'), view('c:1', { activeRequests: 40, queuedRequests: 20 })]
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
