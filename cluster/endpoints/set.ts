// The endpoints of this router and what it knows of each. One mutable record per endpoint lives in here; readers take a
// snapshot. Effects (scrapes, probes, forwarding) report in, and nothing in here waits or calls out.
import type { Endpoint, EndpointId, EndpointView, Load, ScrapedLoad } from './endpoint.ts'
import type { EngineMetrics } from './metrics-page.ts'

/** Failures in a row after which an endpoint gets no new request until a probe succeeds. */
export const FAILURES_MAX = 3
/** A pod that says it runs requests and moves no token for this long is taken for hung. */
export const NO_PROGRESS_MS = 30_000
/** Metrics older than this are stale: marked, and no longer used for scores. */
export const STALE_AFTER_MS = 5_000

/** Invariant: `sentRequests` is the number of requests begun and not ended; never negative. */
type Entry = {
  readonly endpoint: Endpoint
  models: readonly string[] | undefined
  /** What /v1/models answered, as JSON, for those who ask this router for the list. */
  modelList: readonly ModelListing[]
  scraped: ScrapedLoad | undefined
  /** This router's requests there when the last scrape was answered: the scraped counts include them. */
  sentRequestsAtScrape: number
  sentRequests: number
  sentPromptTokens: number
  failures: number
  ejectedCause: string | undefined
  /** Sum of the engine's step and token counters at the last scrape: any change is progress. */
  progressMark: number | undefined
  progressedAtMs: number
}

/** One entry of a `/v1/models` list, passed on as the engine wrote it. */
export type ModelListing = Readonly<Record<string, unknown>> & { readonly id: string }

/** A request's place at an endpoint, from the moment it is sent until it ended, however it ended. */
export type Passage = {
  /** A byte of the answer came: the engine is alive, and the prompt is computed. */
  readonly progressed: (nowMs: number) => void
  readonly ended: (how: 'completed' | 'failed' | 'cancelled') => void
}

export type EndpointSet = {
  readonly ids: () => readonly EndpointId[]
  readonly get: (id: EndpointId) => Endpoint
  readonly snapshot: () => readonly EndpointView[]
  readonly begin: (id: EndpointId, promptTokens: number) => Passage
  readonly scraped: (id: EndpointId, metrics: EngineMetrics) => void
  readonly scrapeFailed: (id: EndpointId) => void
  readonly modelsListed: (id: EndpointId, models: readonly ModelListing[]) => void
  /** Union over the endpoints, first listing wins. */
  readonly modelList: () => readonly ModelListing[]
  /** Whether this router has work there: busy endpoints are scraped more often. */
  readonly busy: (id: EndpointId) => boolean
  /** Whether it has ever said what it serves. */
  readonly answered: (id: EndpointId) => boolean
  readonly ejected: (id: EndpointId) => string | undefined
  readonly probeSucceeded: (id: EndpointId) => void
  readonly failed: (id: EndpointId, cause: string) => void
}

export function createEndpointSet(endpoints: readonly Endpoint[], nowMs: () => number): EndpointSet {
  const entries = new Map<EndpointId, Entry>()
  for (const endpoint of endpoints) {
    entries.set(endpoint.id, {
      endpoint,
      models: undefined,
      modelList: [],
      scraped: undefined,
      sentRequestsAtScrape: 0,
      sentRequests: 0,
      sentPromptTokens: 0,
      failures: 0,
      ejectedCause: undefined,
      progressMark: undefined,
      progressedAtMs: nowMs(),
    })
  }
  const all = [...entries.values()]

  function entryOf(id: EndpointId): Entry {
    const entry = entries.get(id)
    if (!entry) throw new Error(`no endpoint ${id} in the set`)
    return entry
  }

  function eject(entry: Entry, cause: string): void {
    entry.ejectedCause ??= cause
  }

  function failed(id: EndpointId, cause: string): void {
    const entry = entryOf(id)
    entry.failures++
    if (entry.failures >= FAILURES_MAX) eject(entry, `${entry.failures} failures in a row, the last: ${cause}`)
  }

  return {
    ids: () => all.map((entry) => entry.endpoint.id),
    get: (id) => entryOf(id).endpoint,
    snapshot() {
      const now = nowMs()
      return all.map((entry) => ({
        endpoint: entry.endpoint,
        models: entry.models,
        availability:
          entry.ejectedCause === undefined
            ? ({ state: 'available' } as const)
            : ({ state: 'ejected', cause: entry.ejectedCause } as const),
        load: loadOf(entry, now),
      }))
    },
    begin(id, promptTokens) {
      const entry = entryOf(id)
      // An idle engine is not expected to move: its silence counts from the first request on.
      if (entry.sentRequests === 0) entry.progressedAtMs = nowMs()
      entry.sentRequests++
      entry.sentPromptTokens += promptTokens
      let prefilling = true
      let open = true
      const prefilled = () => {
        if (!prefilling) return
        prefilling = false
        entry.sentPromptTokens -= promptTokens
      }
      return {
        progressed(atMs) {
          prefilled()
          entry.progressedAtMs = atMs
        },
        ended(how) {
          if (!open) return
          open = false
          prefilled()
          entry.sentRequests--
          if (how === 'completed') entry.failures = 0
        },
      }
    },
    scraped(id, metrics) {
      const entry = entryOf(id)
      const now = nowMs()
      entry.scraped = {
        scrapedAtMs: now,
        running: metrics.running,
        waiting: metrics.waiting,
        kvUsage: metrics.kvUsage,
      }
      entry.sentRequestsAtScrape = entry.sentRequests
      const mark = progressMarkOf(metrics)
      const running = metrics.running ?? 0
      if (mark === undefined || mark !== entry.progressMark || running === 0) entry.progressedAtMs = now
      entry.progressMark = mark
      if (now - entry.progressedAtMs >= NO_PROGRESS_MS) {
        eject(entry, `it runs ${running} requests and has made no progress for ${NO_PROGRESS_MS / 1000} s`)
      }
    },
    scrapeFailed(id) {
      const entry = entryOf(id)
      // Missing metrics alone stop nothing; together with requests that get no byte they show a pod that is gone.
      if (entry.sentRequests > 0 && nowMs() - entry.progressedAtMs >= NO_PROGRESS_MS) {
        const silence = `${NO_PROGRESS_MS / 1000} s`
        eject(entry, `neither its metrics nor the ${entry.sentRequests} requests sent to it got a byte for ${silence}`)
      }
    },
    modelsListed(id, models) {
      const entry = entryOf(id)
      entry.models = models.map((model) => model.id)
      entry.modelList = models
    },
    modelList() {
      const byId = new Map<string, ModelListing>()
      for (const entry of all) for (const model of entry.modelList) if (!byId.has(model.id)) byId.set(model.id, model)
      return [...byId.values()]
    },
    busy(id) {
      const entry = entryOf(id)
      return entry.sentRequests > 0 || (entry.scraped?.running ?? 0) + (entry.scraped?.waiting ?? 0) > 0
    },
    answered: (id) => entryOf(id).models !== undefined,
    ejected: (id) => entryOf(id).ejectedCause,
    probeSucceeded(id) {
      const entry = entryOf(id)
      entry.ejectedCause = undefined
      entry.failures = 0
      entry.progressedAtMs = nowMs()
    },
    failed,
  }
}

function loadOf(entry: Entry, nowMs: number): Load {
  const { scraped, sentRequests, sentRequestsAtScrape, sentPromptTokens } = entry
  const scrapeAgeMs = scraped === undefined ? undefined : nowMs - scraped.scrapedAtMs
  const stale = scrapeAgeMs === undefined || scrapeAgeMs > STALE_AFTER_MS
  // Other routers' requests are what the engine counted beyond our own.
  const known = stale ? undefined : sumOfKnown(scraped?.running, scraped?.waiting)
  const othersRequests = known === undefined ? 0 : Math.max(0, known - sentRequestsAtScrape)
  return {
    activeRequests: othersRequests + sentRequests,
    queuedRequests: stale ? undefined : scraped?.waiting,
    kvUsage: stale ? undefined : scraped?.kvUsage,
    sentRequests,
    sentPromptTokens,
    scrapeAgeMs,
    stale,
  }
}

function sumOfKnown(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined && b === undefined ? undefined : (a ?? 0) + (b ?? 0)
}

/** Undefined when the engine exports none of the counters: then its silence proves nothing. */
function progressMarkOf(metrics: EngineMetrics): number | undefined {
  const { steps, promptTokens, generationTokens } = metrics
  if (steps === undefined && promptTokens === undefined && generationTokens === undefined) return undefined
  return (steps ?? 0) + (promptTokens ?? 0) + (generationTokens ?? 0)
}
