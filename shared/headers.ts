// Header names that the two halves agree on, and the allow-lists by which headers pass a door. Everything that is not listed is dropped.

export const HEADER = {
  /** The edge's signature over the request, see signature.ts. */
  signature: 'x-warmpath-signature',
  /** The tenant that the edge authenticated; trusted only below a valid signature. */
  tenant: 'x-warmpath-tenant',
  /** Names the routing decision: `warmpath why <id>` explains it. */
  decision: 'x-warmpath-decision',
  /** Why a request was refused: the `reason` of a Rejection. */
  reason: 'x-warmpath-reason',
  /** The router's opaque name of the endpoint that serves. It travels between router and edge and no further. */
  pin: 'x-warmpath-pin',
  /** The pin as a caller holds it: inside a token that only the edge makes and reads. */
  sessionToken: 'x-session-token',
  requestId: 'x-request-id',
  /** The same, where Anthropic's clients look for it. */
  anthropicRequestId: 'request-id',
  /** What the model's name stands for in the cluster, see modelVersionOf. From router to edge and no further. */
  modelVersion: 'x-warmpath-model-version',
} as const

/** How clients name a session themselves, in the order in which they are believed. The router scopes them by tenant. */
export const SESSION_ID_HEADERS = [
  'x-session-id',
  'x-claude-code-session-id',
  'x-session-affinity',
  'session-id',
  'session_id',
] as const

/** What a caller may send through the edge to the router. */
export const EDGE_FORWARDED_HEADERS = [
  'accept',
  'traceparent',
  'tracestate',
  'openai-beta',
  'anthropic-version',
  'anthropic-beta',
  'x-stainless-retry-count',
  'cache-control',
  ...SESSION_ID_HEADERS,
] as const

/** What the router passes on to an engine, besides those it makes itself. */
export const ENGINE_FORWARDED_HEADERS = ['accept', 'traceparent', 'tracestate'] as const

/**
 * What a caller gets to see of the router's headers. The session token is not among them: the edge sets its own, and a
 * header of that name from anywhere else does not pass.
 */
export const ANSWER_HEADERS = [
  'content-type',
  'retry-after',
  'retry-after-ms',
  'x-should-retry',
  'cache-status',
  'age',
  HEADER.requestId,
  HEADER.decision,
  HEADER.reason,
] as const

const REQUEST_ID = /^[A-Za-z0-9._-]{1,128}$/

/** The caller's request id if it is one that may stand in logs and headers, else undefined. */
export function acceptableRequestId(value: string | null | undefined): string | undefined {
  return value && REQUEST_ID.test(value) ? value : undefined
}
