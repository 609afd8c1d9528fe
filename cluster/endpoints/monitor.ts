// The load monitor: one loop per endpoint scrapes its metrics, asks which models it serves, and probes it while it is
// ejected. A loop never overlaps itself; what it learns goes to the set.
import type { Connections } from './connections.ts'
import type { EndpointId } from './endpoint.ts'
import { parseMetricsPage } from './metrics-page.ts'
import type { EndpointSet, ModelListing } from './set.ts'

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
  /** Told of changes worth a log line; never per scrape. */
  readonly onEvent: (event: MonitorEvent) => void
  readonly onScrape: (id: EndpointId, ok: boolean) => void
}

export type MonitorEvent =
  | { readonly type: 'models'; readonly endpoint: EndpointId; readonly models: readonly string[] }
  | { readonly type: 'ejected'; readonly endpoint: EndpointId; readonly cause: string }
  | { readonly type: 'recovered'; readonly endpoint: EndpointId }

export type Monitor = {
  /** Resolves when every endpoint was asked once, whatever it answered. */
  readonly firstRound: Promise<void>
  readonly stop: () => void
}

export function startMonitor(deps: MonitorDeps): Monitor {
  const stopped = new AbortController()
  const loops = deps.endpoints.ids().map((id) => watch(id, deps, stopped.signal))
  return {
    firstRound: Promise.all(loops).then(() => undefined),
    stop: () => stopped.abort(),
  }
}

/** Starts an endpoint's loop; resolves after its first round. */
async function watch(id: EndpointId, deps: MonitorDeps, stopped: AbortSignal): Promise<void> {
  const { endpoints, nowMs } = deps
  let modelsDueAtMs = 0
  let probeDueAtMs = 0
  let probeBackoffMs = IDLE_INTERVAL_MS
  let toldEjected = false

  async function round(): Promise<void> {
    await Promise.all([scrape(id, deps), nowMs() >= modelsDueAtMs ? listModels() : undefined])
    const cause = endpoints.ejected(id)
    if (cause !== undefined && !toldEjected) {
      toldEjected = true
      probeDueAtMs = nowMs()
      probeBackoffMs = IDLE_INTERVAL_MS
      deps.onEvent({ type: 'ejected', endpoint: id, cause })
    }
    if (cause !== undefined && nowMs() >= probeDueAtMs) await probe()
  }

  async function listModels(): Promise<void> {
    const models = await askModels(id, deps.connections)
    if (models === undefined) {
      if (!endpoints.answered(id)) endpoints.failed(id, 'its /v1/models does not answer')
      return
    }
    modelsDueAtMs = nowMs() + MODELS_INTERVAL_MS
    endpoints.modelsListed(id, models)
    deps.onEvent({ type: 'models', endpoint: id, models: models.map((model) => model.id) })
  }

  async function probe(): Promise<void> {
    if (await generates(id, deps.connections)) {
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

async function scrape(id: EndpointId, { endpoints, connections, onScrape }: MonitorDeps): Promise<void> {
  const page = await ask(id, connections, { path: '/metrics' }, SCRAPE_TIMEOUT_MS)
  const ok = page?.status === 200
  if (ok) endpoints.scraped(id, parseMetricsPage(page.body))
  else endpoints.scrapeFailed(id)
  onScrape(id, ok)
}

async function askModels(id: EndpointId, connections: Connections): Promise<readonly ModelListing[] | undefined> {
  const answer = await ask(id, connections, { path: '/v1/models' }, SCRAPE_TIMEOUT_MS)
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

/** One small question to an engine; undefined when it gave no answer in time. */
async function ask(
  id: EndpointId,
  connections: Connections,
  { path, body }: { readonly path: string; readonly body?: string },
  timeoutMs: number,
): Promise<{ readonly status: number; readonly body: Buffer } | undefined> {
  try {
    const answer = await connections.to(id).request({
      method: body === undefined ? 'GET' : 'POST',
      path,
      headers: { ...connections.headersFor(id), ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      body: body ?? null,
      signal: AbortSignal.timeout(timeoutMs),
    })
    const chunks: Buffer[] = []
    let bytes = 0
    for await (const chunk of answer.body as AsyncIterable<Buffer>) {
      bytes += chunk.length
      if (bytes > ANSWER_BYTES_MAX) return undefined
      chunks.push(chunk)
    }
    return { status: answer.statusCode, body: Buffer.concat(chunks, bytes) }
  } catch {
    return undefined
  }
}
