// What a request brings to its placement and takes from it: where its conversation was before, what each endpoint would be
// sent, and who is told which endpoint serves.
import type { IncomingMessage } from 'node:http'
import { ENGINE_FORWARDED_HEADERS, HEADER } from '../../shared/headers.ts'
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { PromptFacts } from '../epp/context.ts'
import { countedTokens } from '../kv/prefix-match.ts'
import { chooseRank } from '../scheduling/rank.ts'
import type { Caller } from './caller.ts'
import type { ProxyDeps } from './deps.ts'
import { type EngineRequest, withResponseId } from './engine-request.ts'
import type { Destination } from './exchange.ts'
import { headerOf, pathOf } from './refuse.ts'
import { type Scope, type SessionId, sessionIdOf } from './session-id.ts'

export type Origin = {
  readonly session:
    | (Pick<SessionId, 'source'> & { readonly key: string | undefined; readonly endpoint: EndpointId | undefined })
    | undefined
  /** Where the response lies that the request continues. */
  readonly bound: EndpointId | undefined
}

/** Where the conversation was before: by the edge's word, by the caller's, or by the response that it continues. */
export function originOf(
  { pins, sessions, endpoints }: ProxyDeps,
  caller: Caller,
  request: EngineRequest,
  req: IncomingMessage,
  scope: Scope,
): Origin {
  const { previousResponseId, promptCacheKey } = request
  const bound =
    previousResponseId === undefined ? undefined : pins.endpointOfResponse(previousResponseId, scope(), endpoints.ids())
  const named = sessionIdOf(req.headers, promptCacheKey, scope)
  if (caller.pin !== undefined) {
    const endpoint = pins.endpointOfPin(caller.pin, endpoints.ids())
    return { session: { source: HEADER.sessionToken, key: named?.key, endpoint }, bound }
  }
  return { session: named && { ...named, endpoint: sessions.find(named.key) }, bound }
}

/** Remembers who serves the session, and tells the edge. */
export function servedBy({ pins, sessions }: ProxyDeps, { trusted }: Caller, session: Origin['session']) {
  return (endpoint: EndpointId): Readonly<Record<string, string>> => {
    if (session?.key !== undefined) sessions.served(session.key, endpoint)
    return trusted ? { [HEADER.pin]: pins.pinOf(endpoint) } : {}
  }
}

/** A scope of its own, so that nothing but the exchange holds the body. */
export function destinationsOf(
  { pins, endpoints }: Pick<ProxyDeps, 'pins' | 'endpoints'>,
  req: IncomingMessage,
  decisionId: string,
  { dialect, body, readsPrefixCache }: EngineRequest,
  scope: Scope,
  { promptTokens, prefixes }: Pick<PromptFacts, 'promptTokens' | 'prefixes'>,
): (endpoint: EndpointId) => Destination {
  const path = pathOf(req)
  const headers = engineHeaders(req, decisionId)
  return (endpoint) => {
    const prefix = prefixes.get(endpoint)
    const active = (): number =>
      endpoints.snapshot().find((view) => view.endpoint.id === endpoint)?.load.activeRequests ?? 0
    const { rank, cachedTokens: held } =
      prefix === undefined || prefix.ranks.length === 1
        ? { rank: undefined, cachedTokens: prefix?.matchedTokens }
        : chooseRank(prefix, (each) => endpoints.sentToRank(endpoint, each), active())
    const isGuess = prefix?.approximate === true || prefix?.comingTokens !== undefined
    const counted = readsPrefixCache ? Math.max(held ?? 0, prefix ? countedTokens(prefix) : 0) : 0
    const named = rank === undefined ? {} : { [RANK_HEADER]: String(rank) }
    const sent = dialect === 'responses' ? withResponseId(body, pins.responseId(endpoint, scope(), decisionId)) : body
    return {
      leg: { method: 'POST', path, headers: { ...headers, ...named }, body: sent },
      predictedTokens: isGuess ? undefined : held && (readsPrefixCache ? held : 0),
      promptTokens: promptTokens - counted,
      cold: counted === 0,
      rank,
    }
  }
}

/** vLLM's, between the ranks of one server. */
const RANK_HEADER = 'x-data-parallel-rank'

/**
 * Built from an allow-list: routing headers, whoever sent them, never reach an engine. The decision's id goes along as
 * the request's, so that the engine's logs and the answer's own id lead back to `why`.
 */
export function engineHeaders(req: IncomingMessage, decisionId: string): Record<string, string> {
  const headers: Record<string, string> = { 'content-type': 'application/json', [HEADER.requestId]: decisionId }
  for (const name of ENGINE_FORWARDED_HEADERS) {
    const value = headerOf(req, name)
    if (value !== undefined) headers[name] = value
  }
  return headers
}
