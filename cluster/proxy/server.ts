// The router's door: HTTP in, an engine's answer out. `answer` tells a request's story from top to bottom; everything it
// calls is a step.
import { randomBytes } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Logger } from 'pino'
import { DIALECT_OF_PATH, type Dialect, errorShapeOf } from '../../shared/dialect.ts'
import { acceptableRequestId, ENGINE_FORWARDED_HEADERS, HEADER } from '../../shared/headers.ts'
import { type Rejection, rejectionToHttp } from '../../shared/rejection.ts'
import type { EndpointSet } from '../endpoints/set.ts'
import type { Admission } from '../epp/admission.ts'
import { decide, type Profiles } from '../epp/decide.ts'
import { type DecisionLog, type DecisionRecord, trimRun } from '../epp/decision-log.ts'
import type { SendLeg } from '../legs/leg.ts'
import type { IdentifyCaller } from './caller.ts'
import { type EngineRequest, prepareEngineRequest } from './engine-request.ts'
import { type ExchangeDeps, runExchange, type Timeouts } from './exchange.ts'
import type { RouterMetrics } from './metrics.ts'
import { type BodyBudget, readBody } from './read-body.ts'

export type ProxyDeps = {
  readonly profiles: () => Profiles
  readonly endpoints: EndpointSet
  readonly admission: Admission
  readonly identify: IdentifyCaller
  readonly send: SendLeg
  readonly decisions: DecisionLog
  readonly metrics: RouterMetrics
  readonly log: Logger
  readonly timeouts: Timeouts & { readonly headerMs: number }
  readonly bodyBytesMax: number
  readonly bodies: BodyBudget
  readonly random: () => number
  readonly nowMs: () => number
  readonly epochMs: () => number
  /** Asked to stop: those who watch readiness are told, requests are still served. */
  readonly notReady: () => boolean
  /** Stopping: new requests on connections that are still open are refused. */
  readonly draining: () => boolean
}

/** How long an idle connection of a caller is kept: longer than the proxies in front keep theirs. */
const CALLER_KEEP_ALIVE_MS = 75_000
/** How often overdue headers and bodies are looked for. */
const TIMEOUT_CHECK_MS = 1_000

export function createProxy(deps: ProxyDeps): Server {
  const server = createServer(
    {
      keepAliveTimeout: CALLER_KEEP_ALIVE_MS,
      headersTimeout: deps.timeouts.headerMs,
      requestTimeout: deps.timeouts.headerMs * 2,
      connectionsCheckingInterval: TIMEOUT_CHECK_MS,
    },
    (req, res) => route(deps, nextId(), req, res),
  )
  const nextId = createIds()
  server.on('clientError', refuseUnreadable)
  return server
}

function route(deps: ProxyDeps, id: string, req: IncomingMessage, res: ServerResponse): void {
  const path = pathOf(req)
  const requestId = acceptableRequestId(headerOf(req, HEADER.requestId)) ?? `req_${id}`
  res.setHeader(HEADER.requestId, requestId)

  if (path === '/healthz') return sendJson(res, 200, { status: 'ok' })
  if (path === '/readyz') return ready(deps, res)
  const dialect = DIALECT_OF_PATH[path]
  if (dialect) {
    if (req.method !== 'POST') return refuseMethod(req, res, 'POST')
    return receive(deps, { dialect, requestId, id: `d-${id}` }, req, res)
  }
  if (path === '/v1/models' || path.startsWith('/v1/models/')) {
    if (req.method !== 'GET') return refuseMethod(req, res, 'GET')
    return listModels(deps, path, req, res)
  }
  refuse(res, path, { reason: 'route-not-found', message: `Unknown route: ${req.method} ${path}.` })
}

type Arrival = { readonly dialect: Dialect; readonly requestId: string; readonly id: string }

/** Reads the body, then answers. */
function receive(deps: ProxyDeps, arrival: Arrival, req: IncomingMessage, res: ServerResponse): void {
  const startedAtMs = deps.nowMs()
  res.setHeader(HEADER.decision, arrival.id)
  const rejection = deps.draining() ? DRAINING : (objectionToHead(req) ?? deps.bodies.enter(req, res))
  if (rejection) {
    turnAway(deps, arrival, startedAtMs, req, res, rejection)
    return
  }
  readBody(req, deps.bodyBytesMax, (read) => {
    if (read.ok) {
      answer(deps, arrival, startedAtMs, req, read.body, res).catch((error: unknown) => fail(deps, req, res, error))
      return
    }
    turnAway(deps, arrival, startedAtMs, req, res, read.rejection)
  })
}

/** What is known of a request before it is read. */
const UNREAD = { model: 'unknown', stream: false, promptTokensEstimate: 0 }

/** Refused before there was anything to decide: its id finds that in `why` like any other. */
function turnAway(
  deps: ProxyDeps,
  arrival: Arrival,
  startedAtMs: number,
  req: IncomingMessage,
  res: ServerResponse,
  rejection: Rejection,
): void {
  const record = newRecord(arrival, UNREAD, undefined, startedAtMs, deps.epochMs())
  record.rejection = rejection
  record.outcome = `refused: ${rejection.reason}`
  record.endedAtMs = deps.nowMs()
  deps.decisions.add(record)
  deps.metrics.refused(rejection.reason)
  const { status } = refuse(res, pathOf(req), rejection)
  deps.metrics.answered(pathOf(req), UNREAD.model, status)
  deps.log.info(summaryOf(record, status), 'request')
}

/** A bug of ours: the caller gets a clear answer, the log gets the rest, and the process goes on. */
function fail({ log }: ProxyDeps, req: IncomingMessage, res: ServerResponse, error: unknown): void {
  log.error({ err: error, path: pathOf(req) }, 'internal error')
  if (res.headersSent) res.destroy()
  else refuse(res, pathOf(req), { reason: 'internal', message: 'The router failed on this request.' })
}

async function answer(
  deps: ProxyDeps,
  arrival: Arrival,
  startedAtMs: number,
  req: IncomingMessage,
  body: Buffer,
  res: ServerResponse,
): Promise<void> {
  const { admission, decisions, endpoints, metrics, nowMs } = deps
  const shape = errorShapeOf(pathOf(req))

  const identified = deps.identify('POST', req.url ?? '', req.headers, body)
  if (!identified.ok) return turnAway(deps, arrival, startedAtMs, req, res, identified.rejection)
  const prepared = prepareEngineRequest(arrival.dialect, body, identified.caller.trusted)
  if (!prepared.ok) return turnAway(deps, arrival, startedAtMs, req, res, prepared.rejection)
  const { request } = prepared
  // What outlives the sending must not hold the prompt.
  const { model } = request

  const record = newRecord(arrival, request, identified.caller.tenant, startedAtMs, deps.epochMs())
  const enteredAtMs = nowMs()
  const admitted = await admission.enter((left) => res.once('close', left))
  record.waitedMs = nowMs() - enteredAtMs
  if (res.destroyed) {
    if (admitted.ok) admitted.leave()
    return conclude('the caller left while it waited', 499)
  }
  if (!admitted.ok) return turnDown(admitted.rejection)
  // Whatever happens below, the place is given back. Leaving twice is harmless.
  res.once('close', admitted.leave)

  const decidedAtMs = nowMs()
  const scheduling = { model, promptTokens: request.promptTokensEstimate }
  const { decode, rejection } = decide(deps.profiles(), scheduling, endpoints.snapshot(), deps.random)
  record.decideMs = nowMs() - decidedAtMs
  record.run = trimRun(decode)
  record.candidatesTotal = decode.candidates.length
  metrics.decided(record.decideMs / 1_000)
  if (rejection) {
    admitted.leave()
    return turnDown(rejection)
  }

  decisions.add(record)
  const leg = {
    method: 'POST',
    path: pathOf(req),
    headers: engineHeaders(req, arrival.id),
    body: request.body,
  } as const
  const { withholdUsage, promptTokensEstimate: promptTokens } = request
  runExchange(
    exchangeDeps(deps),
    { leg, shape, withholdUsage, promptTokens, order: decode.order },
    record,
    res,
    (status) => {
      admitted.leave()
      if (record.attempts.length > 1) metrics.retried()
      finish(status)
    },
  )

  /** Refused by admission or decision: `why` tells. */
  function turnDown(rejection: Rejection): void {
    record.rejection = rejection
    metrics.refused(rejection.reason)
    const { status } = refuse(res, pathOf(req), rejection)
    conclude(`refused: ${rejection.reason}`, status)
  }

  function conclude(outcome: string, status: number): void {
    record.outcome = outcome
    record.endedAtMs = nowMs()
    decisions.add(record)
    finish(status)
  }

  function finish(status: number): void {
    // Any other name is the caller's invention: labels are bounded.
    metrics.answered(pathOf(req), record.run?.chosen ? model : 'unknown', status)
    deps.log.info(summaryOf(record, status), 'request')
  }
}

function exchangeDeps({ send, endpoints, timeouts, nowMs, metrics }: ProxyDeps): ExchangeDeps {
  return { send, endpoints, timeouts, nowMs, onFirstByte: metrics.firstByte, onChunk: metrics.chunk }
}

function newRecord(
  { id, requestId, dialect }: Arrival,
  { model, stream, promptTokensEstimate }: Pick<EngineRequest, 'model' | 'stream' | 'promptTokensEstimate'>,
  tenant: string | undefined,
  startedAtMs: number,
  atEpochMs: number,
): DecisionRecord {
  return {
    id,
    atEpochMs,
    startedAtMs,
    requestId,
    tenant,
    dialect,
    model,
    stream,
    promptTokensEstimate,
    waitedMs: 0,
    decideMs: 0,
    run: undefined,
    candidatesTotal: 0,
    rejection: undefined,
    attempts: [],
    firstByteAtMs: undefined,
    endedAtMs: undefined,
    outcome: undefined,
    usage: undefined,
  }
}

/** One line per request: never a body, never a key. */
function summaryOf(record: DecisionRecord, status: number): Record<string, unknown> {
  const { id, requestId, tenant, dialect, model, stream, attempts, startedAtMs, firstByteAtMs, endedAtMs, usage } =
    record
  return {
    decision: id,
    requestId,
    tenant,
    dialect,
    model,
    stream,
    status,
    endpoint: attempts.at(-1)?.endpoint,
    attempts: attempts.length,
    outcome: record.outcome,
    ttftMs: firstByteAtMs === undefined ? undefined : Math.round(firstByteAtMs - startedAtMs),
    durationMs: endedAtMs === undefined ? undefined : Math.round(endedAtMs - startedAtMs),
    ...usage,
  }
}

/**
 * Built from an allow-list: routing headers, whoever sent them, never reach an engine. The decision's id goes along as
 * the request's, so that the engine's logs and the answer's own id lead back to `why`.
 */
function engineHeaders(req: IncomingMessage, decisionId: string): Record<string, string> {
  const headers: Record<string, string> = { 'content-type': 'application/json', [HEADER.requestId]: decisionId }
  for (const name of ENGINE_FORWARDED_HEADERS) {
    const value = headerOf(req, name)
    if (value !== undefined) headers[name] = value
  }
  return headers
}

function listModels(deps: ProxyDeps, path: string, req: IncomingMessage, res: ServerResponse): void {
  const identified = deps.identify('GET', req.url ?? '', req.headers, null)
  if (!identified.ok) {
    refuse(res, path, identified.rejection)
    return
  }
  const models = deps.endpoints.modelList()
  if (path === '/v1/models') return sendJson(res, 200, { object: 'list', data: models })
  const id = decodeModelId(path.slice('/v1/models/'.length))
  const model = models.find((listed) => listed.id === id)
  if (model) return sendJson(res, 200, model)
  refuse(res, path, { reason: 'model-not-found', message: `The model \`${id}\` does not exist.`, param: 'model' })
}

function decodeModelId(encoded: string): string {
  try {
    return decodeURIComponent(encoded)
  } catch {
    return encoded
  }
}

function ready({ notReady, endpoints }: ProxyDeps, res: ServerResponse): void {
  const answering = endpoints.snapshot().filter(({ models }) => models !== undefined).length
  const isReady = !notReady() && answering > 0
  const status = notReady() ? 'draining' : isReady ? 'ready' : 'no engine has answered yet'
  sendJson(res, isReady ? 200 : 503, { status, endpoints: answering })
}

const DRAINING: Rejection = { reason: 'draining', message: 'This router is shutting down.', retryAfterSeconds: 1 }

function objectionToHead(req: IncomingMessage): Rejection | undefined {
  const contentType = headerOf(req, 'content-type')?.split(';')[0]?.trim().toLowerCase()
  if (contentType === 'application/json') return undefined
  const message = `The content type must be application/json, not ${contentType ?? 'absent'}.`
  return { reason: 'unsupported-media-type', message, param: 'content-type' }
}

function refuseMethod(req: IncomingMessage, res: ServerResponse, allow: string): void {
  res.setHeader('allow', allow)
  const message = `${req.method} is not allowed on ${pathOf(req)}; use ${allow}.`
  refuse(res, pathOf(req), { reason: 'method-not-allowed', message })
}

function refuse(res: ServerResponse, path: string, rejection: Rejection): { readonly status: number } {
  const { status, headers, body } = rejectionToHttp(rejection, errorShapeOf(path))
  for (const [name, value] of Object.entries(headers)) res.setHeader(name, value)
  res.setHeader('content-length', Buffer.byteLength(body))
  res.writeHead(status)
  res.end(body)
  return { status }
}

/** A peer that was told off may never close its half of the connection. */
const LINGER_MS = 1_000

/** Something that is not HTTP, or that came too slowly: there is no request to answer, only a socket. */
function refuseUnreadable(error: NodeJS.ErrnoException, connection: Duplex): void {
  // An answer is, or was, under way there: what is written now would stand in the middle of it.
  if (!connection.writable || (connection as Socket).bytesWritten > 0) {
    connection.destroy()
    return
  }
  const { status, headers, body } = rejectionToHttp(unreadable(error), 'openai')
  const lines = Object.entries({ ...headers, 'content-length': String(Buffer.byteLength(body)), connection: 'close' })
  const head = lines.map(([name, value]) => `${name}: ${value}`).join('\r\n')
  connection.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${head}\r\n\r\n${body}`)
  setTimeout(() => connection.destroy(), LINGER_MS).unref()
}

function unreadable({ code }: NodeJS.ErrnoException): Rejection {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return { reason: 'request-timeout', message: 'The request did not arrive in time.' }
  if (code === 'HPE_HEADER_OVERFLOW')
    return { reason: 'headers-too-large', message: 'The headers are larger than 16 KB.' }
  return { reason: 'invalid-header', message: 'The request is not valid HTTP.' }
}

function sendJson(res: ServerResponse, status: number, value: unknown): void {
  const body = JSON.stringify(value)
  res.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) })
  res.end(body)
}

function pathOf(req: IncomingMessage): string {
  const url = req.url ?? '/'
  const query = url.indexOf('?')
  return query === -1 ? url : url.slice(0, query)
}

function headerOf(req: IncomingMessage, name: string): string | undefined {
  const value = req.headers[name]
  return typeof value === 'string' ? value : undefined
}

/** Unique across restarts and replicas, short enough to read out. */
function createIds(): () => string {
  const prefix = randomBytes(5).toString('hex')
  let count = 0
  return () => `${prefix}-${(++count).toString(36)}`
}
