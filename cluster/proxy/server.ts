// The router's door: HTTP in, an engine's answer out. `answer` tells a request's story from top to bottom; everything it
// calls is a step.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { DIALECT_OF_PATH, errorShapeOf, requestIdHeaders, responseRouteOf } from '../../shared/dialect.ts'
import { acceptableRequestId, HEADER } from '../../shared/headers.ts'
import type { Rejection } from '../../shared/rejection.ts'
import { gatherPrompt } from '../epp/context.ts'
import { decide, RESPONSE_GONE } from '../epp/decide.ts'
import { createDecisionIds } from '../epp/decision-id.ts'
import { trimRun } from '../epp/decision-log.ts'
import { askCache, sendStored } from './cache-step.ts'
import { exchangeDeps, type ProxyDeps } from './deps.ts'
import { prepareEngineRequest } from './engine-request.ts'
import { runExchange } from './exchange.ts'
import { listModels } from './models.ts'
import { destinationsOf, originOf, servedBy } from './placement.ts'
import { readBody } from './read-body.ts'
import { type Arrival, compare, newRecord, summaryOf, turnAway } from './record.ts'
import { DRAINING, headerOf, pathOf, refuse, refuseMethod, refuseUnreadable, sendJson } from './refuse.ts'
import { scopeOf } from './session-id.ts'
import { answerStored } from './stored-response.ts'

/** How long an idle connection of a caller is kept: longer than the proxies in front keep theirs. */
const CALLER_KEEP_ALIVE_MS = 75_000
/** How often overdue headers and bodies are looked for. */
const TIMEOUT_CHECK_MS = 1_000

export function createProxy(deps: ProxyDeps): Server {
  const server = createServer(
    {
      keepAliveTimeout: CALLER_KEEP_ALIVE_MS,
      headersTimeout: deps.headerMs,
      requestTimeout: deps.headerMs * 2,
      connectionsCheckingInterval: TIMEOUT_CHECK_MS,
    },
    (req, res) => route(deps, nextId(), req, res),
  )
  const nextId = createDecisionIds()
  server.on('clientError', refuseUnreadable)
  return server
}

function route(deps: ProxyDeps, id: string, req: IncomingMessage, res: ServerResponse): void {
  const path = pathOf(req)
  const requestId = acceptableRequestId(headerOf(req, HEADER.requestId)) ?? `req_${id}`
  for (const name of requestIdHeaders(errorShapeOf(path))) res.setHeader(name, requestId)

  if (path === '/healthz') return sendJson(res, 200, { status: 'ok' })
  if (path === '/readyz') return ready(deps, res)
  const dialect = DIALECT_OF_PATH[path]
  if (dialect) {
    if (req.method !== 'POST') return refuseMethod(req, res, 'POST')
    return receive(deps, { dialect, requestId, id }, req, res)
  }
  const stored = responseRouteOf(path)
  if (stored) {
    const method = stored.action === 'retrieve' ? 'GET' : 'POST'
    if (req.method !== method) return refuseMethod(req, res, method)
    const arrival = { dialect: 'responses', requestId, id } as const
    answerStored(deps, arrival, stored.id, req, res).catch((error: unknown) => fail(deps, req, res, error))
    return
  }
  if (path === '/v1/models' || path.startsWith('/v1/models/')) {
    if (req.method !== 'GET') return refuseMethod(req, res, 'GET')
    return listModels(deps, path, req, res)
  }
  refuse(res, path, { reason: 'route-not-found', message: `Unknown route: ${req.method} ${path}.` })
}

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
  const { caller } = identified
  const { request } = prepared
  // What outlives the sending must not hold the prompt.
  const { model } = request

  const record = newRecord(arrival, request, caller.tenant, startedAtMs, deps.epochMs())
  const version = caller.trusted ? deps.caching.modelVersion(model) : undefined
  const cached = await askCache(deps.caching, caller, request, req, res)
  record.cache = cached.note
  res.setHeader('cache-status', cached.status)
  if (res.destroyed) return conclude('the caller left while it waited for an equal request', 499)
  if (cached.kind === 'refused') return turnDown(cached.rejection)
  if (cached.kind === 'stored') {
    if (version !== undefined) res.setHeader(HEADER.modelVersion, version)
    sendStored(res, cached, request, arrival.id, deps.epochMs())
    return conclude('answered from the response cache', 200)
  }

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

  const gatheredAtMs = nowMs()
  const facts = await gatherPrompt(deps.gather, request, endpoints.snapshot())
  record.gatherMs = nowMs() - gatheredAtMs
  record.promptTokens = facts.promptTokens
  record.tokensUnknown = facts.tokensUnknown
  record.lookedUpBy = facts.lookedUpBy
  if (deps.gather.knowsCaches()) metrics.gathered(record.gatherMs / 1_000, facts.tokensUnknown === undefined)
  if (res.destroyed) return conclude('the caller left while its prompt was looked up', 499)

  const scope = scopeOf(caller, req.headers)
  const origin = originOf(deps, caller, request, req, scope)
  record.session = origin.session?.source
  if (request.previousResponseId !== undefined && origin.bound === undefined) {
    admitted.leave()
    return turnDown(RESPONSE_GONE)
  }
  const decidedAtMs = nowMs()
  const { promptTokens, prefixes } = facts
  const scheduling = { model, promptTokens, prefixes, session: origin.session?.endpoint, bound: origin.bound }
  const { decode, rejection } = decide(deps.profiles(), scheduling, endpoints.snapshot(), deps.random)
  record.decideMs = nowMs() - decidedAtMs
  record.run = trimRun(decode)
  record.candidatesTotal = decode.candidates.length
  metrics.decided(record.decideMs / 1_000)
  if (decode.session) metrics.sessionPlaced(decode.session.kind)
  if (rejection) {
    admitted.leave()
    return turnDown(rejection)
  }

  decisions.add(record)
  const placed = facts.chain && deps.guesses.follow(facts.chain, prefixes)
  const served = servedBy(deps, caller, origin.session)
  /** The edge makes its own keys of it. What changed meanwhile is not told: who answers may be either. */
  const tellVersion = () =>
    version !== undefined && deps.caching.modelVersion(model) === version ? { [HEADER.modelVersion]: version } : {}
  runExchange(
    exchangeDeps(deps),
    {
      destinationOf: destinationsOf(deps, req, arrival.id, request, scope, facts),
      shape,
      withholdUsage: request.withholdUsage,
      order: decode.order,
      whenRefused: origin.bound && RESPONSE_GONE,
      keeping: cached.keeping,
      sent: (endpoint) => placed?.sent(endpoint),
      serving: (endpoint) => {
        placed?.firstByte()
        return { ...served(endpoint), ...tellVersion() }
      },
    },
    record,
    res,
    (status) => {
      admitted.leave()
      if (record.attempts.length > 1) metrics.retried()
      placed?.over()
      compare(deps, record)
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
    const known = record.run?.chosen !== undefined || cached.kind === 'stored'
    metrics.answered(pathOf(req), known ? model : 'unknown', status)
    deps.log.info(summaryOf(record, status), 'request')
  }
}

function ready({ notReady, endpoints }: ProxyDeps, res: ServerResponse): void {
  const answering = endpoints.snapshot().filter(({ models }) => models !== undefined).length
  const isReady = !notReady() && answering > 0
  const status = notReady() ? 'draining' : isReady ? 'ready' : 'no engine has answered yet'
  sendJson(res, isReady ? 200 : 503, { status, endpoints: answering })
}

function objectionToHead(req: IncomingMessage): Rejection | undefined {
  const contentType = headerOf(req, 'content-type')?.split(';')[0]?.trim().toLowerCase()
  if (contentType === 'application/json') return undefined
  const message = `The content type must be application/json, not ${contentType ?? 'absent'}.`
  return { reason: 'unsupported-media-type', message, param: 'content-type' }
}
