// The load monitor: one loop per endpoint scrapes its metrics, asks which models it serves, and probes it while it is
// ejected. A loop never overlaps itself; what it learns goes to the set.
import { askEngine, type Question } from './ask.ts'
import type { Connections } from './connections.ts'
import type { EndpointId } from './endpoint.ts'
import type { ModelListing } from './entry.ts'
import { parseMetricsPage } from './metrics-page.ts'
import type { EndpointSet } from './set.ts'

const BUSY_INTERVAL_MS = 200
const IDLE_INTERVAL_MS = 1_000
const SCRAPE_TIMEOUT_MS = 2_000
const MODELS_INTERVAL_MS = 10_000
const PROBE_TIMEOUT_MS = 10_000
const PROBE_BACKOFF_MAX_MS = 10_000
/** A page of a real vLLM has 65 to 85 KB; data parallel ones more. */
const ANSWER_BYTES_MAX = 4 * 1024 * 1024

export type MonitorDeps = {
  readonly endpoints: EndpointSet
  readonly connections: Connections
  readonly nowMs: () => number
  /** Whether somebody else tells the set what this endpoint's metrics say: it is not scraped then. */
  readonly scrapedElsewhere?: (id: EndpointId) => boolean
  /** Told of changes worth a log line; never per scrape. */
  readonly onEvent: (event: MonitorEvent) => void
  readonly onScrape: (id: EndpointId, ok: boolean) => void
}

export type MonitorEvent =
  | { readonly type: 'models'; readonly endpoint: EndpointId; readonly models: readonly string[] }
  | { readonly type: 'ejected'; readonly endpoint: EndpointId; readonly cause: string }
  | { readonly type: 'recovered'; readonly endpoint: EndpointId }

export type Monitor = {
  /** Resolves when every endpoint of the start was asked once, whatever it answered. */
  readonly firstRound: Promise<void>
  /** Follows the set after its list was replaced. Resolves when every new endpoint was asked once. */
  readonly refresh: () => Promise<void>
  readonly stop: () => void
}

export function startMonitor(deps: MonitorDeps): Monitor {
  const loops = new Map<EndpointId, AbortController>()
  let stopped = false

  async function refresh(): Promise<void> {
    if (stopped) return
    for (const [id, loop] of loops) {
      if (deps.endpoints.has(id)) continue
      loop.abort()
      loops.delete(id)
    }
    const started = deps.endpoints.ids().filter((id) => !loops.has(id))
    const firstRounds = started.map((id) => {
      const loop = new AbortController()
      loops.set(id, loop)
      return watch(id, deps, loop.signal)
    })
    await Promise.all(firstRounds)
  }

  return {
    firstRound: refresh(),
    refresh,
    stop() {
      stopped = true
      for (const loop of loops.values()) loop.abort()
    },
  }
}

/** Starts an endpoint's loop; resolves after its first round. */
async function watch(id: EndpointId, deps: MonitorDeps, stopped: AbortSignal): Promise<void> {
  const { endpoints, nowMs } = deps
  let modelsDueAtMs = 0
  let probeDueAtMs = 0
  let probeBackoffMs = IDLE_INTERVAL_MS
  let toldEjected = false
  let toldModels: string | undefined

  async function round(): Promise<void> {
    await Promise.all([
      deps.scrapedElsewhere?.(id) ? undefined : scrape(),
      nowMs() >= modelsDueAtMs ? listModels() : undefined,
    ])
    if (stopped.aborted) return
    const cause = endpoints.ejected(id)
    if (cause !== undefined && !toldEjected) {
      toldEjected = true
      probeDueAtMs = nowMs()
      probeBackoffMs = IDLE_INTERVAL_MS
      deps.onEvent({ type: 'ejected', endpoint: id, cause })
    }
    if (cause !== undefined && nowMs() >= probeDueAtMs) await probe()
  }

  async function scrape(): Promise<void> {
    const page = await ask(id, deps.connections, { path: '/metrics' })
    if (stopped.aborted) return
    const ok = page?.status === 200
    if (ok) endpoints.scraped(id, parseMetricsPage(page.body))
    else endpoints.scrapeFailed(id)
    deps.onScrape(id, ok)
  }

  async function listModels(): Promise<void> {
    const models = await askModels(id, deps.connections)
    if (stopped.aborted) return
    if (models === undefined) {
      if (!endpoints.answered(id)) endpoints.failed(id, 'its /v1/models does not answer')
      return
    }
    modelsDueAtMs = nowMs() + MODELS_INTERVAL_MS
    endpoints.modelsListed(id, models)
    const names = models.map((model) => model.id)
    if (names.join() === toldModels) return
    toldModels = names.join()
    deps.onEvent({ type: 'models', endpoint: id, models: names })
  }

  async function probe(): Promise<void> {
    const alive = await generates(id, deps.connections)
    if (stopped.aborted) return
    if (alive) {
      toldEjected = false
      endpoints.probeSucceeded(id)
      deps.onEvent({ type: 'recovered', endpoint: id })
      return
    }
    probeDueAtMs = nowMs() + probeBackoffMs
    probeBackoffMs = Math.min(PROBE_BACKOFF_MAX_MS, probeBackoffMs * 2)
  }

  let timer: NodeJS.Timeout | undefined
  function again(): void {
    if (stopped.aborted) return
    timer = setTimeout(() => void round().then(again), endpoints.busy(id) ? BUSY_INTERVAL_MS : IDLE_INTERVAL_MS)
  }
  stopped.addEventListener('abort', () => clearTimeout(timer), { once: true })

  await round()
  again()
}

async function askModels(id: EndpointId, connections: Connections): Promise<readonly ModelListing[] | undefined> {
  const answer = await ask(id, connections, { path: '/v1/models' })
  if (answer?.status !== 200) return undefined
  try {
    const { data } = JSON.parse(answer.body.toString()) as { data?: unknown }
    if (!Array.isArray(data)) return undefined
    return data.filter((model): model is ModelListing => typeof model?.id === 'string')
  } catch {
    return undefined
  }
}

/**
 * Whether the engine still computes: a hung one answers /health with 200, so it is asked for one token. Any answer but a
 * server error counts: an engine that refuses the request has at least read it.
 */
async function generates(id: EndpointId, connections: Connections): Promise<boolean> {
  const models = await askModels(id, connections)
  const model = models?.[0]?.id
  if (model === undefined) return false
  const body = JSON.stringify({ model, prompt: 'ping', max_tokens: 1, temperature: 0 })
  const answer = await ask(id, connections, { path: '/v1/completions', body }, PROBE_TIMEOUT_MS)
  return answer !== undefined && answer.status < 500
}

function ask(id: EndpointId, connections: Connections, question: Question, timeoutMs = SCRAPE_TIMEOUT_MS) {
  return askEngine(connections, id, question, { timeoutMs, bytesMax: ANSWER_BYTES_MAX })
}
