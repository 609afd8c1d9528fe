// What a load monitor says of each pod on GET /load, and how a router reads it. One file, so that the two cannot part.
import * as v from 'valibot'
import type { EndpointId, EndpointView } from './endpoint.ts'
import type { Scrape } from './entry.ts'
import type { EngineMetrics } from './metrics-page.ts'

/** A pod's GPU utilisation, and where the number is from: vLLM itself does not know it. */
export type GpuUtilization = { readonly percent: number; readonly source: 'dcgm' | 'kv-cache-usage' }

/** What is not known is absent; numbers of a stale scrape are not known, but for `engine`, which has its age beside it. */
export type PodReport = {
  readonly pod: EndpointId
  readonly origin: string
  readonly role: EndpointView['endpoint']['role']
  readonly labels: Readonly<Record<string, string>>
  readonly availability: EndpointView['availability']
  readonly models: readonly string[] | undefined
  readonly baseModel: string | undefined
  readonly adapters: readonly string[]
  readonly scrapeAgeMs: number | undefined
  readonly stale: boolean
  readonly gpuUtilization: GpuUtilization | undefined
  readonly queueLength: number | undefined
  readonly activeRequests: number | undefined
  /** Means and shares of the last minute. */
  readonly avgLatencySeconds: number | undefined
  readonly ttftSeconds: number | undefined
  readonly cacheHitRate: number | undefined
  readonly kvUsage: number | undefined
  readonly loras: EngineMetrics['lora']
  /** The engine's own numbers as they were scraped: a router keeps its own windows over them. */
  readonly engine: EngineMetrics | undefined
}

/** `gpuPercent` as DCGM told it; the KV cache's usage stands in where it is not known. */
export function reportPod(
  view: EndpointView,
  scrape: Scrape | undefined,
  gpuPercent: number | undefined,
  nowMs: number,
): PodReport {
  const { endpoint, availability, models, baseModel, adapters, load } = view
  const { queuedRequests, e2eSeconds, ttftSeconds, cacheHitRate, kvUsage, loras, stale } = load
  return {
    pod: endpoint.id,
    origin: endpoint.origin,
    role: endpoint.role,
    labels: endpoint.labels,
    availability,
    models,
    baseModel,
    adapters,
    scrapeAgeMs: scrape && Math.max(0, nowMs - scrape.atMs),
    stale,
    gpuUtilization: gpuUtilizationOf(gpuPercent, kvUsage),
    queueLength: queuedRequests,
    activeRequests: stale ? undefined : scrape?.metrics.running,
    avgLatencySeconds: e2eSeconds,
    ttftSeconds,
    cacheHitRate,
    kvUsage,
    loras,
    engine: scrape?.metrics,
  }
}

function gpuUtilizationOf(percent: number | undefined, kvUsage: number | undefined): GpuUtilization | undefined {
  if (percent !== undefined) return { percent, source: 'dcgm' }
  return kvUsage === undefined ? undefined : { percent: kvUsage * 100, source: 'kv-cache-usage' }
}

/** More than any router has endpoints; what comes after is not read. */
const PODS_MAX = 10_000
const NAMES_MAX = 1_000
const NAME_CHARS_MAX = 512

const number = v.optional(v.pipe(v.number(), v.finite(), v.minValue(0)))
const names = v.pipe(v.array(v.pipe(v.string(), v.maxLength(NAME_CHARS_MAX))), v.maxLength(NAMES_MAX))
const totals = v.optional(
  v.object({
    sum: v.pipe(v.number(), v.finite(), v.minValue(0)),
    count: v.pipe(v.number(), v.finite(), v.minValue(0)),
  }),
)

const Engine = v.object({
  running: number,
  waiting: number,
  waitingForCapacity: number,
  kvUsage: v.optional(v.pipe(v.number(), v.minValue(0), v.maxValue(1))),
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
  lora: v.optional(v.object({ running: names, waiting: names, max: number })),
  modelNames: v.optional(names),
})

const Pod = v.object({
  pod: v.pipe(v.string(), v.maxLength(NAME_CHARS_MAX)),
  scrapeAgeMs: v.pipe(v.number(), v.finite(), v.minValue(0)),
  engine: Engine,
})

const Report = v.object({ pods: v.array(v.unknown()) })

const NOTHING: EngineMetrics = {
  running: undefined,
  waiting: undefined,
  waitingForCapacity: undefined,
  kvUsage: undefined,
  kvCacheTokens: undefined,
  blockSizeTokens: undefined,
  steps: undefined,
  promptTokens: undefined,
  generationTokens: undefined,
  prefixCacheQueries: undefined,
  prefixCacheHits: undefined,
  preemptions: undefined,
  requestsFinished: undefined,
  ttft: undefined,
  e2e: undefined,
  lora: undefined,
  modelNames: undefined,
}

export type ReportedScrape = { readonly metrics: EngineMetrics; readonly ageMs: number }

/**
 * The scrapes in a report, by pod. A pod that was never scraped, or whose entry is malformed, is left out; undefined when
 * the whole is no report. Never throws.
 */
export function parseLoadReport(body: Buffer): ReadonlyMap<EndpointId, ReportedScrape> | undefined {
  let content: unknown
  try {
    content = JSON.parse(body.toString())
  } catch {
    return undefined
  }
  const report = v.safeParse(Report, content)
  if (!report.success) return undefined
  const scrapes = new Map<EndpointId, ReportedScrape>()
  for (const row of report.output.pods.slice(0, PODS_MAX)) {
    const pod = v.safeParse(Pod, row)
    if (!pod.success) continue
    const { lora, ...told } = pod.output.engine
    const metrics = { ...NOTHING, ...told, lora: lora && { ...lora, max: lora.max } }
    scrapes.set(pod.output.pod as EndpointId, { metrics, ageMs: pod.output.scrapeAgeMs })
  }
  return scrapes
}
