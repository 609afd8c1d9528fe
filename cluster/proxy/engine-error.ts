// What an engine's error means to a caller. vLLM speaks OpenAI's shape for most errors, FastAPI's for unknown routes, and
// a bare string for a wrong API key.
import type { Rejection } from '../../shared/rejection.ts'

export type EngineError =
  /** The engine's own words in OpenAI's shape: passed on with this status. */
  | { readonly type: 'answer'; readonly status: number; readonly body: string }
  /** Not the caller's business as it is: told as a refusal of ours. */
  | { readonly type: 'refusal'; readonly rejection: Rejection }

/** Bodies of errors are read up to this size. */
export const ERROR_BYTES_MAX = 64 * 1024

/** Reads a whole error answer. */
export function readEngineError(status: number, body: string): EngineError {
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
  const told = { message: message ?? `The engine answered ${status}.`, type: typeOf(status), param: null, code: status }
  const known = errorOf(body)
  return { type: 'answer', status, body: JSON.stringify({ error: { ...told, ...known } }) }
}

/** The error in a stream's first event, `data: {"error": {…}}`: its code is the status it should have had. */
export function readErrorEvent(event: string): EngineError {
  const start = event.indexOf('{')
  const end = event.indexOf('\n\n')
  const body = event.slice(start, end === -1 ? undefined : end)
  const code = errorOf(body)?.code
  const status = typeof code === 'number' && code >= 400 && code <= 599 ? code : 500
  return readEngineError(status, body)
}

function errorOf(body: string): { readonly message: string; readonly code?: unknown } | undefined {
  const { error } = parsed(body)
  if (typeof error !== 'object' || error === null) return undefined
  return typeof (error as { message?: unknown }).message === 'string' ? (error as { message: string }) : undefined
}

function messageOf(body: string): string | undefined {
  const known = errorOf(body)?.message
  if (known !== undefined) return known
  const { detail, error } = parsed(body)
  if (typeof detail === 'string') return detail
  return typeof error === 'string' ? error : undefined
}

function parsed(body: string): { readonly error?: unknown; readonly detail?: unknown } {
  try {
    const value: unknown = JSON.parse(body)
    return typeof value === 'object' && value !== null ? value : {}
  } catch {
    return {}
  }
}

function typeOf(status: number): string {
  return status >= 500 ? 'server_error' : 'invalid_request_error'
}
