// The operator's door, on a port of its own: metrics, decisions in words and as data, endpoints as the router sees them.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { Registry } from 'prom-client'
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { EndpointSet } from '../endpoints/set.ts'
import type { AccuracyLedger } from '../epp/accuracy.ts'
import { ERROR_EDGES } from '../epp/confidence.ts'
import { decisionIdOf } from '../epp/decision-id.ts'
import type { DecisionLog, DecisionRecord } from '../epp/decision-log.ts'
import { explain } from '../epp/explain.ts'
import type { TokenizerState } from '../tokens/router-tokenizer.ts'

export type AdminDeps = {
  readonly registry: Registry
  readonly decisions: DecisionLog
  readonly endpoints: EndpointSet
  readonly accuracy: AccuracyLedger
  /** What is known of an endpoint's KV cache, and how. */
  readonly cacheOf: (id: EndpointId) => unknown
  /** Models whose prompts are read here, or would be if the engines agreed. */
  readonly tokenizers: () => ReadonlyMap<string, TokenizerState>
  /** `/score`, `/events` and `/snapshot`. */
  readonly kvDoor: (url: URL, req: IncomingMessage, res: ServerResponse) => boolean
  readonly ready: () => boolean
}

const LIST_DEFAULT = 20
const LIST_MAX = 1_000

export function createAdmin(deps: AdminDeps): Server {
  return createServer((req, res) => {
    // An unusual path like `//` is no URL to the parser.
    const url = URL.parse(req.url ?? '/', 'http://admin')
    if (!url) return sendText(res, 400, 'this is not a path\n')
    if (deps.kvDoor(url, req, res)) return
    if (req.method !== 'GET' && req.method !== 'HEAD') return sendText(res, 405, 'only GET here\n')
    if (url.pathname === '/healthz') return sendText(res, 200, 'ok\n')
    if (url.pathname === '/readyz')
      return deps.ready() ? sendText(res, 200, 'ready\n') : sendText(res, 503, 'not ready\n')
    if (url.pathname === '/metrics') return void sendMetrics(deps.registry, res).catch(() => res.destroy())
    if (url.pathname === '/endpoints') return sendJson(res, 200, listEndpoints(deps))
    if (url.pathname === '/tokenizers') return sendJson(res, 200, Object.fromEntries(deps.tokenizers()))
    if (url.pathname === '/accuracy') return sendJson(res, 200, tellAccuracy(deps))
    if (url.pathname === '/decisions') return listDecisions(deps.decisions, url, req, res)
    if (url.pathname.startsWith('/decisions/')) {
      return tellDecision(deps.decisions, url.pathname.slice('/decisions/'.length), req, res)
    }
    sendText(
      res,
      404,
      'here are /decisions, /decisions/<id>, /endpoints, /accuracy, /tokenizers, /score, /events, /snapshot, /metrics, /healthz and /readyz\n',
    )
  })
}

function listDecisions(decisions: DecisionLog, url: URL, req: IncomingMessage, res: ServerResponse): void {
  const wanted = Number(url.searchParams.get('limit') ?? LIST_DEFAULT)
  const count = Number.isInteger(wanted) && wanted > 0 ? Math.min(wanted, LIST_MAX) : LIST_DEFAULT
  const records = decisions.newest(count)
  if (wantsText(req)) sendText(res, 200, records.map((record) => `${explain(record)}\n`).join('\n'))
  else sendJson(res, 200, records.map(tell))
}

function tellDecision(decisions: DecisionLog, id: string, req: IncomingMessage, res: ServerResponse): void {
  const record = decisions.find(decisionIdOf(id))
  if (!record) {
    const message = `no decision ${id} is remembered here: it is too old, or another router made it`
    if (wantsText(req)) return sendText(res, 404, `${message}\n`)
    return sendJson(res, 404, { error: message })
  }
  if (wantsText(req)) sendText(res, 200, `${explain(record)}\n`)
  else sendJson(res, 200, tell(record))
}

function tell(record: DecisionRecord): unknown {
  const { run, ...rest } = record
  return {
    ...rest,
    words: explain(record),
    profile: run?.profile.name,
    chosen: run?.chosen?.endpoint.id,
    sessionOutcome: run?.session,
    candidates: run?.candidates.map(({ view, prefix, filtered, scores, total }) => ({
      endpoint: view.endpoint.id,
      role: view.endpoint.role,
      cachedTokens: prefix?.matchedTokens,
      filtered,
      total,
      scores: Object.fromEntries(run.profile.scorers.map(({ name }, column) => [name, scores[column] ?? null])),
      load: view.load,
    })),
  }
}

function listEndpoints({ endpoints, accuracy, cacheOf }: AdminDeps): unknown {
  return endpoints.snapshot().map(({ endpoint, ...view }) => {
    // Never the API key.
    const { id, origin, role, labels } = endpoint
    return { id, origin, role, labels, ...view, cache: cacheOf(id), accuracy: accuracy.of(id) }
  })
}

function tellAccuracy({ endpoints, accuracy }: AdminDeps): unknown {
  const each = endpoints.ids().map((id) => {
    const { errors, ...sums } = accuracy.of(id)
    return [
      id,
      { ...sums, errors: inWords(errors), confidence: accuracy.confidence(id), bias: accuracy.bias(id) },
    ] as const
  })
  const { errors, ...total } = accuracy.total()
  return { total: { ...total, errors: inWords(errors) }, endpoints: Object.fromEntries(each) }
}

/** A histogram of errors, by the ranges of its buckets. */
function inWords(errors: readonly number[]): Record<string, number> {
  return Object.fromEntries(
    errors.map((count, at) => {
      const [low, high] = [ERROR_EDGES[at - 1], ERROR_EDGES[at]]
      const first = low === undefined ? undefined : low + 1
      if (first === undefined) return [`to ${high}`, count]
      if (high === undefined) return [`from ${first}`, count]
      return [first === high ? String(high) : `${first} to ${high}`, count]
    }),
  )
}

async function sendMetrics(registry: Registry, res: ServerResponse): Promise<void> {
  const page = await registry.metrics()
  res.writeHead(200, { 'content-type': registry.contentType })
  res.end(page)
}

function wantsText(req: IncomingMessage): boolean {
  return req.headers.accept?.startsWith('text/plain') === true
}

function sendJson(res: ServerResponse, status: number, value: unknown): void {
  res.writeHead(status, { 'content-type': 'application/json' })
  res.end(`${JSON.stringify(value)}\n`)
}

function sendText(res: ServerResponse, status: number, text: string): void {
  res.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' })
  res.end(text)
}
