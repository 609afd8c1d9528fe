// Who calls: from the key in the headers to the principal behind it, through the key store and a short memory of it.
import { isApiKey, type KeyRecord, keyDigest, keyRecordName, parseKeyRecord } from '../shared/api-key.ts'
import { type CacheScope, tenantScope } from '../shared/cache/key.ts'
import type { Clock } from '../shared/clock.ts'
import { hmacSha256, toBase64url } from '../shared/hmac.ts'
import type { Rejection } from '../shared/rejection.ts'

export type Principal = {
  readonly tenant: string
  /** The only models that the key may name; undefined when it may name all. */
  readonly models: readonly string[] | undefined
  /** Separates the tenant's blocks in the engines' prefix caches from everyone else's. */
  readonly cacheSalt: string
  /** Whose stored answers it may have. */
  readonly cacheScope: CacheScope
}

export type Authenticated = { ok: true; principal: Principal }
export type Unauthenticated = { ok: false; rejection: Rejection }
export type Authenticate = (headers: Headers) => Promise<Authenticated | Unauthenticated>

/** How long a disabled key lives on in an isolate, beside what the store itself takes to spread the news. */
export const KNOWN_KEY_MS = 30_000
/** How long a key made a moment after its first use stays refused. */
export const UNKNOWN_KEY_MS = 5_000
const REMEMBERED_KEYS_MAX = 1_000
const STORE_RETRY_AFTER_SECONDS = 1
const CACHE_SALT_CHARS = 22

/** Makes the look-up of callers. `readRecord` gets a record's name and answers its value, or null. */
export function createAuthenticate(
  pepper: string,
  readRecord: (name: string) => Promise<unknown>,
  clock: Clock,
): Authenticate {
  type Known = { readonly record: KeyRecord; readonly cacheSalt: string }
  // Apart, so that a flood of invented keys cannot push out the real ones.
  const known = createMemory<Known>(KNOWN_KEY_MS, clock)
  const unknown = createMemory<true>(UNKNOWN_KEY_MS, clock)

  return async function authenticate(headers) {
    const found = readApiKey(headers)
    if (!found.ok) return found
    const digest = await keyDigest(pepper, found.key)
    if (unknown.get(digest)) return invalidKey('unknown API key')

    let entry = known.get(digest)
    if (!entry) {
      let value: unknown
      try {
        value = await readRecord(keyRecordName(digest))
      } catch {
        return storeUnreachable()
      }
      if (value === null || value === undefined) {
        unknown.set(digest, true)
        return invalidKey('unknown API key')
      }
      const record = parseKeyRecord(value)
      if (!record) return refuse({ reason: 'internal', message: 'the record of this API key cannot be read' })
      entry = { record, cacheSalt: await cacheSaltOf(pepper, record.tenant) }
      known.set(digest, entry)
    }

    const { record, cacheSalt } = entry
    if (record.disabled) return invalidKey('this API key is disabled')
    if (record.expiresAt !== undefined && Date.parse(record.expiresAt) <= clock.epochMs()) {
      return invalidKey('this API key has expired')
    }
    const { tenant, models } = record
    return { ok: true, principal: { tenant, models, cacheSalt, cacheScope: tenantScope(tenant) } }
  }
}

/** Whether the principal may use the model; undefined when it may. */
export function refuseModel(principal: Principal, model: string): Rejection | undefined {
  if (!principal.models || principal.models.includes(model)) return undefined
  return {
    reason: 'model-not-allowed',
    message: `the model '${model}' does not exist, or this API key may not use it`,
    param: 'model',
  }
}

/** Finds the key where OpenAI's and Anthropic's clients put it. */
export function readApiKey(headers: Headers): { ok: true; key: string } | Unauthenticated {
  const authorization = headers.get('authorization')
  const bearer = authorization === null ? undefined : /^Bearer +(\S+) *$/i.exec(authorization)?.[1]
  const named = headers.get('x-api-key') ?? undefined
  if (authorization !== null && bearer === undefined) {
    return invalidKey('the Authorization header must read "Bearer <API key>"')
  }
  if (bearer !== undefined && named !== undefined && bearer !== named) {
    return invalidKey('the Authorization and x-api-key headers hold different keys: send one')
  }
  const key = bearer ?? named
  if (key === undefined) {
    const message = 'no API key: send it as "Authorization: Bearer <API key>" or as x-api-key'
    return refuse({ reason: 'missing-api-key', message })
  }
  return isApiKey(key) ? { ok: true, key } : invalidKey('malformed API key: is it complete?')
}

async function cacheSaltOf(pepper: string, tenant: string): Promise<string> {
  return toBase64url(await hmacSha256(pepper, `cache-salt\n${tenant}`)).slice(0, CACHE_SALT_CHARS)
}

type Memory<Value> = { get(name: string): Value | undefined; set(name: string, value: Value): void }

/** Remembers values for a while; full, it forgets the one that it has had longest. */
function createMemory<Value>(lifetimeMs: number, clock: Clock): Memory<Value> {
  const entries = new Map<string, { readonly value: Value; readonly untilMs: number }>()
  return {
    get(name) {
      const entry = entries.get(name)
      if (!entry) return undefined
      if (entry.untilMs > clock.epochMs()) return entry.value
      entries.delete(name)
      return undefined
    },
    set(name, value) {
      entries.delete(name)
      if (entries.size >= REMEMBERED_KEYS_MAX) {
        const [oldest] = entries.keys()
        entries.delete(oldest as string)
      }
      entries.set(name, { value, untilMs: clock.epochMs() + lifetimeMs })
    },
  }
}

function invalidKey(message: string): Unauthenticated {
  return refuse({ reason: 'invalid-api-key', message })
}

function storeUnreachable(): Unauthenticated {
  const message = 'the key store does not answer'
  return refuse({ reason: 'key-store-unreachable', message, retryAfterSeconds: STORE_RETRY_AFTER_SECONDS })
}

function refuse(rejection: Rejection): Unauthenticated {
  return { ok: false, rejection }
}
