import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { parseLoadReport, reportPod } from '../../../cluster/endpoints/load-report.ts'
import { type EngineMetrics, parseMetricsPage } from '../../../cluster/endpoints/metrics-page.ts'
import { view } from '../views.ts'

const NOTHING = parseMetricsPage(Buffer.alloc(0))

const number = fc.option(fc.double({ min: 0, max: 1e15, noNaN: true }), { nil: undefined })
const totals = fc.option(fc.record({ sum: fc.nat(), count: fc.nat() }), { nil: undefined })
const names = fc.array(fc.string({ maxLength: 20 }), { maxLength: 3 })
const metrics: fc.Arbitrary<EngineMetrics> = fc.record({
  running: number,
  waiting: number,
  waitingForCapacity: number,
  kvUsage: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { nil: undefined }),
  kvCacheTokens: number,
  blockSizeTokens: number,
  steps: number,
  promptTokens: number,
  generationTokens: number,
  prefixCacheQueries: number,
  prefixCacheHits: number,
  preemptions: number,
  requestsFinished: number,
  ttft: totals,
  e2e: totals,
  lora: fc.option(fc.record({ running: names, waiting: names, max: number }), { nil: undefined }),
  modelNames: fc.option(names, { nil: undefined }),
})

function parse(value: unknown) {
  return parseLoadReport(Buffer.from(JSON.stringify(value)))
}

describe('a report', () => {
  it('a router reads what the load monitor scraped, to the last number and with what is not known left open', () => {
    fc.assert(
      fc.property(metrics, (scraped) => {
        const pod = reportPod(view('a:1'), { atMs: 1_000, metrics: scraped }, undefined, 1_250)
        expect(parse({ pods: [pod] })).toEqual(new Map([['a:1', { metrics: plusZero(scraped), ageMs: 250 }]]))
      }),
    )
  })

  it('a pod that was never scraped is in it for people, and not for routers', () => {
    const pod = reportPod(view('a:1', { scrapeAgeMs: undefined, stale: true }), undefined, undefined, 0)
    expect(pod).toMatchObject({ pod: 'a:1', scrapeAgeMs: undefined, engine: undefined, activeRequests: undefined })
    expect(parse({ pods: [pod] })).toEqual(new Map())
  })

  it('numbers too old are not told as load, whatever is left of them', () => {
    const stale = view('a:1', { stale: true, kvUsage: undefined, queuedRequests: undefined })
    const pod = reportPod(stale, { atMs: 0, metrics: { ...NOTHING, running: 3 } }, undefined, 60_000)
    expect(pod).toMatchObject({ activeRequests: undefined, gpuUtilization: undefined, scrapeAgeMs: 60_000 })
  })

  it('GPU utilisation says where it is from', () => {
    const of = (kvUsage: number | undefined, gpuPercent: number | undefined) =>
      reportPod(view('a:1', { kvUsage }), undefined, gpuPercent, 0).gpuUtilization
    expect(of(0.25, undefined)).toEqual({ percent: 25, source: 'kv-cache-usage' })
    expect(of(0.25, 80)).toEqual({ percent: 80, source: 'dcgm' })
    expect(of(undefined, 0)).toEqual({ percent: 0, source: 'dcgm' })
    expect(of(undefined, undefined)).toBeUndefined()
  })
})

describe('an answer that is no report', () => {
  it.each([
    ['nothing', ''],
    ['no JSON', '<html>'],
    ['JSON of another kind', '[]'],
    ['null', 'null'],
    ['pods that are no list', '{"pods":{}}'],
    ['half a report', '{"pods":[{"pod":"a:1"'],
  ])('%s', (_, text) => {
    expect(parseLoadReport(Buffer.from(text))).toBeUndefined()
  })

  it('a malformed pod is left out, and the others are not', () => {
    const good = { pod: 'good:1', scrapeAgeMs: 5, engine: { running: 1 } }
    const bad = [
      null,
      7,
      { ...good, pod: 7 },
      { ...good, pod: 'x'.repeat(1_000) },
      { ...good, scrapeAgeMs: -1 },
      { ...good, scrapeAgeMs: undefined },
      { ...good, engine: { running: -1 } },
      { ...good, engine: { running: '1' } },
      { ...good, engine: { kvUsage: 2 } },
      { ...good, engine: { ttft: { sum: 1 } } },
      { ...good, engine: { lora: { running: 'sql', waiting: [] } } },
      { ...good, engine: { modelNames: Array(2_000).fill('m') } },
    ].map((row, index) =>
      row && typeof row === 'object' && row.pod === 'good:1' ? { ...row, pod: `bad:${index}` } : row,
    )
    const read = parse({ pods: [...bad, { ...good, new: 'member' }] })
    expect([...(read?.keys() ?? [])]).toEqual(['good:1'])
    expect(read?.get('good:1' as EndpointId)).toEqual({ ageMs: 5, metrics: { ...NOTHING, running: 1 } })
    expect(parseLoadReport(Buffer.from('{"pods":[{"pod":"a:1","scrapeAgeMs":1e999,"engine":{}}]}'))).toEqual(new Map())
  })

  it('any JSON at all: no exception', () => {
    fc.assert(
      fc.property(fc.array(fc.jsonValue()), (pods) => {
        expect(parse({ pods })?.size).toBe(0)
      }),
    )
  })
})

/** JSON has no negative zero. */
function plusZero<T>(value: T): T {
  return JSON.parse(JSON.stringify(value), (_, each) => (each === 0 ? 0 : each))
}
