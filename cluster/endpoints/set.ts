// The endpoints of this router and what it knows of each. One mutable record per endpoint lives in here; readers take a
// snapshot. Effects (scrapes, probes, forwarding) report in, and nothing in here waits or calls out. The list may change
// at any time, so whoever reports about an endpoint that is gone is not heard, and told nothing.
import { createHash } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import { modelVersionOf } from '../../shared/cache/key.ts'
import type { Endpoint, EndpointId, EndpointView } from './endpoint.ts'
import { type Entry, type ModelListing, NONE, newEntry, type Scrape, viewOf, viewUntilMs } from './entry.ts'
import type { EngineMetrics } from './metrics-page.ts'
import type { Totals } from './window.ts'

/** Failures in a row after which an endpoint gets no new request until a probe succeeds. */
export const FAILURES_MAX = 3
/** A pod that says it runs requests and moves no token for this long is taken for hung. */
export const NO_PROGRESS_MS = 30_000

/** A request's place at an endpoint, from the moment it is sent until it ended, however it ended. */
export type Passage = {
  /** A byte of the answer came: the engine is alive, and the prompt is computed. */
  readonly progressed: (nowMs: number) => void
  readonly ended: (how: 'completed' | 'failed' | 'cancelled') => void
}

/** What became different when a set's list was replaced. `changed` has those whose id stayed and something else did not. */
export type SetChange = {
  readonly added: readonly EndpointId[]
  readonly removed: readonly EndpointId[]
  readonly changed: readonly EndpointId[]
}

export type EndpointSet = {
  readonly ids: () => readonly EndpointId[]
  readonly has: (id: EndpointId) => boolean
  readonly get: (id: EndpointId) => Endpoint | undefined
  /** In the order of the list. Neither it nor what it holds changes afterwards; it may be the same one as before. */
  readonly snapshot: () => readonly EndpointView[]
  /** The list from now on. Endpoints that stay keep what is known of them; of two with one id the first counts. */
  readonly replace: (endpoints: readonly Endpoint[]) => SetChange
  /** `cold`: the endpoint holds nothing of the prompt, as far as is known. `rank`: which of its ranks is named. */
  readonly begin: (
    id: EndpointId,
    promptTokens: number,
    how?: { readonly cold?: boolean; readonly rank?: number | undefined },
  ) => Passage
  /** This router's requests there that name this rank. */
  readonly sentToRank: (id: EndpointId, rank: number) => number
  /** `atMs`: when the engine said so, if not now; what is older than the last word is dropped. */
  readonly scraped: (id: EndpointId, metrics: EngineMetrics, atMs?: number) => void
  readonly scrapeFailed: (id: EndpointId) => void
  readonly lastScrape: (id: EndpointId) => Scrape | undefined
  readonly modelsListed: (id: EndpointId, models: readonly ModelListing[]) => void
  /** Union over the endpoints, first listing wins. */
  readonly modelList: () => readonly ModelListing[]
  /**
   * A short name for what the endpoints say this model is: another one as soon as one of them says otherwise. Undefined for
   * a model that none lists.
   */
  readonly modelVersion: (model: string) => string | undefined
  /** Whether this router has work there, or the engine says it has some: busy endpoints are scraped more often. */
  readonly busy: (id: EndpointId) => boolean
  /** Whether it has ever said what it serves. */
  readonly answered: (id: EndpointId) => boolean
  readonly ejected: (id: EndpointId) => string | undefined
  readonly probeSucceeded: (id: EndpointId) => void
  /** `refused`: it refused the connection, so nothing listens there. */
  readonly failed: (id: EndpointId, cause: string, refused?: boolean) => void
}

/** 128 bits of a digest. */
const VERSION_CHARS = 22

export function createEndpointSet(endpoints: readonly Endpoint[], nowMs: () => number): EndpointSet {
  // Invariant: `all` holds the values of `entries` in their order. `snapshot` is one of their views that are all set,
  // until `snapshotUntilMs`; `change` is the only way to touch a member that a view shows.
  let entries = new Map<EndpointId, Entry>()
  let all: readonly Entry[] = []
  let snapshot: readonly EndpointView[] | undefined
  let snapshotUntilMs = 0
  /** By model; forgotten when an endpoint comes, goes or lists its models again. */
  const versions = new Map<string, string>()

  function change(entry: Entry): Entry {
    entry.view = undefined
    snapshot = undefined
    return entry
  }

  function replace(wanted: readonly Endpoint[]): SetChange {
    versions.clear()
    const before = entries
    const added: EndpointId[] = []
    const changed: EndpointId[] = []
    entries = new Map()
    for (const endpoint of wanted) {
      if (entries.has(endpoint.id)) continue
      const known = before.get(endpoint.id)
      entries.set(endpoint.id, known ?? newEntry(endpoint, nowMs()))
      if (!known) added.push(endpoint.id)
      else if (!isDeepStrictEqual(known.endpoint, endpoint)) {
        changed.push(endpoint.id)
        change(known).endpoint = endpoint
      }
    }
    all = [...entries.values()]
    snapshot = undefined
    return { added, removed: [...before.keys()].filter((id) => !entries.has(id)), changed }
  }

  function takeSnapshot(): readonly EndpointView[] {
    const now = nowMs()
    if (snapshot && now < snapshotUntilMs) return snapshot
    snapshotUntilMs = Number.POSITIVE_INFINITY
    const views: EndpointView[] = []
    for (const entry of all) {
      if (!entry.view || now >= entry.viewUntilMs) {
        entry.view = viewOf(entry, now)
        entry.viewUntilMs = viewUntilMs(entry, now)
      }
      views.push(entry.view)
      if (entry.viewUntilMs < snapshotUntilMs) snapshotUntilMs = entry.viewUntilMs
    }
    snapshot = Object.freeze(views)
    return snapshot
  }

  function eject(entry: Entry, cause: string): void {
    change(entry).ejectedCause ??= cause
  }

  replace(endpoints)

  return {
    ids: () => [...entries.keys()],
    has: (id) => entries.has(id),
    get: (id) => entries.get(id)?.endpoint,
    snapshot: takeSnapshot,
    replace,
    begin(id, promptTokens, how) {
      const entry = entries.get(id)
      if (!entry) return NO_PASSAGE
      const now = nowMs()
      change(entry)
      // An idle engine is not expected to move: its silence counts from the first request on.
      if (entry.sentRequests === 0) entry.progressedAtMs = now
      if (how?.cold) entry.lastColdAtMs = now
      entry.sentRequests++
      const rank = how?.rank
      if (rank !== undefined) entry.sentByRank.set(rank, (entry.sentByRank.get(rank) ?? 0) + 1)
      entry.sentRecently.set(now, entry.sentRequests)
      entry.sentPromptTokens += promptTokens
      let prefilling = true
      let open = true
      const prefilled = () => {
        if (!prefilling) return
        prefilling = false
        change(entry).sentPromptTokens -= promptTokens
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
          change(entry).sentRequests--
          if (rank !== undefined) entry.sentByRank.set(rank, (entry.sentByRank.get(rank) ?? 1) - 1)
          entry.sentRecently.set(nowMs(), entry.sentRequests)
          if (how === 'completed') entry.failures = 0
        },
      }
    },
    sentToRank: (id, rank) => entries.get(id)?.sentByRank.get(rank) ?? 0,
    scraped(id, metrics, atMs = nowMs()) {
      const entry = entries.get(id)
      if (!entry || (entry.scrape && atMs < entry.scrape.atMs)) return
      change(entry).scrape = { atMs, metrics }
      entry.ttft.add(atMs, metrics.ttft)
      entry.e2e.add(atMs, metrics.e2e)
      entry.cacheHits.add(atMs, cacheTotals(metrics))
      entry.sentRequestsAtScrape = entry.sentRecently.at(atMs)
      const mark = progressMarkOf(metrics)
      const running = metrics.running ?? 0
      if (mark === undefined || mark !== entry.progressMark || running === 0) {
        entry.progressedAtMs = Math.max(entry.progressedAtMs, atMs)
      }
      entry.progressMark = mark
      if (atMs - entry.progressedAtMs >= NO_PROGRESS_MS) {
        eject(entry, `it runs ${running} requests and has made no progress for ${NO_PROGRESS_MS / 1000} s`)
      }
    },
    scrapeFailed(id) {
      const entry = entries.get(id)
      // Missing metrics alone stop nothing; together with requests that get no byte they show a pod that is gone.
      if (entry && entry.sentRequests > 0 && nowMs() - entry.progressedAtMs >= NO_PROGRESS_MS) {
        const silence = `${NO_PROGRESS_MS / 1000} s`
        eject(entry, `neither its metrics nor the ${entry.sentRequests} requests sent to it got a byte for ${silence}`)
      }
    },
    lastScrape: (id) => entries.get(id)?.scrape,
    modelsListed(id, models) {
      const entry = entries.get(id)
      if (!entry) return
      versions.clear()
      const adapters = models.filter(isAdapter)
      change(entry).modelList = models
      entry.models = Object.freeze(models.map((model) => model.id))
      entry.adapters = adapters.length === 0 ? NONE : Object.freeze(adapters.map((model) => model.id))
      entry.baseModel = models.find((model) => !isAdapter(model))?.id
    },
    modelList() {
      const byId = new Map<string, ModelListing>()
      for (const entry of all) for (const model of entry.modelList) if (!byId.has(model.id)) byId.set(model.id, model)
      return [...byId.values()]
    },
    modelVersion(model) {
      const known = versions.get(model)
      if (known !== undefined) return known
      const cards = all.flatMap(({ modelList }) => modelList.filter(({ id }) => id === model))
      if (cards.length === 0) return undefined
      const version = createHash('sha256').update(modelVersionOf(cards)).digest('base64url').slice(0, VERSION_CHARS)
      versions.set(model, version)
      return version
    },
    busy(id) {
      const entry = entries.get(id)
      if (!entry) return false
      const { running, waiting } = entry.scrape?.metrics ?? {}
      return entry.sentRequests > 0 || (running ?? 0) + (waiting ?? 0) > 0
    },
    answered: (id) => entries.get(id)?.models !== undefined,
    ejected: (id) => entries.get(id)?.ejectedCause,
    probeSucceeded(id) {
      const entry = entries.get(id)
      if (!entry) return
      change(entry).ejectedCause = undefined
      entry.refused = false
      entry.failures = 0
      entry.progressedAtMs = nowMs()
    },
    failed(id, cause, refused = false) {
      const entry = entries.get(id)
      if (!entry) return
      entry.failures++
      change(entry).refused = refused
      if (entry.failures >= FAILURES_MAX) eject(entry, `${entry.failures} failures in a row, the last: ${cause}`)
    },
  }
}

/** Of a request to an endpoint that is gone. */
const NO_PASSAGE: Passage = { progressed: () => undefined, ended: () => undefined }

function cacheTotals({ prefixCacheHits, prefixCacheQueries }: EngineMetrics): Totals | undefined {
  if (prefixCacheHits === undefined || prefixCacheQueries === undefined) return undefined
  return { sum: prefixCacheHits, count: prefixCacheQueries }
}

/** Undefined when the engine exports none of the counters: then its silence proves nothing. */
function progressMarkOf(metrics: EngineMetrics): number | undefined {
  const { steps, promptTokens, generationTokens } = metrics
  if (steps === undefined && promptTokens === undefined && generationTokens === undefined) return undefined
  return (steps ?? 0) + (promptTokens ?? 0) + (generationTokens ?? 0)
}

/** vLLM lists an adapter with the id of the model it is loaded on as its parent; a model of its own has null there. */
function isAdapter({ parent }: ModelListing): boolean {
  return typeof parent === 'string'
}
