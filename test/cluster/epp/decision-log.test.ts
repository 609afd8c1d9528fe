import { describe, expect, it } from 'vitest'
import { decide } from '../../../cluster/epp/decide.ts'
import { CANDIDATES_MAX, createDecisionLog, type DecisionRecord, trimRun } from '../../../cluster/epp/decision-log.ts'
import { explain } from '../../../cluster/epp/explain.ts'
import { buildProfile } from '../../../cluster/scheduling/profile.ts'
import { createRandom } from '../../../shared/random.ts'
import { heldBytes } from '../../held-bytes.ts'
import { request } from '../requests.ts'
import { endpoint, view } from '../views.ts'

const profile = buildProfile('decode', {
  filters: [{ name: 'decode' }],
  scorers: [
    { name: 'load-scorer', weight: 0.4 },
    { name: 'queue-depth', weight: 0.3 },
    { name: 'active-requests', weight: 0.1 },
    { name: 'kv-usage', weight: 0.2 },
  ],
  picker: 'max-score',
})

const POOL = Array.from({ length: 300 }, (_, index) => endpoint(`10.0.0.${index}:8000`))
const MODELS = ['m']

/** Views are made anew for each record, as the router does; what they point to is shared. */
function record(id: string, endpoints = 3): DecisionRecord {
  const views = POOL.slice(0, endpoints).map((each, index) => {
    const load = { activeRequests: index, kvUsage: index / 10, scrapeAgeMs: 87.5 + index }
    return view(each.id, load, { endpoint: each, models: MODELS })
  })
  const { decode } = decide(
    { decode: profile },
    request({ promptTokens: 900, cached: { '10.0.0.0:8000': 768 } }),
    views,
    createRandom(1),
  )
  const [first, second] = decode.order
  return {
    id,
    atEpochMs: Date.UTC(2026, 10, 22),
    startedAtMs: 1_000,
    requestId: `req_${id}`,
    tenant: 'acme',
    dialect: 'chat',
    model: 'm',
    stream: true,
    promptTokens: 900,
    tokensUnknown: undefined,
    lookedUpBy: undefined,
    predictedCachedTokens: 768,
    session: undefined,
    stored: undefined,
    cache: undefined,
    waitedMs: 0.2,
    gatherMs: 1.4,
    decideMs: 0.04,
    run: trimRun(decode),
    candidatesTotal: decode.candidates.length,
    rejection: undefined,
    attempts: [
      {
        endpoint: first ?? views[0]?.endpoint.id,
        outcome: 'could not be reached (ECONNREFUSED)',
        startedAtMs: 1_001,
        endedAtMs: 1_003,
      },
      { endpoint: second ?? views[0]?.endpoint.id, outcome: 'answered', startedAtMs: 1_003, endedAtMs: 2_200 },
    ] as DecisionRecord['attempts'],
    firstByteAtMs: 1_035,
    endedAtMs: 2_200,
    outcome: 'completed',
    usage: { promptTokens: 912, completionTokens: 120, cachedTokens: 0 },
  }
}

describe('why: the SRE at night gets an answer', () => {
  it('reads as the story of the request', () => {
    expect(explain(record('d-1'))).toBe(
      [
        'decision d-1 at 2026-11-22T00:00:00.000Z',
        'request  req_d-1: chat, streamed, model m, tenant acme',
        'prompt   900 tokens, looked up in 1.4 ms',
        'chosen   10.0.0.0:8000, by max-score among 3 of 3 endpoints, in 0.04 ms',
        'roles    no endpoint is for prefill alone: the role filter keeps all',
        '* 10.0.0.0:8000  1.000 = load-scorer 1.00 × 0.4 + queue-depth 1.00 × 0.3 + active-requests 1.00 × 0.1 + kv-usage 1.00 × 0.2  (768 cached, 0 active, 0 waiting, KV 0 %, metrics 88 ms old)',
        '  10.0.0.1:8000  0.886 = load-scorer 0.89 × 0.4 + queue-depth 1.00 × 0.3 + active-requests 0.50 × 0.1 + kv-usage 0.90 × 0.2  (cache not known, 1 active, 0 waiting, KV 10 %, metrics 89 ms old)',
        '  10.0.0.2:8000  0.780 = load-scorer 0.80 × 0.4 + queue-depth 1.00 × 0.3 + active-requests 0.00 × 0.1 + kv-usage 0.80 × 0.2  (cache not known, 2 active, 0 waiting, KV 20 %, metrics 90 ms old)',
        'sent to  10.0.0.0:8000: could not be reached (ECONNREFUSED), over after 2.0 ms',
        'then to  10.0.0.1:8000: answered, over after 1197 ms',
        'first byte after 35 ms',
        'usage    912 prompt tokens (0 cached, 768 predicted), 120 completion tokens',
        'ended    completed after 1200 ms',
      ].join('\n'),
    )
  })

  it('says what is not known instead of inventing zero', () => {
    const blind = record('d-2', 1)
    const unknown = view('a:1', { queuedRequests: undefined, kvUsage: undefined, scrapeAgeMs: undefined, stale: true })
    const { decode } = decide({ decode: profile }, request(), [unknown], () => 0)
    const words = explain({ ...blind, run: decode })
    expect(words).toContain('queue-depth not known, 0 × 0.3')
    expect(words).toContain('queue not known, KV usage not known, never scraped')
  })

  it('tells what named the session, and why it left its endpoint', () => {
    const base = record('d-4')
    const session = (named: string | undefined, session: string | undefined) => {
      const facts = request(session === undefined ? {} : { session })
      const { decode } = decide({ decode: profile }, facts, [view('a:1', { queuedRequests: 9 }), view('b:1')], () => 0)
      return explain({ ...base, session: named, run: decode })
    }
    expect(session('x-session-id', 'b:1')).toContain('session  by x-session-id: stays with its endpoint')
    expect(session('x-session-id', 'b:1')).toContain('chosen   b:1, for its session among 1 of')
    expect(session('x-session-id', 'b:1')).toContain('  a:1  filtered by overload: 9 requests wait there, 0 elsewhere')
    expect(session('x-session-token', 'a:1')).toContain(
      'session  by x-session-token, but a:1 is overloaded: 9 requests wait there, 0 elsewhere',
    )
    expect(session('prompt_cache_key', undefined)).toContain('session  by prompt_cache_key: not seen before')
    expect(session(undefined, undefined)).not.toContain('session')
  })

  it('tells of a session that a scorer weighs', () => {
    const weighing = buildProfile('decode', {
      filters: [],
      scorers: [
        { name: 'session-affinity', weight: 0.1 },
        { name: 'load-scorer', weight: 0.9 },
      ],
      picker: 'max-score',
    })
    const words = (ownActive: number) => {
      const views = [view('a:1', { activeRequests: ownActive }), view('b:1')]
      const { decode } = decide({ decode: weighing }, request({ session: 'a:1' }), views, () => 0)
      return explain({ ...record('d-6'), session: 'x-session-id', run: decode })
    }
    expect(words(0)).toContain('session  by x-session-id: stays with its endpoint, which weighed in')
    expect(words(0)).toContain('chosen   a:1, by max-score among')
    expect(words(16)).toContain('session  by x-session-id, but a:1 was outweighed')
    expect(words(500)).toContain('session  by x-session-id, but a:1 is overloaded: 500 requests are active there')
  })

  it('every total can be worked out from its line: shares of the weights, and what stood in for the unknown', () => {
    const config = {
      filters: [],
      scorers: [
        { name: 'load-scorer', weight: 2 },
        { name: 'latency-scorer', weight: 1 },
      ],
      picker: 'max-score',
    } as const
    const views = [view('a:1', { ttftSeconds: undefined }), view('b:1', { ttftSeconds: 0.1, activeRequests: 8 })]
    const { decode } = decide({ decode: buildProfile('decode', config) }, request(), views, () => 0)
    const words = explain({ ...record('d-7'), run: decode })
    expect(words).toContain('1.000 = load-scorer 1.00 × 0.667 + latency-scorer not known, 1.00 × 0.333')
    expect(words).toContain('0.667 = load-scorer 0.50 × 0.667 + latency-scorer 1.00 × 0.333')
  })

  it('tells who told what pods hold, where it was not this process alone', () => {
    const words = explain({ ...record('d-8'), lookedUpBy: 'http://kv:8080' })
    expect(words).toContain('prompt   900 tokens, looked up in 1.4 ms by http://kv:8080')
  })

  it('of a response that is fetched, says which endpoint made it and that its usage is of then', () => {
    const { attempts, ...rest } = record('d-9')
    const words = explain({ ...rest, attempts: attempts.slice(1), stored: 'fetched', run: undefined })
    expect(words).toContain('request  req_d-9: a response that was made before is fetched, tenant acme')
    expect(words).toContain(`chosen   ${attempts[1]?.endpoint}, which made it`)
    expect(words).toContain('usage    when it was made: 912 prompt tokens')
  })

  it('without token ids it says that the size is a guess, and why', () => {
    const words = explain({ ...record('d-5'), tokensUnknown: 'no endpoint publishes KV events' })
    expect(words).toContain(
      'prompt   about 900 tokens; what pods hold of it is guessed at most: no endpoint publishes KV events',
    )
  })

  it('keeps 32 candidates of a large pool, the chosen one among them, and says how many there were', () => {
    const large = record('d-3', 300)
    expect(large.run?.candidates).toHaveLength(CANDIDATES_MAX)
    expect(large.run?.candidates.some(({ view }) => view === large.run?.chosen)).toBe(true)
    expect(explain(large)).toContain('and 268 more that scored lower or were filtered')
  })
})

describe('the ring', () => {
  it('forgets the oldest first and stays within its bytes', () => {
    const log = createDecisionLog(50_000)
    for (let index = 0; index < 200; index++) log.add(record(`d-${index}`))
    expect(log.size().bytes).toBeLessThanOrEqual(50_000)
    expect(log.find('d-0')).toBeUndefined()
    expect(log.find('d-199')?.id).toBe('d-199')
    expect(log.newest(2).map(({ id }) => id)).toEqual(['d-199', 'd-198'])
  })

  it('counts at least the bytes that V8 needs, so that 32 MB are 32 MB', () => {
    const log = createDecisionLog(Number.POSITIVE_INFINITY)
    for (const endpoints of [1, 3, 40])
      for (let index = 0; index < 50; index++) log.add(record(`warm-${endpoints}-${index}`, endpoints))
    const countedBefore = log.size().bytes
    const { bytes } = heldBytes(() => {
      for (const endpoints of [1, 3, 40])
        for (let index = 0; index < 400; index++) log.add(record(`d-${endpoints}-${index}`, endpoints))
    })
    expect(log.size().bytes - countedBefore).toBeGreaterThan(bytes * 0.9)
  })
})
