// The APIs that are forwarded to an engine, and all in which they differ on the way.
import { HEADER } from './headers.ts'

export type Dialect = 'chat' | 'completions' | 'responses' | 'messages' | 'count-tokens' | 'embeddings'
/** `responses` differs from `openai` in a stream only: its events are named. */
export type ErrorShape = 'openai' | 'responses' | 'anthropic'

export type DialectTraits = {
  readonly path: string
  /** Of its errors, and of its streams' events. */
  readonly shape: ErrorShape
  /** Whether the body's `stream` means anything. */
  readonly streams: boolean
  /** Whether a stream tells its usage only to who asks for it in `stream_options`. Others tell it unasked. */
  readonly usageOnRequest: boolean
  /** Whether engines know the body's `cache_salt`. */
  readonly salted: boolean
  /** Members that no caller may send, besides those that none may send in any dialect. */
  readonly forbidden: readonly string[]
}

export const DIALECTS: Readonly<Record<Dialect, DialectTraits>> = {
  chat: traits('/v1/chat/completions', 'openai', { usageOnRequest: true }),
  completions: traits('/v1/completions', 'openai', { usageOnRequest: true }),
  // It would name the response, and only the router names responses.
  responses: traits('/v1/responses', 'responses', { forbidden: ['request_id'] }),
  messages: traits('/v1/messages', 'anthropic', {}),
  // Nothing of it is computed or kept.
  'count-tokens': traits('/v1/messages/count_tokens', 'anthropic', { streams: false, salted: false }),
  embeddings: traits('/v1/embeddings', 'openai', { streams: false }),
}

function traits(path: string, shape: ErrorShape, others: Partial<DialectTraits>): DialectTraits {
  return { path, shape, streams: true, usageOnRequest: false, salted: true, forbidden: [], ...others }
}

/** Routes that reach an engine, by exact path. */
export const DIALECT_OF_PATH: Readonly<Record<string, Dialect>> = Object.fromEntries(
  Object.entries(DIALECTS).map(([dialect, { path }]) => [path, dialect as Dialect]),
)

/** In which headers clients look for the id of their request. */
export function requestIdHeaders(shape: ErrorShape): readonly string[] {
  return shape === 'anthropic' ? [HEADER.requestId, HEADER.anthropicRequestId] : [HEADER.requestId]
}

/** Anthropic's clients call /v1/messages and read errors in their own shape. */
export function errorShapeOf(path: string): ErrorShape {
  if (isAtOrBelow(path, '/v1/messages')) return 'anthropic'
  return isAtOrBelow(path, '/v1/responses') ? 'responses' : 'openai'
}

function isAtOrBelow(path: string, route: string): boolean {
  return path === route || path.startsWith(`${route}/`)
}

/** What a request wants of a response that an engine stored. */
export type ResponseRoute = { readonly id: string; readonly action: 'retrieve' | 'cancel' }

const RESPONSE_ROUTE = /^\/v1\/responses\/(resp_[A-Za-z0-9_-]{1,128})(\/cancel)?$/

/** Reads /v1/responses/{id} and /v1/responses/{id}/cancel; undefined for any other path, and for what is no id. */
export function responseRouteOf(path: string): ResponseRoute | undefined {
  const match = RESPONSE_ROUTE.exec(path)
  if (!match) return undefined
  return { id: match[1] as string, action: match[2] === undefined ? 'retrieve' : 'cancel' }
}
