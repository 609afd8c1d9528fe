import { beforeEach, describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { STALE_AFTER_MS } from '../../../cluster/endpoints/entry.ts'
import { parseMetricsPage } from '../../../cluster/endpoints/metrics-page.ts'
import { createEndpointSet, type EndpointSet, NO_PROGRESS_MS } from '../../../cluster/endpoints/set.ts'
import { endpoint } from '../views.ts'

const A = 'a:1' as EndpointId
let nowMs = 0
let set: EndpointSet

beforeEach(() => {
  nowMs = 1_000
  set = createEndpointSet([endpoint('a:1')], () => nowMs)
})

const page = (running: number, waiting: number, steps?: number) =>
  parseMetricsPage(
    Buffer.from(
      `vllm:num_requests_running{engine="0"} ${running}\nvllm:num_requests_waiting{engine="0"} ${waiting}\n` +
        `vllm:kv_cache_usage_perc{engine="0"} 0.25\n` +
        (steps === undefined ? '' : `vllm:iteration_tokens_total_count{engine="0"} ${steps}\n`),
    ),
  )
const load = () => set.snapshot()[0]?.load
const state = () => set.snapshot()[0]?.availability

describe('load', () => {
  it('is not known before the first scrape: missing is not zero', () => {
    expect(load()).toMatchObject({ queuedRequests: undefined, kvUsage: undefined, scrapeAgeMs: undefined, stale: true })
  })

  it('counts a request from the moment it is sent, before any scrape could see it', () => {
    set.scraped(A, page(0, 0))
    set.begin(A, 500)
    set.begin(A, 700)
    expect(load()).toMatchObject({ activeRequests: 2, sentRequests: 2, sentPromptTokens: 1_200 })
  })

  it('does not count our own requests twice once a scrape has seen them, and keeps those of other routers', () => {
    const mine = set.begin(A, 100)
    set.scraped(A, page(3, 1))
    expect(load()?.activeRequests).toBe(4)
    mine.ended('completed')
    expect(load()?.activeRequests).toBe(3)
    set.begin(A, 100)
    expect(load()?.activeRequests).toBe(4)
  })

  it('takes the prompt off once it is computed, and nothing twice', () => {
    const passage = set.begin(A, 500)
    passage.progressed(nowMs)
    expect(load()).toMatchObject({ sentRequests: 1, sentPromptTokens: 0 })
    passage.ended('completed')
    passage.ended('failed')
    expect(load()).toMatchObject({ sentRequests: 0, sentPromptTokens: 0 })
  })

  it('goes stale: old numbers are marked and no longer used, our own counts stay', () => {
    set.scraped(A, page(7, 2))
    set.begin(A, 1)
    nowMs += STALE_AFTER_MS + 1
    expect(load()).toMatchObject({ stale: true, queuedRequests: undefined, kvUsage: undefined, activeRequests: 1 })
    expect(state()).toEqual({ state: 'available' })
  })
})

describe('a pod that is healthy but makes no progress', () => {
  const scrapeFor = (ms: number, running: number, stepsAt: (atMs: number) => number | undefined) => {
    for (let at = 0; at <= ms; at += 1_000) {
      set.scraped(A, page(running, 0, stepsAt(at)))
      nowMs += 1_000
    }
  }

  it('gets no new request after 30 s, and why names the cause', () => {
    set.begin(A, 10)
    scrapeFor(NO_PROGRESS_MS, 2, () => 41)
    expect(state()).toEqual({
      state: 'ejected',
      cause: 'it runs 2 requests and has made no progress for 30 s',
      gone: false,
    })
    set.probeSucceeded(A)
    expect(state()).toEqual({ state: 'available' })
  })
  it('is not one that steps, however slowly', () => {
    scrapeFor(3 * NO_PROGRESS_MS, 2, (at) => Math.floor(at / 20_000))
    expect(state()).toEqual({ state: 'available' })
  })
  it('is not one that is idle', () => {
    scrapeFor(3 * NO_PROGRESS_MS, 0, () => 41)
    expect(state()).toEqual({ state: 'available' })
  })
  it('is not one whose streams flow, whatever its metrics say', () => {
    const passage = set.begin(A, 10)
    scrapeFor(3 * NO_PROGRESS_MS, 1, () => {
      passage.progressed(nowMs)
      return 41
    })
    expect(state()).toEqual({ state: 'available' })
  })
  it('is not one that does not export what would show it', () => {
    scrapeFor(3 * NO_PROGRESS_MS, 2, () => undefined)
    expect(state()).toEqual({ state: 'available' })
  })
  it('is one that answers neither scrapes nor requests', () => {
    set.begin(A, 10)
    nowMs += NO_PROGRESS_MS - 1
    set.scrapeFailed(A)
    expect(state()).toEqual({ state: 'available' })
    nowMs += 1
    set.scrapeFailed(A)
    expect(state()).toMatchObject({ state: 'ejected' })
  })
  it('is not one that merely lost its metrics', () => {
    nowMs += 10 * NO_PROGRESS_MS
    set.scrapeFailed(A)
    expect(state()).toEqual({ state: 'available' })
  })
})

describe('failures', () => {
  it('eject after three in a row; a completed answer in between starts the count again', () => {
    set.failed(A, 'x')
    set.failed(A, 'x')
    set.begin(A, 1).ended('completed')
    set.failed(A, 'x')
    set.failed(A, 'x')
    expect(state()).toEqual({ state: 'available' })
    set.failed(A, 'connection refused')
    expect(state()).toEqual({
      state: 'ejected',
      cause: '3 failures in a row, the last: connection refused',
      gone: false,
    })
  })
  it('of which the last was a refused connection say that nothing listens there, until a probe succeeds', () => {
    set.failed(A, 'x')
    set.failed(A, 'x')
    set.failed(A, 'refused', true)
    expect(state()).toMatchObject({ state: 'ejected', gone: true })
    set.failed(A, 'slow')
    expect(state()).toMatchObject({ state: 'ejected', gone: false })
    set.probeSucceeded(A)
    expect(state()).toEqual({ state: 'available' })
  })
  it('counts the requests that name a rank while they go on', () => {
    const passages = [set.begin(A, 1, { rank: 2 }), set.begin(A, 1, { rank: 2 }), set.begin(A, 1)]
    expect([0, 2].map((rank) => set.sentToRank(A, rank))).toEqual([0, 2])
    for (const { ended } of passages) ended('completed')
    expect(set.sentToRank(A, 2)).toBe(0)
  })
})

it('the models of several endpoints are listed once each, as the first engine wrote them', () => {
  set = createEndpointSet([endpoint('a:1'), endpoint('b:1')], () => nowMs)
  set.modelsListed(A, [{ id: 'm', root: 'one' }])
  set.modelsListed('b:1' as EndpointId, [{ id: 'm', root: 'two' }, { id: 'n' }])
  expect(set.modelList()).toEqual([{ id: 'm', root: 'one' }, { id: 'n' }])
})

const B = 'b:1' as EndpointId
const C = 'c:1' as EndpointId
const pageOf = (...lines: readonly string[]) => parseMetricsPage(Buffer.from(`${lines.join('\n')}\n`))

describe('a list that changes while requests are in flight', () => {
  it('says what came, went and changed; what stays keeps what is known of it', () => {
    set = createEndpointSet([endpoint('a:1'), endpoint('b:1'), endpoint('c:1')], () => nowMs)
    set.scraped(B, page(3, 1))
    set.begin(B, 10)
    expect(
      set.replace([endpoint('d:1'), endpoint('c:1', { labels: { zone: 'x' } }), endpoint('b:1'), endpoint('b:1')]),
    ).toEqual({ added: ['d:1'], removed: ['a:1'], changed: ['c:1'] })
    expect(set.ids()).toEqual(['d:1', 'c:1', 'b:1'])
    expect(set.snapshot().map((view) => view.load.activeRequests)).toEqual([0, 0, 5])
    expect(set.snapshot()[1]?.endpoint.labels).toEqual({ zone: 'x' })
    expect([set.has(A), set.has(C), set.get(A), set.get(B)?.id]).toEqual([false, true, undefined, 'b:1'])
  })

  it('a list that says the same again changes nothing', () => {
    expect(set.replace([endpoint('a:1')])).toEqual({ added: [], removed: [], changed: [] })
  })

  it('the requests of an endpoint that went end without harm, and do not count against one that comes back', () => {
    const passage = set.begin(A, 10)
    set.replace([])
    expect(set.snapshot()).toEqual([])
    passage.progressed(nowMs)
    set.replace([endpoint('a:1')])
    passage.ended('completed')
    expect(load()).toMatchObject({ sentRequests: 0, sentPromptTokens: 0, activeRequests: 0 })
  })

  it('late words about an endpoint that is gone are not heard', () => {
    set.replace([])
    set.begin(A, 10, { cold: true }).ended('failed')
    set.begin(A, 10).progressed(nowMs)
    set.scraped(A, page(1, 1))
    set.scrapeFailed(A)
    set.modelsListed(A, [{ id: 'm' }])
    set.failed(A, 'x')
    set.probeSucceeded(A)
    expect([set.busy(A), set.answered(A), set.ejected(A), set.lastScrape(A)]).toEqual([
      false,
      false,
      undefined,
      undefined,
    ])
    expect(set.modelList()).toEqual([])
  })
})

describe('what the last minute was like', () => {
  const metrics = (ttft: readonly [number, number], e2e: readonly [number, number], hits: number, queries: number) =>
    pageOf(
      `vllm:time_to_first_token_seconds_sum ${ttft[0]}`,
      `vllm:time_to_first_token_seconds_count ${ttft[1]}`,
      `vllm:e2e_request_latency_seconds_sum ${e2e[0]}`,
      `vllm:e2e_request_latency_seconds_count ${e2e[1]}`,
      `vllm:prefix_cache_hits_total ${hits}`,
      `vllm:prefix_cache_queries_total ${queries}`,
    )
  const unknown = { ttftSeconds: undefined, e2eSeconds: undefined, cacheHitRate: undefined }

  it('is not known before, then the means since, and not known again once the numbers are stale', () => {
    expect(load()).toMatchObject(unknown)
    set.scraped(A, metrics([10, 10], [50, 10], 900, 1_000))
    expect(load()).toMatchObject(unknown)
    nowMs += 1_000
    set.scraped(A, metrics([11, 12], [56, 12], 925, 1_100))
    expect(load()).toMatchObject({ ttftSeconds: 0.5, e2eSeconds: 3, cacheHitRate: 0.25 })
    nowMs += STALE_AFTER_MS
    expect(load()).toMatchObject(unknown)
  })

  it('an engine without a prefix cache has no hit rate of zero', () => {
    set.scraped(A, page(1, 0))
    nowMs += 1_000
    set.scraped(A, page(1, 0))
    expect(load()).toMatchObject(unknown)
  })
})

describe('adapters', () => {
  it('the base model is the first without a parent, adapters are those with one', () => {
    expect(set.snapshot()[0]).toMatchObject({ models: undefined, baseModel: undefined, adapters: [] })
    set.modelsListed(A, [
      { id: 'sql', parent: 'llama' },
      { id: 'llama', parent: null },
      { id: 'llama-alias' },
      { id: 'chat', parent: 'llama' },
    ])
    expect(set.snapshot()[0]).toMatchObject({
      models: ['sql', 'llama', 'llama-alias', 'chat'],
      baseModel: 'llama',
      adapters: ['sql', 'chat'],
    })
  })

  it('those in use are told while the numbers are fresh', () => {
    expect(load()?.loras).toBeUndefined()
    set.scraped(
      A,
      pageOf('vllm:lora_requests_info{max_lora="4",running_lora_adapters="sql",waiting_lora_adapters="a,b"} 1'),
    )
    expect(load()?.loras).toEqual({ running: ['sql'], waiting: ['a', 'b'], max: 4 })
    nowMs += STALE_AFTER_MS
    expect(load()?.loras).toBeUndefined()
  })
})

it('remembers when a prompt that was cold went there, and only those', () => {
  set.begin(A, 10)
  expect(set.snapshot()[0]?.lastColdAtMs).toBeUndefined()
  nowMs += 5
  set.begin(A, 10, { cold: true })
  nowMs += 5
  set.begin(A, 10, { cold: false })
  expect(set.snapshot()[0]?.lastColdAtMs).toBe(1_005)
})

describe('a snapshot', () => {
  it('does not change under its reader, and cannot be changed by it', () => {
    set.modelsListed(A, [{ id: 'm' }])
    set.scraped(A, page(1, 0))
    const before = set.snapshot()
    const copy = structuredClone(before)
    const passage = set.begin(A, 100, { cold: true })
    set.scraped(A, page(9, 9))
    for (let failures = 0; failures < 3; failures++) set.failed(A, 'x')
    set.modelsListed(A, [{ id: 'n' }])
    set.replace([endpoint('a:1', { role: 'prefill' }), endpoint('b:1')])
    passage.ended('failed')
    nowMs += STALE_AFTER_MS
    expect(before).toEqual(copy)
    expect(set.snapshot()).not.toEqual(copy)
    const [view] = before
    expect([before, view, view?.load, view?.models, view?.adapters].every(Object.isFrozen)).toBe(true)
  })

  it('is the same one while nothing happens, and has the same view of an endpoint to which nothing happens', () => {
    set = createEndpointSet([endpoint('a:1'), endpoint('b:1')], () => nowMs)
    for (const id of [A, B]) set.scraped(id, page(1, 0))
    const first = set.snapshot()
    expect(set.snapshot()).toBe(first)
    set.begin(A, 10)
    const second = set.snapshot()
    expect(second[0]).not.toBe(first[0])
    expect(second[1]).toBe(first[1])
  })

  it('tells the age within a twentieth of a second, and the moment it goes stale exactly', () => {
    set.scraped(A, page(1, 0))
    for (let ageMs = 0; ageMs < STALE_AFTER_MS; ageMs += 7) {
      nowMs = 1_000 + ageMs
      const told = load()
      expect(told?.stale).toBe(false)
      expect(ageMs - (told?.scrapeAgeMs ?? Number.NaN)).toBeGreaterThanOrEqual(0)
      expect(ageMs - (told?.scrapeAgeMs ?? Number.NaN)).toBeLessThan(50)
    }
    nowMs = 1_000 + STALE_AFTER_MS - 1
    expect(load()?.stale).toBe(false)
    nowMs++
    expect(load()?.stale).toBe(true)
  })

  it('any change shows at once, whatever was told before', () => {
    const changes: readonly (() => void)[] = [
      () => set.scraped(A, page(4, 2)),
      () => void set.begin(A, 10),
      () => set.modelsListed(A, [{ id: 'm' }]),
      () => {
        for (let failures = 0; failures < 3; failures++) set.failed(A, 'x')
      },
      () => set.probeSucceeded(A),
      () => void set.replace([endpoint('a:1', { role: 'decode' })]),
    ]
    for (const change of changes) {
      const before = set.snapshot()
      change()
      expect(set.snapshot()).not.toEqual(before)
    }
  })
})

describe('a scrape that another process made', () => {
  it('counts from when it was made: our requests since then are not taken for those of others', () => {
    set.begin(A, 1)
    nowMs = 2_000
    const scrapedAtMs = nowMs
    nowMs = 2_400
    for (let requests = 0; requests < 3; requests++) set.begin(A, 1)
    set.scraped(A, page(3, 0), scrapedAtMs)
    // It saw one of ours and two of others; three more are ours.
    expect(load()).toMatchObject({ activeRequests: 6, scrapeAgeMs: 400 })
  })

  it('that is older than the last word is dropped', () => {
    set.scraped(A, page(1, 0))
    set.scraped(A, page(9, 9), nowMs - 1)
    expect(load()?.activeRequests).toBe(1)
    expect(set.lastScrape(A)).toMatchObject({ atMs: 1_000, metrics: { running: 1 } })
  })
})
