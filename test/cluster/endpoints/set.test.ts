import { beforeEach, describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { parseMetricsPage } from '../../../cluster/endpoints/metrics-page.ts'
import { createEndpointSet, type EndpointSet, NO_PROGRESS_MS, STALE_AFTER_MS } from '../../../cluster/endpoints/set.ts'
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
    expect(state()).toEqual({ state: 'ejected', cause: 'it runs 2 requests and has made no progress for 30 s' })
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
    expect(state()).toEqual({ state: 'ejected', cause: '3 failures in a row, the last: connection refused' })
  })
})

it('the models of several endpoints are listed once each, as the first engine wrote them', () => {
  set = createEndpointSet([endpoint('a:1'), endpoint('b:1')], () => nowMs)
  set.modelsListed(A, [{ id: 'm', root: 'one' }])
  set.modelsListed('b:1' as EndpointId, [{ id: 'm', root: 'two' }, { id: 'n' }])
  expect(set.modelList()).toEqual([{ id: 'm', root: 'one' }, { id: 'n' }])
})
