// Who is calling: the edge, proven by its signature, or anybody else.
import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { authorizationScope, type CacheScope, tenantScope } from '../../shared/cache/key.ts'
import { HEADER } from '../../shared/headers.ts'
import type { Rejection } from '../../shared/rejection.ts'
import {
  isPin,
  isTenant,
  type KeyRing,
  parseSignature,
  SIGNATURE_SKEW_SECONDS_MAX,
  signingInput,
} from '../../shared/signature.ts'

export type Caller = {
  /** Whether the edge made the body, so that its engine controls are its own. */
  readonly trusted: boolean
  readonly tenant: string | undefined
  /** The pin that the edge found in the caller's session token. */
  readonly pin: string | undefined
}

export type IdentifyCaller = (
  method: string,
  path: string,
  headers: IncomingHttpHeaders,
  body: Buffer | null,
) => { readonly ok: true; readonly caller: Caller } | { readonly ok: false; readonly rejection: Rejection }

/** Nonces of two skew windows at 10,000 requests a second would be 1.2 million: beyond that the oldest half goes. */
const NONCES_MAX = 600_000

const STRANGER: Caller = { trusted: false, tenant: undefined, pin: undefined }

/**
 * Without keys everybody is a stranger. With keys, a request carries a valid signature or is refused, unless
 * `allowUnsigned` lets strangers in beside the edge.
 */
export function createIdentifyCaller(
  keys: KeyRing | undefined,
  allowUnsigned: boolean,
  epochMs: () => number,
): IdentifyCaller {
  const seen = createNonceWindow(epochMs)

  return (method, path, headers, body) => {
    const header = headers[HEADER.signature]
    if (!keys || (header === undefined && allowUnsigned)) return { ok: true, caller: STRANGER }
    if (typeof header !== 'string') return refuse('this router takes requests only from the edge, which signs them')
    const signature = parseSignature(header)
    const tenant = headers[HEADER.tenant]
    if (!signature || typeof tenant !== 'string' || !isTenant(tenant)) return refuse('the signature is malformed')
    const secret = keys.secrets.get(signature.keyId)
    if (secret === undefined) return refuse('the signature names a key that this router does not have')
    const ageSeconds = Math.abs(epochMs() / 1_000 - signature.timestampSeconds)
    if (ageSeconds > SIGNATURE_SKEW_SECONDS_MAX) return refuse('the signature is too old, or a clock is wrong')
    const { timestampSeconds, nonce } = signature
    const bodyDigest = createHash('sha256')
      .update(body ?? '')
      .digest('hex')
    const pin = pinOf(headers)
    const fields = { method, path, timestampSeconds, nonce, tenant, pin: pin ?? '', bodyDigest }
    const expected = createHmac('sha256', secret).update(signingInput(fields)).digest()
    const given = Buffer.from(signature.mac, 'base64url')
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) return refuse('the signature is wrong')
    if (!seen.add(nonce)) return refuse('the signature was used before')
    return { ok: true, caller: { trusted: true, tenant, pin } }
  }
}

/**
 * Whose stored answers a caller may have: its tenant's, or of those who send the same credentials. Undefined for who sends
 * none: nobody is known to be the same nobody.
 */
export function cacheScopeOf({ tenant }: Caller, headers: IncomingHttpHeaders): CacheScope | undefined {
  if (tenant !== undefined) return tenantScope(tenant)
  // Where Anthropic's clients put their key.
  const name = headers.authorization ? 'authorization' : 'x-api-key'
  const credentials = headers[name]
  if (typeof credentials !== 'string' || credentials === '') return undefined
  return authorizationScope(createHash('sha256').update(`${name}\n${credentials}`).digest('base64url'))
}

function pinOf(headers: IncomingHttpHeaders): string | undefined {
  const pin = headers[HEADER.pin]
  return typeof pin === 'string' && isPin(pin) ? pin : undefined
}

function refuse(message: string): { readonly ok: false; readonly rejection: Rejection } {
  return { ok: false, rejection: { reason: 'invalid-signature', message: `Not accepted: ${message}.` } }
}

/** Remembers nonces for at least the time in which their signature would be accepted, in two generations. */
function createNonceWindow(epochMs: () => number): { readonly add: (nonce: string) => boolean } {
  // A signature may be dated as far ahead as it may be old.
  const windowMs = 2 * SIGNATURE_SKEW_SECONDS_MAX * 1_000
  let young = new Set<string>()
  let old = new Set<string>()
  let turnedAtMs = epochMs()
  return {
    add(nonce) {
      if (epochMs() - turnedAtMs > windowMs || young.size >= NONCES_MAX) {
        old = young
        young = new Set()
        turnedAtMs = epochMs()
      }
      if (young.has(nonce) || old.has(nonce)) return false
      young.add(nonce)
      return true
    },
  }
}
