// The session token: a caller's proof of which endpoint served it last. The edge makes it, signs it and is the only one
// that reads it; a token that cannot be believed is as good as none, and never a reason to refuse.
import * as v from 'valibot'
import type { Clock } from '../shared/clock.ts'
import { fromBase64url, hmacSha256, isHmacSha256, toBase64url } from '../shared/hmac.ts'
import { isPin, type KeyRing } from '../shared/signature.ts'

/** Counted from the last token: a KV cache rarely stays warm for longer. */
export const SESSION_TTL_SECONDS = 60 * 60
/** Counted from the first token: no session lasts longer, however busy. */
export const SESSION_SECONDS_MAX = 24 * 60 * 60
export const SESSION_TOKEN_CHARS_MAX = 512

const SESSION_ID_BYTES = 16
const TENANT_HASH_BYTES = 16

export type Session = {
  /** 128 random bits, base64url. */
  readonly id: string
  readonly pin: string
  readonly firstIssuedSeconds: number
  readonly expiresSeconds: number
}

export type SessionFault = 'malformed' | 'unknown-key' | 'forged' | 'foreign' | 'expired'

export type SessionRead =
  | { readonly state: 'none' }
  | { readonly state: 'valid'; readonly token: string; readonly keyId: string; readonly session: Session }
  | { readonly state: 'rejected'; readonly reason: SessionFault }

/** What an answer does to a session, for the log; undefined when there is none and none begins. */
export type SessionOutcome = 'new' | 'kept' | 'moved' | `rejected-${SessionFault}` | undefined

/** The members' names are short because every request carries them. */
const Payload = v.object({
  /** The tenant, hashed. */
  t: v.string(),
  s: v.string(),
  p: v.pipe(v.string(), v.check(isPin)),
  /** When the session's first token was issued, when this one was, when it expires: seconds since 1970. */
  f: v.number(),
  i: v.number(),
  e: v.number(),
})

const TOKEN = /^(v1\.([A-Za-z0-9_-]{1,32})\.([A-Za-z0-9_-]+))\.([A-Za-z0-9_-]{43})$/

/** Whose sessions these are, by which keys and at what time. */
export type SessionScope = { readonly tenant: string; readonly keys: KeyRing; readonly clock: Clock }

/** Reads the token that a caller sent, if it sent one. */
export async function readSession(header: string | null, { tenant, keys, clock }: SessionScope): Promise<SessionRead> {
  if (header === null) return { state: 'none' }
  if (header.length > SESSION_TOKEN_CHARS_MAX) return rejected('malformed')
  const match = TOKEN.exec(header)
  if (!match) return rejected('malformed')
  const [token, signed, keyId, payloadText, macText] = match as unknown as [string, string, string, string, string]
  const secret = keys.secrets.get(keyId)
  if (secret === undefined) return rejected('unknown-key')
  const mac = fromBase64url(macText)
  if (!mac || !(await isHmacSha256(mac, secret, signingInput(signed)))) return rejected('forged')

  const payload = parsePayload(payloadText)
  if (!payload) return rejected('malformed')
  if (payload.t !== (await hashTenant(secret, tenant))) return rejected('foreign')
  if (payload.e <= secondsOf(clock)) return rejected('expired')
  const { s: id, p: pin, f: firstIssuedSeconds, e: expiresSeconds } = payload
  return { state: 'valid', token, keyId, session: { id, pin, firstIssuedSeconds, expiresSeconds } }
}

export type Renewed = {
  /** What the caller is to send from now on; undefined when there is nothing to remember. */
  readonly token: string | undefined
  readonly outcome: SessionOutcome
}

/**
 * What a good answer makes of the session. `routerPin` is the router's word for the endpoint that serves; what cannot be
 * a pin counts as none.
 */
export async function renewSession(read: SessionRead, routerPin: string | null, scope: SessionScope): Promise<Renewed> {
  const nowSeconds = secondsOf(scope.clock)
  const pin = routerPin !== null && isPin(routerPin) ? routerPin : undefined
  if (read.state !== 'valid') {
    if (pin === undefined) return { token: undefined, outcome: outcomeOf(read) }
    const id = toBase64url(crypto.getRandomValues(new Uint8Array(SESSION_ID_BYTES)))
    const token = await mintSession({ id, pin, firstIssuedSeconds: nowSeconds }, scope)
    return { token, outcome: outcomeOf(read) ?? 'new' }
  }
  const { token, keyId, session } = read
  if (pin === undefined) return { token, outcome: 'kept' }
  const outcome = pin === session.pin ? 'kept' : 'moved'
  // Every token of an older key that a caller is left with is affinity lost when that key goes.
  const isCurrent = keyId === scope.keys.currentId
  if (outcome === 'kept' && isCurrent && isFresh(session, nowSeconds)) return { token, outcome }
  return { token: await mintSession({ ...session, pin }, scope), outcome }
}

/** What is known of the outcome before there is an answer: that a token was rejected, and why. */
export function outcomeOf(read: SessionRead): SessionOutcome {
  return read.state === 'rejected' ? `rejected-${read.reason}` : undefined
}

async function mintSession(session: Omit<Session, 'expiresSeconds'>, scope: SessionScope): Promise<string> {
  const { currentId, secrets } = scope.keys
  const secret = secrets.get(currentId) as string
  const nowSeconds = secondsOf(scope.clock)
  const payload: v.InferOutput<typeof Payload> = {
    t: await hashTenant(secret, scope.tenant),
    s: session.id,
    p: session.pin,
    f: session.firstIssuedSeconds,
    i: nowSeconds,
    e: Math.min(nowSeconds + SESSION_TTL_SECONDS, session.firstIssuedSeconds + SESSION_SECONDS_MAX),
  }
  const signed = `v1.${currentId}.${toBase64url(new TextEncoder().encode(JSON.stringify(payload)))}`
  return `${signed}.${toBase64url(await hmacSha256(secret, signingInput(signed)))}`
}

/** Whether a new token would hardly outlive this one. */
function isFresh({ firstIssuedSeconds, expiresSeconds }: Session, nowSeconds: number): boolean {
  const atItsMax = expiresSeconds >= firstIssuedSeconds + SESSION_SECONDS_MAX
  return atItsMax || expiresSeconds - nowSeconds > SESSION_TTL_SECONDS / 2
}

/** The first line keeps a MAC made for one purpose from serving another: requests are signed with the same keys. */
function signingInput(signed: string): string {
  return `warmpath-session-token-v1\n${signed}`
}

/** Tokens end up in other people's logs: they name no tenant. */
async function hashTenant(secret: string, tenant: string): Promise<string> {
  const hash = await hmacSha256(secret, `warmpath-session-tenant-v1\n${tenant}`)
  return toBase64url(hash.subarray(0, TENANT_HASH_BYTES))
}

function parsePayload(text: string): v.InferOutput<typeof Payload> | undefined {
  const bytes = fromBase64url(text)
  if (!bytes) return undefined
  try {
    const result = v.safeParse(Payload, JSON.parse(new TextDecoder().decode(bytes)))
    return result.success ? result.output : undefined
  } catch {
    return undefined
  }
}

function secondsOf(clock: Clock): number {
  return Math.floor(clock.epochMs() / 1000)
}

function rejected(reason: SessionFault): SessionRead {
  return { state: 'rejected', reason }
}
