// Refusals as values: a closed set of reasons, and the one translation to HTTP that both halves use at their doors.
import type { ErrorShape } from './dialect.ts'
import { HEADER } from './headers.ts'

/** Every way to say no. `retryAfterSeconds` is computed by who refuses; `param` names the offending member or header. */
export type Rejection = {
  readonly reason: RejectionReason
  readonly message: string
  readonly param?: string
  readonly retryAfterSeconds?: number
}

type Terms = {
  readonly status: number
  /** OpenAI's `error.type`. */
  readonly type: string
  /** OpenAI's `error.code`. */
  readonly code: string | null
  /** Anthropic's `error.type`. */
  readonly anthropicType: string
  /** Whether the same request may succeed later: the OpenAI SDK obeys `x-should-retry`. */
  readonly retry: boolean
}

const TERMS = {
  'missing-api-key': terms(401, 'invalid_request_error', 'invalid_api_key', 'authentication_error', false),
  'invalid-api-key': terms(401, 'invalid_request_error', 'invalid_api_key', 'authentication_error', false),
  'model-not-allowed': terms(404, 'invalid_request_error', 'model_not_found', 'not_found_error', false),
  'invalid-body': terms(400, 'invalid_request_error', null, 'invalid_request_error', false),
  'invalid-header': terms(400, 'invalid_request_error', null, 'invalid_request_error', false),
  'headers-too-large': terms(431, 'invalid_request_error', 'headers_too_large', 'invalid_request_error', false),
  'unsupported-media-type': terms(
    415,
    'invalid_request_error',
    'unsupported_media_type',
    'invalid_request_error',
    false,
  ),
  'body-too-large': terms(413, 'invalid_request_error', 'request_too_large', 'request_too_large', false),
  'request-timeout': terms(408, 'invalid_request_error', 'request_timeout', 'invalid_request_error', true),
  'invalid-signature': terms(401, 'invalid_request_error', 'invalid_signature', 'authentication_error', false),
  'route-not-found': terms(404, 'invalid_request_error', 'unknown_url', 'not_found_error', false),
  'method-not-allowed': terms(405, 'invalid_request_error', 'method_not_allowed', 'invalid_request_error', false),
  'response-not-found': terms(404, 'invalid_request_error', 'response_not_found', 'not_found_error', false),
  'model-not-found': terms(404, 'invalid_request_error', 'model_not_found', 'not_found_error', false),
  overloaded: terms(429, 'rate_limit_error', 'overloaded', 'rate_limit_error', true),
  'no-endpoint': terms(503, 'server_error', 'no_endpoint', 'overloaded_error', true),
  draining: terms(503, 'server_error', 'draining', 'overloaded_error', true),
  'engine-unreachable': terms(503, 'server_error', 'engine_unreachable', 'overloaded_error', true),
  'key-store-unreachable': terms(503, 'server_error', 'key_store_unreachable', 'overloaded_error', true),
  'router-unreachable': terms(503, 'server_error', 'router_unreachable', 'overloaded_error', true),
  // The engine may have worked on it, and may fail again on the same input: the client decides.
  'engine-failed': terms(502, 'server_error', 'engine_failed', 'api_error', false),
  // The prefill may still be running somewhere: a retry would compute it twice.
  'first-byte-timeout': terms(504, 'server_error', 'timeout', 'api_error', false),
  'total-timeout': terms(504, 'server_error', 'timeout', 'api_error', false),
  // Asked for by `cache-control: only-if-cached`, with the status that HTTP has for it.
  'not-cached': terms(504, 'invalid_request_error', 'not_cached', 'not_found_error', false),
  internal: terms(500, 'server_error', 'internal_error', 'api_error', false),
} as const satisfies Record<string, Terms>

export type RejectionReason = keyof typeof TERMS

/** Anthropic's `error.type` for a status, where an engine names its own. */
export function anthropicTypeOf(status: number): string {
  return ANTHROPIC_TYPES[status] ?? (status >= 500 ? 'api_error' : 'invalid_request_error')
}

const ANTHROPIC_TYPES: Readonly<Record<number, string>> = {
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  503: 'overloaded_error',
  504: 'timeout_error',
  529: 'overloaded_error',
}

/** Clients obey any value, some for an hour: never ask for more than this. */
export const RETRY_AFTER_SECONDS_MAX = 60

function terms(status: number, type: string, code: string | null, anthropicType: string, retry: boolean): Terms {
  return { status, type, code, anthropicType, retry }
}

export type HttpRejection = {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** The refusal as an HTTP answer in the caller's shape. Headers are those that the OpenAI and Anthropic SDKs obey. */
export function rejectionToHttp(rejection: Rejection, shape: ErrorShape): HttpRejection {
  const { status, type, code, anthropicType, retry } = TERMS[rejection.reason]
  const headers: Record<string, string> = {
    'content-type': 'application/json',
    'x-should-retry': String(retry),
    [HEADER.reason]: rejection.reason,
  }
  if (rejection.retryAfterSeconds !== undefined) {
    const seconds = Math.min(RETRY_AFTER_SECONDS_MAX, Math.max(1, Math.ceil(rejection.retryAfterSeconds)))
    headers['retry-after'] = String(seconds)
  }
  const body =
    shape === 'anthropic'
      ? { type: 'error', error: { type: anthropicType, message: rejection.message } }
      : { error: { message: rejection.message, type, param: rejection.param ?? null, code } }
  return { status, headers, body: JSON.stringify(body) }
}

/**
 * A failure after the first byte, as the last event of a stream: the status is long sent, so the client must see an
 * error frame, and never the dialect's normal end. The OpenAI SDK throws on `data: {"error": …}`; clients of
 * /v1/responses look at the type, and find the error in a member or, older ones, in the event itself.
 */
export function errorEvent(shape: ErrorShape, code: string, message: string): string {
  if (shape === 'anthropic') {
    return `event: error\ndata: ${JSON.stringify({ type: 'error', error: { type: 'api_error', message } })}\n\n`
  }
  const error = { message, type: 'server_error', param: null, code }
  if (shape === 'openai') return `data: ${JSON.stringify({ error })}\n\n`
  return `event: error\ndata: ${JSON.stringify({ type: 'error', code, message, param: null, error })}\n\n`
}
