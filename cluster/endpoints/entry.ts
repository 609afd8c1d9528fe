// What the set keeps of one endpoint, and the view of it that a decision gets.
import type { Availability, Endpoint, EndpointView, Load } from './endpoint.ts'
import type { EngineMetrics } from './metrics-page.ts'
import { RecentCount } from './recent-count.ts'
import { MeanWindow } from './window.ts'

/** Metrics older than this are stale: marked, and no longer used for scores. */
export const STALE_AFTER_MS = 5_000
/** A view is kept while nothing but its age changes, and for this long at most. */
export const AGE_STEP_MS = 50

const AVAILABLE: Availability = Object.freeze({ state: 'available' })
export const NONE: readonly string[] = Object.freeze([])

/** What an engine's page said, and when it said so on the set's clock. */
export type Scrape = { readonly atMs: number; readonly metrics: EngineMetrics }

/**
 * Invariants: `sentRequests` is the number of requests begun and not ended, never negative. `view`, where it is set, is
 * what viewOf() would give until `viewUntilMs`, but for the age: every change of what it shows sets it to undefined.
 */
export type Entry = {
  endpoint: Endpoint
  models: readonly string[] | undefined
  baseModel: string | undefined
  adapters: readonly string[]
  /** What /v1/models answered, as JSON, for those who ask this router for the list. */
  modelList: readonly ModelListing[]
  scrape: Scrape | undefined
  readonly ttft: MeanWindow
  readonly e2e: MeanWindow
  readonly cacheHits: MeanWindow
  /** This router's requests there at the time of the last scrape: the scraped counts include them. */
  sentRequestsAtScrape: number
  sentRequests: number
  readonly sentRecently: RecentCount
  /** Of those requests, the ones that name a rank. */
  readonly sentByRank: Map<number, number>
  sentPromptTokens: number
  lastColdAtMs: number | undefined
  failures: number
  ejectedCause: string | undefined
  /** The last failure was a refused connection: the process that was there has ended. */
  refused: boolean
  /** Sum of the engine's step and token counters at the last scrape: any change is progress. */
  progressMark: number | undefined
  progressedAtMs: number
  view: EndpointView | undefined
  viewUntilMs: number
}

/** One entry of a `/v1/models` list, passed on as the engine wrote it. */
export type ModelListing = Readonly<Record<string, unknown>> & { readonly id: string }

/** An endpoint of which nothing is known yet. */
export function newEntry(endpoint: Endpoint, nowMs: number): Entry {
  return {
    endpoint,
    models: undefined,
    baseModel: undefined,
    adapters: NONE,
    modelList: [],
    scrape: undefined,
    ttft: new MeanWindow(),
    e2e: new MeanWindow(),
    cacheHits: new MeanWindow(),
    sentRequestsAtScrape: 0,
    sentRequests: 0,
    sentRecently: new RecentCount(),
    sentByRank: new Map(),
    sentPromptTokens: 0,
    lastColdAtMs: undefined,
    failures: 0,
    ejectedCause: undefined,
    refused: false,
    progressMark: undefined,
    progressedAtMs: nowMs,
    view: undefined,
    viewUntilMs: 0,
  }
}

/** What a decision sees of it now. */
export function viewOf(entry: Entry, nowMs: number): EndpointView {
  const { endpoint, models, baseModel, adapters, ejectedCause: cause, refused: gone, lastColdAtMs } = entry
  return Object.freeze({
    endpoint,
    models,
    baseModel,
    adapters,
    availability: cause === undefined ? AVAILABLE : Object.freeze({ state: 'ejected', cause, gone }),
    load: loadOf(entry, nowMs),
    lastColdAtMs,
  })
}

/** When a view that is made now is no longer true: its age moves on, and the moment it goes stale is kept exactly. */
export function viewUntilMs({ scrape }: Entry, nowMs: number): number {
  if (!scrape) return Number.POSITIVE_INFINITY
  const staleAtMs = scrape.atMs + STALE_AFTER_MS
  return nowMs < staleAtMs ? Math.min(nowMs + AGE_STEP_MS, staleAtMs) : nowMs + AGE_STEP_MS
}

function loadOf(entry: Entry, nowMs: number): Load {
  const { scrape, sentRequests, sentRequestsAtScrape, sentPromptTokens } = entry
  const scrapeAgeMs = scrape === undefined ? undefined : nowMs - scrape.atMs
  const stale = scrapeAgeMs === undefined || scrapeAgeMs >= STALE_AFTER_MS
  const fresh = stale ? undefined : scrape?.metrics
  // Other routers' requests are what the engine counted beyond our own.
  const known = fresh && sumOfKnown(fresh.running, fresh.waiting)
  const othersRequests = known === undefined ? 0 : Math.max(0, known - sentRequestsAtScrape)
  return Object.freeze({
    activeRequests: othersRequests + sentRequests,
    queuedRequests: fresh?.waiting,
    kvUsage: fresh?.kvUsage,
    ttftSeconds: fresh && entry.ttft.mean(),
    e2eSeconds: fresh && entry.e2e.mean(),
    cacheHitRate: fresh && atMostOne(entry.cacheHits.mean()),
    loras: fresh?.lora,
    sentRequests,
    sentPromptTokens,
    scrapeAgeMs,
    stale,
  })
}

function atMostOne(share: number | undefined): number | undefined {
  return share === undefined ? undefined : Math.min(1, share)
}

function sumOfKnown(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined && b === undefined ? undefined : (a ?? 0) + (b ?? 0)
}
