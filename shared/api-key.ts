// API keys as callers hold them, and the records that stand for them in the key store. A key is
// `wp_live_<32 random>_<6 checksum>` in base62; the store knows only its peppered digest.
import * as v from 'valibot'
import { hmacSha256, toHex } from './hmac.ts'
import { isTenant } from './signature.ts'

/** Secret scanners recognise a leaked key by this. */
export const API_KEY_PREFIX = 'wp_live_'
const SECRET_CHARS = 32
const CHECKSUM_CHARS = 6

const DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
/** The largest multiple of 62 in a byte: higher bytes are drawn again, or the first digits would come up more often. */
const UNBIASED_BELOW = 248

/** Makes a key. `randomBytes` must be cryptographically secure. */
export function mintApiKey(randomBytes: (count: number) => Uint8Array): string {
  let secret = ''
  while (secret.length < SECRET_CHARS) {
    for (const byte of randomBytes(SECRET_CHARS - secret.length)) {
      if (byte < UNBIASED_BELOW) secret += DIGITS.charAt(byte % DIGITS.length)
    }
  }
  const head = API_KEY_PREFIX + secret
  return `${head}_${checksum(head)}`
}

const KEY = /^(wp_live_[0-9A-Za-z]{32})_([0-9A-Za-z]{6})$/

/** Whether the text has the form and the checksum of a key: typos and noise are refused without a look-up. */
export function isApiKey(text: string): boolean {
  const match = KEY.exec(text)
  return match !== null && checksum(match[1] as string) === match[2]
}

/** CRC-32 in base62: six digits hold 32 bits. It catches typos; it proves nothing. */
function checksum(head: string): string {
  let rest = crc32(head)
  let digits = ''
  while (digits.length < CHECKSUM_CHARS) {
    digits = DIGITS.charAt(rest % DIGITS.length) + digits
    rest = Math.floor(rest / DIGITS.length)
  }
  return digits
}

/** The CRC of zlib and PNG, bit by bit: keys are short, a table would be longer than its use. */
function crc32(ascii: string): number {
  let crc = 0xffffffff
  for (let i = 0; i < ascii.length; i++) {
    crc ^= ascii.charCodeAt(i)
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1
  }
  return ~crc >>> 0
}

/** The digest by which a key is looked up: without the pepper a copy of the store is of no use. */
export async function keyDigest(pepper: string, key: string): Promise<string> {
  return toHex(await hmacSha256(pepper, key))
}

/** The name of a key's record in the store. */
export function keyRecordName(digest: string): string {
  return `key:${digest}`
}

const timestamp = v.pipe(
  v.string(),
  v.check((text) => !Number.isNaN(Date.parse(text)), 'expected an ISO 8601 timestamp'),
)

// Unknown members are dropped, not refused: an older edge reads the records of a newer `key create`.
const keyRecord = v.object({
  tenant: v.pipe(v.string(), v.check(isTenant, 'expected a tenant name')),
  createdAt: timestamp,
  expiresAt: v.exactOptional(timestamp),
  /** The only models that the key may name; without it, all. */
  models: v.exactOptional(v.pipe(v.array(v.string()), v.readonly())),
  disabled: v.exactOptional(v.boolean()),
  /** For people: what the key is for. */
  name: v.exactOptional(v.string()),
})

/** What the store holds of a key. Times are ISO 8601 texts: people read these records. */
export type KeyRecord = v.InferOutput<typeof keyRecord>

/** The record, or undefined when the value is not one. */
export function parseKeyRecord(value: unknown): KeyRecord | undefined {
  const result = v.safeParse(keyRecord, value)
  return result.success ? result.output : undefined
}
