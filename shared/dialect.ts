// Which routes are forwarded, and in whose shape their errors are told.

export type Dialect = 'chat' | 'completions' | 'responses'
/** `responses` differs from `openai` in a stream only: its events are named. */
export type ErrorShape = 'openai' | 'responses' | 'anthropic'

/** Routes that reach an engine, by exact path. */
export const DIALECT_OF_PATH: Readonly<Record<string, Dialect>> = {
  '/v1/chat/completions': 'chat',
  '/v1/completions': 'completions',
  '/v1/responses': 'responses',
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
