// Responses that an engine stored: fetched and cancelled where they lie.
import type { IncomingMessage, ServerResponse } from 'node:http'
import { errorShapeOf } from '../../shared/dialect.ts'
import { HEADER } from '../../shared/headers.ts'
import { RESPONSE_GONE } from '../epp/decide.ts'
import { exchangeDeps, type ProxyDeps } from './deps.ts'
import { runExchange } from './exchange.ts'
import { engineHeaders } from './placement.ts'
import { type Arrival, newRecord, STORED_ROUTE, summaryOf, turnAway, UNREAD } from './record.ts'
import { DRAINING, pathOf } from './refuse.ts'
import { scopeOf } from './session-id.ts'

/** Fetches or cancels a stored response, at the engine that stored it. */
export function answerStored(
  deps: ProxyDeps,
  arrival: Arrival,
  responseId: string,
  req: IncomingMessage,
  res: ServerResponse,
): void {
  const startedAtMs = deps.nowMs()
  res.setHeader(HEADER.decision, arrival.id)
  if (deps.draining()) return turnAway(deps, arrival, startedAtMs, req, res, DRAINING)
  const { method = 'GET', url = '/' } = req
  const identified = deps.identify(method, url, req.headers, null)
  if (!identified.ok) return turnAway(deps, arrival, startedAtMs, req, res, identified.rejection)
  const { caller } = identified
  const endpoint = deps.pins.endpointOfResponse(responseId, scopeOf(caller, req.headers), deps.endpoints.ids())
  if (endpoint === undefined || deps.endpoints.ejected(endpoint) !== undefined) {
    const rejection = { ...RESPONSE_GONE, param: 'response_id' }
    return turnAway(deps, arrival, startedAtMs, req, res, rejection, caller.tenant)
  }
  const record = newRecord(arrival, UNREAD, caller.tenant, startedAtMs, deps.epochMs())
  record.stored = method === 'GET' ? 'fetched' : 'cancelled'
  deps.decisions.add(record)
  const leg = { method: method as 'GET' | 'POST', path: url, headers: engineHeaders(req, arrival.id), body: null }
  runExchange(
    exchangeDeps(deps),
    {
      legFor: () => leg,
      dialect: arrival.dialect,
      shape: errorShapeOf(pathOf(req)),
      withholdUsage: false,
      promptTokens: 0,
      cachedTokensAt: () => undefined,
      order: [endpoint],
      serving: () => ({}),
    },
    record,
    res,
    (status) => {
      deps.metrics.answered(STORED_ROUTE, UNREAD.model, status)
      deps.log.info(summaryOf(record, status), 'request')
    },
  )
}
