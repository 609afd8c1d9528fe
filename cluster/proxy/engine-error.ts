// What an engine's error means to a caller. vLLM speaks OpenAI's shape for most errors, Anthropic's with names of its own
// for those of messages that it has read, FastAPI's for unknown routes, and a bare string for a wrong API key.
import type { ErrorShape } from '../../shared/dialect.ts'
import { anthropicTypeOf, type Rejection } from '../../shared/rejection.ts'

export type EngineError =
  /** The engine's own words in the caller's shape: passed on with this status. */
  | { readonly type: 'answer'; readonly status: number; readonly body: string }
  /** Not the caller's business as it is: told as a refusal of ours. */
  | { readonly type: 'refusal'; readonly rejection: Rejection }

/** Bodies of errors are read up to this size. */
export const ERROR_BYTES_MAX = 64 * 1024

/** Reads a whole error answer. */
export function readEngineError(status: number, body: string, shape: ErrorShape): EngineError {
  const message = messageOf(body)
  if (status < 400) {
    const message = `The engine answered ${status}, a redirect: its URL in the router’s configuration is not an engine’s.`
    return { type: 'refusal', rejection: { reason: 'engine-failed', message } }
  }
  if (status === 401 || status === 403) {
    const message = 'The engine refused the router: its API key is missing or wrong in the router’s configuration.'
    return { type: 'refusal', rejection: { reason: 'engine-failed', message } }
  }
  if (status === 503 || status === 502 || status === 504) {
    const why = message ?? 'no reason given'
    return {
      type: 'refusal',
      rejection: { reason: 'engine-unreachable', message: `The engine took no request: ${why}`, retryAfterSeconds: 1 },
    }
  }
  const words = message ?? `The engine answered ${status}.`
  if (shape === 'anthropic') {
    const error = { type: anthropicTypeOf(status), message: words }
    return { type: 'answer', status, body: JSON.stringify({ type: 'error', error }) }
  }
  const told = { message: words, type: typeOf(status), param: null, code: status }
  return { type: 'answer', status, body: JSON.stringify({ error: { ...told, ...errorOf(body) } }) }
}

/**
 * The error in a stream's first event, `data: {"error": {…}}`: its code is the status it should have had. The events of
 * messages have none; what vLLM tells there is always a failure of its own.
 */
export function readErrorEvent(event: string, shape: ErrorShape): EngineError {
  const start = event.indexOf('{')
  const end = event.indexOf('\n\n')
  const body = event.slice(start, end === -1 ? undefined : end)
  const code = errorOf(body)?.code
  const status = typeof code === 'number' && code >= 400 && code <= 599 ? code : 500
  return readEngineError(status, body, shape)
}

function errorOf(body: string): { readonly message: string; readonly code?: unknown } | undefined {
  const { error } = parsed(body)
  if (typeof error !== 'object' || error === null) return undefined
  return typeof (error as { message?: unknown }).message === 'string' ? (error as { message: string }) : undefined
}

function messageOf(body: string): string | undefined {
  const known = errorOf(body)?.message
  if (known !== undefined) return known
  // The last is an error event's of /v1/responses.
  const { detail, error, message } = parsed(body)
  return [detail, error, message].find((words) => typeof words === 'string')
}

const NO_WORDS = { error: undefined, detail: undefined, message: undefined }

function parsed(body: string): Readonly<Record<'error' | 'detail' | 'message', unknown>> {
  try {
    const value: unknown = JSON.parse(body)
    return typeof value === 'object' && value !== null ? { ...NO_WORDS, ...value } : NO_WORDS
  } catch {
    return NO_WORDS
  }
}

function typeOf(status: number): string {
  return status >= 500 ? 'server_error' : 'invalid_request_error'
}
