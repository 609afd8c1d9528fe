// The router's response cache, in the guide's order: this process, then Redis, then the pods; what they answer is saved in
// both. Losing any of it costs time and never an answer.
import { createHmac } from 'node:crypto'
import { ANSWER_FORMS } from '../../shared/answers/forms.ts'
import { ifKnown } from '../../shared/answers/json.ts'
import { type CacheEntry, formatEntry, parseEntry } from '../../shared/cache/entry.ts'
import { type CacheableDialect, type CacheKeyParts, cacheKeyHead } from '../../shared/cache/key.ts'
import { type CacheWish, objectionTo, TTL_SECONDS_MAX } from '../../shared/cache/policy.ts'
import type { Flights, Land } from './flights.ts'
import type { MemoryTier } from './memory.ts'
import type { RedisTier } from './redis.ts'

/** A minute of generating must not hold up everybody else who asks the same. */
export const JOIN_WAIT_MS = 2_000

export type CacheTier = 'memory' | 'redis'

export type Found =
  | {
      readonly kind: 'stored'
      readonly entry: CacheEntry
      readonly tier: CacheTier
    }
  /** Computed for an equal request while this one waited. */
  | { readonly kind: 'joined'; readonly entry: CacheEntry }
  | {
      readonly kind: 'absent'
      readonly forwarded: 'miss' | 'stale' | 'request'
      /** Saves the answer and gives it to those who wait. Undefined where another request does. */
      readonly land: Land | undefined
    }

export type ResponseCache = {
  readonly find: (key: string, wish: Wish, left: AbortSignal) => Promise<Found>
}

type Wish = Extract<CacheWish, { uses: true }>

export type ResponseCacheDeps = {
  readonly memory: MemoryTier
  readonly redis: RedisTier | undefined
  readonly flights: Flights
  readonly epochMs: () => number
  readonly nowMs: () => number
}

/** 43 characters of base64url. `body`: pieces of the canonical body, less the members that are not in the key. */
export function responseCacheKey(secret: string, parts: CacheKeyParts, body: readonly (string | Uint8Array)[]): string {
  const hmac = createHmac('sha256', secret).update(cacheKeyHead(parts))
  for (const piece of body) hmac.update(piece)
  return hmac.digest('base64url')
}

export function createResponseCache({ memory, redis, flights, epochMs, nowMs }: ResponseCacheDeps): ResponseCache {
  /** Undefined, or why what is there will not do. */
  async function stored(key: string, wish: Wish): Promise<Found | 'miss' | 'stale'> {
    const near = memory.get(key)
    const objection = near ? objectionTo(near, wish, epochMs()) : 'miss'
    if (near && !objection) return { kind: 'stored', entry: near, tier: 'memory' }
    const bytes = await redis?.get(key)
    const far = bytes && parseEntry(bytes.toString())
    if (!far || !isTellable(far, wish.dialect, epochMs())) return objection ?? 'miss'
    const farObjection = objectionTo(far, wish, epochMs())
    if (farObjection) return farObjection
    memory.set(key, far)
    return { kind: 'stored', entry: far, tier: 'redis' }
  }

  function save(key: string, entry: CacheEntry): void {
    memory.set(key, entry)
    redis?.set(key, Buffer.from(formatEntry(entry)), entry.ttlSeconds * 1_000)
  }

  /** Computes, or waits for who does. Who waited long enough computes for itself. */
  async function fly(key: string, wish: Wish, forwarded: 'miss' | 'stale', left: AbortSignal): Promise<Found> {
    const endMs = nowMs() + JOIN_WAIT_MS
    while (true) {
      const flight = flights.enter(key)
      if (flight.leads) return { kind: 'absent', forwarded, land: saving(key, flight.land) }
      // What has not landed by then is long, also for those who come late to it.
      const untilMs = Math.min(endMs, flight.startedAtMs + JOIN_WAIT_MS)
      const landing = (await within(flight.landed, untilMs - nowMs(), left)) ?? 'late'
      if (typeof landing !== 'string' && !objectionTo(landing, wish, epochMs()))
        return { kind: 'joined', entry: landing }
      // Of those who waited for a request that was lost, one takes its place, while there is time.
      if (landing !== 'lost' || left.aborted) return { kind: 'absent', forwarded, land: undefined }
    }
  }

  function saving(key: string, land: Land): Land {
    return (landing) => {
      if (typeof landing !== 'string') save(key, landing)
      land(landing)
    }
  }

  return {
    async find(key, wish, left) {
      if (!wish.reads) return { kind: 'absent', forwarded: 'request', land: saving(key, () => {}) }
      const found = await stored(key, wish)
      if (typeof found !== 'string') return found
      if (wish.onlyIfCached) return { kind: 'absent', forwarded: found, land: undefined }
      return fly(key, wish, found, left)
    },
  }
}

/** By how much the clocks of routers may differ. */
const CLOCK_SKEW_MS = 60_000
const PROBE = { id: 'probe', createdSeconds: 0 }

/** What others have written is looked at once, before it is told to anybody: whether it is an answer, of a time that can be. */
function isTellable({ json, storedAtMs, ttlSeconds }: CacheEntry, dialect: CacheableDialect, nowMs: number): boolean {
  if (ttlSeconds > TTL_SECONDS_MAX || storedAtMs > nowMs + CLOCK_SKEW_MS) return false
  const form = ANSWER_FORMS[dialect]
  return ifKnown(() => form.read(form.toJson(json, PROBE))) !== undefined
}

/** What the promise gives, unless it takes longer or the caller leaves. */
async function within<T>(promise: Promise<T>, waitMs: number, left: AbortSignal): Promise<T | undefined> {
  if (waitMs <= 0) return undefined
  const { promise: over, resolve } = Promise.withResolvers<undefined>()
  const timer = setTimeout(() => resolve(undefined), waitMs)
  const leave = (): void => resolve(undefined)
  left.addEventListener('abort', leave, { once: true })
  if (left.aborted) leave()
  try {
    return await Promise.race([promise, over])
  } finally {
    clearTimeout(timer)
    left.removeEventListener('abort', leave)
  }
}
