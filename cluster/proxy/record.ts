// What is written down of a request while it goes on: its decision record, its log line, and how well its cached tokens were
// predicted.
import type { IncomingMessage, ServerResponse } from 'node:http'
import { type Dialect, responseRouteOf } from '../../shared/dialect.ts'
import type { Rejection } from '../../shared/rejection.ts'
import type { DecisionRecord } from '../epp/decision-log.ts'
import type { ProxyDeps } from './deps.ts'
import type { EngineRequest } from './engine-request.ts'
import { pathOf, refuse } from './refuse.ts'

export type Arrival = { readonly dialect: Dialect; readonly requestId: string; readonly id: string }

/** Ids are no labels. */
export const STORED_ROUTE = '/v1/responses/{id}'

/** What is known of a request before it is read. */
export const UNREAD = { model: 'unknown', stream: false, promptTokensEstimate: 0 }

export function newRecord(
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
    promptTokens: promptTokensEstimate,
    tokensUnknown: undefined,
    lookedUpBy: undefined,
    predictedCachedTokens: undefined,
    session: undefined,
    stored: undefined,
    cache: undefined,
    waitedMs: 0,
    gatherMs: 0,
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
export function summaryOf(record: DecisionRecord, status: number): Record<string, unknown> {
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
    cache: record.cache?.outcome,
    ttftMs: firstByteAtMs === undefined ? undefined : Math.round(firstByteAtMs - startedAtMs),
    predictedCachedTokens: record.predictedCachedTokens,
    durationMs: endedAtMs === undefined ? undefined : Math.round(endedAtMs - startedAtMs),
    ...usage,
  }
}

/** Refused before there was anything to decide: its id finds that in `why` like any other. */
export function turnAway(
  deps: ProxyDeps,
  arrival: Arrival,
  startedAtMs: number,
  req: IncomingMessage,
  res: ServerResponse,
  rejection: Rejection,
  tenant?: string,
): void {
  const record = newRecord(arrival, UNREAD, tenant, startedAtMs, deps.epochMs())
  record.rejection = rejection
  record.outcome = `refused: ${rejection.reason}`
  record.endedAtMs = deps.nowMs()
  deps.decisions.add(record)
  deps.metrics.refused(rejection.reason)
  const path = pathOf(req)
  const { status } = refuse(res, path, rejection)
  deps.metrics.answered(responseRouteOf(path) ? STORED_ROUTE : path, UNREAD.model, status)
  deps.log.info(summaryOf(record, status), 'request')
}

/** The prediction beside what the engine says. */
export function compare(
  { accuracy, metrics, endpoints }: ProxyDeps,
  { attempts, predictedCachedTokens: predicted, usage }: DecisionRecord,
): void {
  const endpoint = attempts.at(-1)?.endpoint
  const actual = usage?.cachedTokens
  if (endpoint === undefined || predicted === undefined || actual === undefined) return
  // One that is gone meanwhile has been forgotten.
  if (!endpoints.has(endpoint)) return
  const { promptTokens = 0 } = usage ?? {}
  accuracy.add(endpoint, { predicted, actual, promptTokens })
  metrics.predicted(endpoint, predicted, actual)
}
