// The one fetch out: signs a request and sends it to the router, with headers by allow-list. Nothing is retried here.
import type { Clock } from '../shared/clock.ts'
import { ANSWER_HEADERS, EDGE_FORWARDED_HEADERS, HEADER } from '../shared/headers.ts'
import { hmacSha256, toBase64url, toHex } from '../shared/hmac.ts'
import type { Rejection, RejectionReason } from '../shared/rejection.ts'
import { formatSignature, type KeyRing, signingInput } from '../shared/signature.ts'
import type { RouterConfig } from './config.ts'

export type Outgoing = {
  readonly method: 'GET' | 'POST'
  /** As it shall stand on the request line: signed, and free of any query but what its route knows. */
  readonly path: string
  readonly body: Uint8Array | undefined
  readonly tenant: string
  /** The endpoint that served the caller's session last; '' for none. */
  readonly pin: string
  readonly requestId: string
  /** What the caller sent; the allow-list chooses from it. */
  readonly callerHeaders: Headers
}

/** What reaches out of the Worker, as values. */
export type Rim = {
  readonly clock: Clock
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>
}

export type Forwarded = { ok: true; answer: Response }
export type Unforwarded = { ok: false; rejection: Rejection }

const NONCE_BYTES = 16
const UNREACHABLE_RETRY_AFTER_SECONDS = 2

/** A caller with a good key must not read that its key is wrong: the fault is ours. */
const DISAGREEMENT: Rejection = {
  reason: 'internal',
  message: 'the edge and the router do not agree on EDGE_SIGNING_KEYS, or on the time',
}

/** Sends the request. `upstream` aborts it, and its answer's body, at any time; the first-byte timeout does it here. */
export async function forward(
  outgoing: Outgoing,
  router: RouterConfig,
  upstream: AbortController,
  rim: Rim,
): Promise<Forwarded | Unforwarded> {
  const headers = await forwardedHeaders(outgoing, router.signingKeys, rim.clock)
  let late = false
  const timer = setTimeout(() => {
    late = true
    upstream.abort()
  }, router.firstByteTimeoutMs)
  try {
    const answer = await rim.fetch(router.origin + outgoing.path, {
      method: outgoing.method,
      headers,
      body: outgoing.body ?? null,
      // A redirect would carry the signature and the body to wherever it points.
      redirect: 'manual',
      signal: upstream.signal,
    })
    const disagrees = answer.headers.get(HEADER.reason) === ('invalid-signature' satisfies RejectionReason)
    if (!disagrees && !isFromGateway(answer)) return { ok: true, answer }
    await answer.body?.cancel()
    return disagrees ? { ok: false, rejection: DISAGREEMENT } : unreachable()
  } catch {
    if (!late) return unreachable()
    const message = `the model did not begin to answer within ${router.firstByteTimeoutMs / 1000} s`
    return { ok: false, rejection: { reason: 'first-byte-timeout', message } }
  } finally {
    clearTimeout(timer)
  }
}

/** The answer's headers that a caller gets to see. */
export function answerHeaders(answer: Response): Headers {
  const headers = new Headers()
  for (const name of ANSWER_HEADERS) {
    const value = answer.headers.get(name)
    if (value !== null) headers.set(name, value)
  }
  return headers
}

async function forwardedHeaders(outgoing: Outgoing, signingKeys: KeyRing, clock: Clock): Promise<Headers> {
  const headers = new Headers()
  for (const name of EDGE_FORWARDED_HEADERS) {
    const value = outgoing.callerHeaders.get(name)
    if (value !== null) headers.set(name, value)
  }
  if (outgoing.body) headers.set('content-type', 'application/json')
  // A compressed event stream waits in buffers on its way.
  headers.set('accept-encoding', 'identity')
  headers.set(HEADER.requestId, outgoing.requestId)
  headers.set(HEADER.tenant, outgoing.tenant)
  if (outgoing.pin !== '') headers.set(HEADER.pin, outgoing.pin)
  headers.set(HEADER.signature, await sign(outgoing, signingKeys, clock))
  return headers
}

async function sign(outgoing: Outgoing, signingKeys: KeyRing, clock: Clock): Promise<string> {
  const keyId = signingKeys.currentId
  const timestampSeconds = Math.floor(clock.epochMs() / 1000)
  const nonce = toBase64url(crypto.getRandomValues(new Uint8Array(NONCE_BYTES)))
  const digest = await crypto.subtle.digest('SHA-256', outgoing.body ?? new Uint8Array())
  const bodyDigest = toHex(new Uint8Array(digest))
  const { method, path, tenant, pin } = outgoing
  const input = signingInput({ method, path, timestampSeconds, nonce, tenant, pin, bodyDigest })
  const mac = toBase64url(await hmacSha256(signingKeys.secrets.get(keyId) as string, input))
  return formatSignature({ keyId, timestampSeconds, nonce, mac })
}

/**
 * Whether something between us and the router answers in its place: a tunnel or a load balancer that found nobody, or
 * Cloudflare's 52x and 530. The router marks what it says itself.
 */
function isFromGateway(answer: Response): boolean {
  const marked = answer.headers.has(HEADER.reason) || answer.headers.has(HEADER.decision)
  return !marked && ([502, 503, 504].includes(answer.status) || (answer.status >= 520 && answer.status <= 530))
}

function unreachable(): Unforwarded {
  const rejection: Rejection = {
    reason: 'router-unreachable',
    message: 'the router cannot be reached',
    retryAfterSeconds: UNREACHABLE_RETRY_AFTER_SECONDS,
  }
  return { ok: false, rejection }
}
