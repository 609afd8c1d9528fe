// HMAC-SHA256 and its spellings through WebCrypto, which the Worker and Node both have.

const encoder = new TextEncoder()

/** The MAC of a text under a secret, both taken as UTF-8. */
export async function hmacSha256(secret: string, text: string): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.sign('HMAC', await keyOf(secret), encoder.encode(text)))
}

/** Whether the bytes are the MAC of a text under a secret; how long it takes does not tell how nearly. */
export async function isHmacSha256(mac: Uint8Array<ArrayBuffer>, secret: string, text: string): Promise<boolean> {
  return crypto.subtle.verify('HMAC', await keyOf(secret), mac, encoder.encode(text))
}

/** Secrets come from configuration and are few: more than these are tests. */
const KEYS_KEPT_MAX = 32
const keys = new Map<string, HmacKey>()

/** The platforms name it differently. */
type HmacKey = Awaited<ReturnType<typeof crypto.subtle.importKey>>

/** Imports a secret once. What is kept is the key and not its promise: a promise belongs to the request that made it. */
async function keyOf(secret: string): Promise<HmacKey> {
  let key = keys.get(secret)
  if (!key) {
    const algorithm = { name: 'HMAC', hash: 'SHA-256' }
    key = await crypto.subtle.importKey('raw', encoder.encode(secret), algorithm, false, ['sign', 'verify'])
    if (keys.size >= KEYS_KEPT_MAX) keys.clear()
    keys.set(secret, key)
  }
  return key
}

/** Lower-case hex. */
export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** base64url without padding, for short values. */
export function toBase64url(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replaceAll('=', '')
}

/** The bytes of a short base64url text; undefined when it is none, or not the spelling that toBase64url() gives. */
export function fromBase64url(text: string): Uint8Array<ArrayBuffer> | undefined {
  let decoded: string
  try {
    decoded = atob(text.replaceAll('-', '+').replaceAll('_', '/'))
  } catch {
    return undefined
  }
  const bytes = Uint8Array.from(decoded, (char) => char.charCodeAt(0))
  return toBase64url(bytes) === text ? bytes : undefined
}
