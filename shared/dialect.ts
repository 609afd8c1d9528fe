// Which routes are forwarded, and in whose shape their errors are told.

export type Dialect = 'chat' | 'completions'
export type ErrorShape = 'openai' | 'anthropic'

/** Routes that reach an engine, by exact path. */
export const DIALECT_OF_PATH: Readonly<Record<string, Dialect>> = {
  '/v1/chat/completions': 'chat',
  '/v1/completions': 'completions',
}

/** Anthropic's clients call /v1/messages and read errors in their own shape. */
export function errorShapeOf(path: string): ErrorShape {
  return path === '/v1/messages' || path.startsWith('/v1/messages/') ? 'anthropic' : 'openai'
}
