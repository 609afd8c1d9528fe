// Answers that were given before: what may be read, and what of a new answer is kept. The policy and the key are shared with
// the router; where entries lie is the store's business.
import { ANSWER_FORMS } from '../shared/answers/forms.ts'
import { ageSeconds, type CacheEntry, formatEntry, parseEntry } from '../shared/cache/entry.ts'
import { createKeeper } from '../shared/cache/keeper.ts'
import { type CacheableDialect, type CacheScope, cacheKeyHead, isInKey } from '../shared/cache/key.ts'
import { type CachePolicy, type CacheWish, cacheWishOf, drawTtlSeconds, objectionTo } from '../shared/cache/policy.ts'
import { type CacheOutcome, cacheStatus } from '../shared/cache/status.ts'
import { serialiseBody } from '../shared/canonical-body.ts'
import type { Clock } from '../shared/clock.ts'
import type { Dialect } from '../shared/dialect.ts'
import { HEADER } from '../shared/headers.ts'
import { hmacSha256, toBase64url } from '../shared/hmac.ts'
import type { ModelVersions } from './model-version.ts'
import type { ResponseStore } from './store.ts'

/** How this cache is called in Cache-Status. */
const CACHE_NAME = 'warmpath-edge'

export type CacheDeps = {
  /** Undefined: the cache is off. */
  readonly policy: CachePolicy | undefined
  readonly epoch: string
  /** Under which keys are made. */
  readonly secret: string
  readonly versions: ModelVersions
  readonly store: ResponseStore
  readonly clock: Clock
  readonly random: () => number
  readonly onBug: (error: unknown) => void
}

export type CacheRequest = {
  readonly scope: CacheScope
  readonly dialect: Dialect
  readonly model: string
  /** Of the canonical body. */
  readonly members: ReadonlyMap<string, string>
  readonly cacheControl: string | null
}

export type Consulted =
  | {
      readonly kind: 'hit'
      readonly entry: CacheEntry
      readonly dialect: CacheableDialect
      readonly outcome: CacheOutcome
    }
  /** To be forwarded. `keep`: the answer may be kept. `atMs`: now, which is before that. */
  | { readonly kind: 'forward'; readonly outcome: CacheOutcome; readonly keep: Keep | undefined; readonly atMs: number }

/** Begins to listen to a good answer; gives nothing where the router does not tell what the model is. */
export type Keep = (headers: Headers, streams: boolean) => KeptBytes | undefined

export type KeptBytes = {
  /** Takes the router's bytes as they come. */
  readonly push: (chunk: Uint8Array) => void
  /** After the last ones of an answer that is complete: puts it into the store. Never rejects. */
  readonly store: () => Promise<void>
}

/** Looks the answer up. Never rejects: a store that fails is a miss. */
export async function consult(request: CacheRequest, deps: CacheDeps): Promise<Consulted> {
  const { policy, store, versions, clock } = deps
  const atMs = clock.epochMs()
  const forward = (forwarded: 'bypass' | 'miss' | 'stale' | 'request', detail?: string, keep?: Keep): Consulted => {
    return { kind: 'forward', outcome: { hit: false, forwarded, ...(detail && { detail }) }, keep, atMs }
  }
  if (!policy) return forward('bypass', 'off')
  const { dialect, model, members, cacheControl } = request
  const wish = cacheWishOf(dialect, (name) => members.get(name), cacheControl, policy)
  if (!wish.uses) return forward('bypass', wish.because)
  const keyUnder = createKeyMaker(request, wish, deps)
  const keep = createKeep(wish, keyUnder, policy, deps)
  if (!wish.reads) return forward('request', undefined, keep)

  const version = await versions.find(model, store)
  if (version === undefined) return forward('miss', 'model-version', keep)
  const entry = parseEntry((await store.read(await keyUnder(version))) ?? '')
  const objection = entry ? objectionTo(entry, wish, clock.epochMs()) : 'miss'
  if (!entry || objection) return forward(objection ?? 'miss', undefined, keep)
  const ttlSeconds = entry.ttlSeconds - ageSeconds(entry, clock.epochMs())
  return { kind: 'hit', entry, dialect: wish.dialect, outcome: { hit: true, ttlSeconds } }
}

/** The headers by which an answer tells what caches did: ours after those nearer to the engine. */
export function statusHeader(outcome: CacheOutcome, before?: string | null): string {
  return cacheStatus(CACHE_NAME, outcome, before)
}

/** A stored answer in the form that the caller asked for, with an id and a time of its own. */
export function replay(
  entry: CacheEntry,
  dialect: CacheableDialect,
  { stream, withholdUsage }: { readonly stream: boolean; readonly withholdUsage: boolean },
  clock: Clock,
): { readonly body: string; readonly contentType: string } {
  const fresh = {
    id: crypto.randomUUID().replaceAll('-', ''),
    createdSeconds: Math.floor(clock.epochMs() / 1_000),
  }
  const form = ANSWER_FORMS[dialect]
  return stream
    ? { body: form.toEvents(entry.json, fresh, !withholdUsage), contentType: 'text/event-stream; charset=utf-8' }
    : { body: form.toJson(entry.json, fresh), contentType: 'application/json' }
}

type UsedWish = Extract<CacheWish, { uses: true }>
/** The key of the request's answer while its model is of this version. */
type KeyUnder = (modelVersion: string) => Promise<string>

function createKeyMaker({ scope, members }: CacheRequest, { dialect }: UsedWish, deps: CacheDeps): KeyUnder {
  const kept = new Map([...members].filter(([name]) => isInKey(dialect, name)))
  const body = serialiseBody(kept)
  let last: { readonly version: string; readonly key: string } | undefined
  return async (modelVersion) => {
    if (last?.version === modelVersion) return last.key
    const head = cacheKeyHead({ scope, dialect, modelVersion, epoch: deps.epoch })
    const key = toBase64url(await hmacSha256(deps.secret, head + body))
    last = { version: modelVersion, key }
    return key
  }
}

function createKeep({ dialect, toolCalls }: UsedWish, keyUnder: KeyUnder, policy: CachePolicy, deps: CacheDeps): Keep {
  return (headers, streams) => {
    const version = headers.get(HEADER.modelVersion)
    if (version === null) return undefined
    // What the router had stored is as old as it says.
    const receivedMs = deps.clock.epochMs() - ageOf(headers) * 1_000
    const keeper = createKeeper(dialect, streams, deps.onBug)
    return {
      push: keeper.push,
      async store() {
        const kept = keeper.end()
        if (!kept || (kept.callsTools && !toolCalls)) return
        const ttlSeconds = drawTtlSeconds(policy, deps.random)
        const entry = { ...kept, storedAtMs: receivedMs, ttlSeconds }
        const leftSeconds = ttlSeconds - ageSeconds(entry, deps.clock.epochMs())
        if (leftSeconds > 0) await deps.store.write(await keyUnder(version), formatEntry(entry), leftSeconds)
      },
    }
  }
}

function ageOf(headers: Headers): number {
  const age = headers.get('age') ?? ''
  return /^\d{1,9}$/.test(age) ? Number(age) : 0
}
