// The edge's signature over a forwarded request: what is signed and how it is written. Each half computes the HMAC with
// its own platform's crypto; nothing here does.

/** A signature is refused when its clock differs by more than this from the verifier's. */
export const SIGNATURE_SKEW_SECONDS_MAX = 60
/** Shorter secrets are refused at start-up: HMAC-SHA256 keys should hold 256 bits. */
export const SECRET_CHARS_MIN = 32

export type SignedFields = {
  readonly method: string
  /** Path with query, as it stands on the request line. */
  readonly path: string
  readonly timestampSeconds: number
  /** 128 random bits, base64url. */
  readonly nonce: string
  readonly tenant: string
  /** The pin that the request carries; '' when it carries none. */
  readonly pin: string
  /** SHA-256 of the body as sent, lower-case hex. */
  readonly bodyDigest: string
}

export type Signature = {
  readonly keyId: string
  readonly timestampSeconds: number
  readonly nonce: string
  /** HMAC-SHA256 of signingInput(), base64url without padding. */
  readonly mac: string
}

/** The text under the MAC. Its first line keeps a MAC made for this purpose from serving any other. */
export function signingInput(fields: SignedFields): string {
  return [
    'warmpath-request-v2',
    fields.method,
    fields.path,
    String(fields.timestampSeconds),
    fields.nonce,
    fields.tenant,
    fields.pin,
    fields.bodyDigest,
  ].join('\n')
}

export function formatSignature(signature: Signature): string {
  return `v2;kid=${signature.keyId};ts=${signature.timestampSeconds};nonce=${signature.nonce};mac=${signature.mac}`
}

const SIGNATURE = /^v2;kid=([A-Za-z0-9_-]{1,32});ts=(\d{1,12});nonce=([A-Za-z0-9_-]{16,64});mac=([A-Za-z0-9_-]{43})$/

/** The parts of a signature header, or undefined when it is not one. */
export function parseSignature(header: string): Signature | undefined {
  const match = SIGNATURE.exec(header)
  if (!match) return undefined
  const [, keyId, timestamp, nonce, mac] = match as unknown as [string, string, string, string, string]
  return { keyId, timestampSeconds: Number(timestamp), nonce, mac }
}

/** Keys by id; the first is the one to sign with, all of them verify. */
export type KeyRing = { readonly currentId: string; readonly secrets: ReadonlyMap<string, string> }

const KEY = /^([A-Za-z0-9_-]{1,32}):(.+)$/

/**
 * Reads `id:secret[,id:secret…]`. Throws an Error that says what is wrong, never what the secret is.
 */
export function parseKeyRing(text: string): KeyRing {
  const secrets = new Map<string, string>()
  for (const part of text.split(',')) {
    const match = KEY.exec(part.trim())
    if (!match)
      throw new Error('signing keys are written id:secret[,id:secret], and an id has letters, digits, _ and -')
    const [, id, secret] = match as unknown as [string, string, string]
    if (secret.length < SECRET_CHARS_MIN) {
      throw new Error(`the secret of signing key ${id} is shorter than ${SECRET_CHARS_MIN} characters`)
    }
    secrets.set(id, secret)
  }
  const [currentId] = secrets.keys()
  return { currentId: currentId as string, secrets }
}

const TENANT = /^[a-z0-9][a-z0-9_-]{0,62}$/

/** Tenants are names of 1 to 63 lower-case letters, digits, `-` and `_`: safe in headers, labels and signatures. */
export function isTenant(value: string): boolean {
  return TENANT.test(value)
}

const PIN = /^[A-Za-z0-9_-]{1,64}$/

/** Whether the text may be a router's name for an endpoint. */
export function isPin(value: string): boolean {
  return PIN.test(value)
}
