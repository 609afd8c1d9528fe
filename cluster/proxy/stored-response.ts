// Responses that an engine stored: fetched and cancelled where they lie.
import type { IncomingMessage, ServerResponse } from 'node:http'
import { errorShapeOf } from '../../shared/dialect.ts'
import { HEADER } from '../../shared/headers.ts'
import type { Rejection } from '../../shared/rejection.ts'
import { objectionTo, RESPONSE_GONE } from '../epp/decide.ts'
import { exchangeDeps, type ProxyDeps } from './deps.ts'
import { runExchange } from './exchange.ts'
import { engineHeaders } from './placement.ts'
import { type Arrival, newRecord, STORED_ROUTE, summaryOf, turnAway, UNREAD } from './record.ts'
import { DRAINING, pathOf } from './refuse.ts'
import { scopeOf } from './session-id.ts'

const GONE: Rejection = { ...RESPONSE_GONE, param: 'response_id' }

/** Fetches or cancels a stored response, at the engine that stored it. */
export async function answerStored(
  deps: ProxyDeps,
  arrival: Arrival,
  responseId: string,
  req: IncomingMessage,
  res: ServerResponse,
): Promise<void> {
  const startedAtMs = deps.nowMs()
  res.setHeader(HEADER.decision, arrival.id)
  if (deps.draining()) return turnAway(deps, arrival, startedAtMs, req, res, DRAINING)
  const { method = 'GET', url = '/' } = req
  const identified = deps.identify(method, url, req.headers, null)
  if (!identified.ok) return turnAway(deps, arrival, startedAtMs, req, res, identified.rejection)
  const { caller } = identified
  const endpoint = deps.pins.endpointOfResponse(responseId, scopeOf(caller, req.headers)(), deps.endpoints.ids())
  const objection = objectionTo(deps.endpoints.snapshot().find((view) => view.endpoint.id === endpoint))
  if (endpoint === undefined || objection) {
    const rejection = objection?.reason === 'no-endpoint' ? objection : GONE
    return turnAway(deps, arrival, startedAtMs, req, res, rejection, caller.tenant)
  }

  const admitted = await deps.admission.enter((left) => res.once('close', left))
  if (!admitted.ok) {
    if (!res.destroyed) turnAway(deps, arrival, startedAtMs, req, res, admitted.rejection, caller.tenant)
    return
  }
  if (res.destroyed) return admitted.leave()
  res.once('close', admitted.leave)

  const record = newRecord(arrival, UNREAD, caller.tenant, startedAtMs, deps.epochMs())
  record.stored = method === 'GET' ? 'fetched' : 'cancelled'
  deps.decisions.add(record)
  const leg = { method: method as 'GET' | 'POST', path: url, headers: engineHeaders(req, arrival.id), body: null }
  runExchange(
    exchangeDeps(deps),
    {
      destinationOf: () => ({ leg, predictedTokens: undefined, promptTokens: 0, cold: false, rank: undefined }),
      shape: errorShapeOf(pathOf(req)),
      withholdUsage: false,
      order: [endpoint],
      whenRefused: GONE,
      serving: () => ({}),
    },
    record,
    res,
    (status) => {
      admitted.leave()
      deps.metrics.answered(STORED_ROUTE, UNREAD.model, status)
      deps.log.info(summaryOf(record, status), 'request')
    },
  )
}
