// The response cache's place in a request's story: asked before anything is decided, answered from when it can be, and told
// what an engine says otherwise.
import type { IncomingMessage, ServerResponse } from 'node:http'
import { ANSWER_FORMS } from '../../shared/answers/forms.ts'
import { readDirectives } from '../../shared/cache/directives.ts'
import { ageSeconds, type CacheEntry } from '../../shared/cache/entry.ts'
import { createKeeper } from '../../shared/cache/keeper.ts'
import { type CacheableDialect, isInKey } from '../../shared/cache/key.ts'
import {
  type Bypass,
  type CachePolicy,
  type CacheWish,
  cacheWishOf,
  drawTtlSeconds,
} from '../../shared/cache/policy.ts'
import { type CacheOutcome, cacheStatus } from '../../shared/cache/status.ts'
import { bodyPieces, canonicaliseBody, serialiseBody } from '../../shared/canonical-body.ts'
import type { Rejection } from '../../shared/rejection.ts'
import type { Land } from '../cache/flights.ts'
import { type Found, type ResponseCache, responseCacheKey } from '../cache/response-cache.ts'
import type { CacheNote } from '../epp/decision-log.ts'
import { type BodyMember, memberText, rewriteBody } from '../prompts/body.ts'
import { type Caller, cacheScopeOf } from './caller.ts'
import type { EngineRequest } from './engine-request.ts'
import { headerOf } from './refuse.ts'

/** How this cache is called in Cache-Status. */
const CACHE_NAME = 'warmpath-router'

export type CachingDeps = {
  /** Undefined: it is off. Read per request: configuration may change it. */
  readonly policy: () => (CachePolicy & { readonly epoch: string }) | undefined
  readonly cache: ResponseCache
  /** Under which keys are made. */
  readonly secret: string
  readonly modelVersion: (model: string) => string | undefined
  readonly onOutcome: (outcome: CacheNote['outcome']) => void
  readonly random: () => number
  readonly onBug: (error: unknown) => void
  readonly epochMs: () => number
}

/** What an exchange tells of an answer that may be kept. */
export type Keeping = {
  /** A good answer begins. */
  readonly begin: (streams: boolean) => void
  /** Takes the engine's bytes as they come. */
  readonly push: (chunk: Uint8Array) => void
  /** `whole`: the last byte of a good answer came. Without, it is called when the caller's connection closes. */
  readonly over: (whole: boolean) => void
}

export type CacheStep =
  | { readonly kind: 'stored'; readonly entry: CacheEntry; readonly dialect: CacheableDialect }
  | { readonly kind: 'forward'; readonly keeping: Keeping | undefined }
  | { readonly kind: 'refused'; readonly rejection: Rejection }

export type CacheStepResult = CacheStep & {
  readonly note: CacheNote
  /** For Cache-Status. */
  readonly status: string
}

/** Asks the cache. Never rejects for what a cache does. */
export async function askCache(
  deps: CachingDeps,
  caller: Caller,
  request: EngineRequest,
  req: IncomingMessage,
  res: ServerResponse,
): Promise<CacheStepResult> {
  const policy = deps.policy()
  const { wish, key, version } = policy ? keyOf(deps, policy, caller, request, req) : off(req)
  if (!policy || !wish.uses) {
    const because = wish.uses ? 'off' : wish.because
    deps.onOutcome(because)
    return result({ outcome: because }, { hit: false, forwarded: 'bypass', detail: because }, wish.onlyIfCached)
  }
  const left = new AbortController()
  const leave = (): void => left.abort()
  res.once('close', leave)
  const found = await deps.cache.find(key, wish, left.signal)
  res.off('close', leave)
  const outcome = found.kind === 'absent' ? found.forwarded : found.kind === 'joined' ? 'joined' : found.tier
  deps.onOutcome(outcome)
  if (found.kind !== 'absent') return answered(found, wish.dialect, deps.epochMs())
  const isCurrent = () => deps.modelVersion(request.model) === version
  const keeping = found.land && createKeeping(found.land, wish, policy, isCurrent, deps)
  // However the request ends, those who wait for the same are told; after a good answer it is nothing.
  if (res.destroyed) keeping?.over(false)
  else res.once('close', () => keeping?.over(false))
  return result({ outcome: found.forwarded }, { hit: false, forwarded: found.forwarded }, wish.onlyIfCached, keeping)
}

/** Writes a stored answer in the form that was asked for. The caller has set every header but the content's. */
export function sendStored(
  res: ServerResponse,
  { entry, dialect }: Extract<CacheStep, { kind: 'stored' }>,
  { stream, withholdUsage }: EngineRequest,
  decisionId: string,
  epochMs: number,
): void {
  const form = ANSWER_FORMS[dialect]
  const fresh = { id: decisionId, createdSeconds: Math.floor(epochMs / 1_000) }
  const text = stream ? form.toEvents(entry.json, fresh, !withholdUsage) : form.toJson(entry.json, fresh)
  res.setHeader('content-type', stream ? 'text/event-stream; charset=utf-8' : 'application/json')
  res.setHeader('content-length', Buffer.byteLength(text))
  if (stream) res.setHeader('cache-control', 'no-cache, no-transform')
  res.setHeader('age', ageSeconds(entry, epochMs))
  res.writeHead(200)
  res.end(text)
}

/** What is asked of the cache, under which key, and of which version of the model; the two are empty when it is not used. */
type Asked = { readonly wish: CacheWish; readonly key: string; readonly version: string }

function unused(because: Bypass | 'off', onlyIfCached: boolean): Asked {
  return { wish: { uses: false, because, onlyIfCached }, key: '', version: '' }
}

function off(req: IncomingMessage): Asked {
  return unused('off', readDirectives(headerOf(req, 'cache-control')).onlyIfCached)
}

const NOT_CACHED: Rejection = {
  reason: 'not-cached',
  message: 'No stored answer, and the request wants no other (cache-control: only-if-cached).',
}

type UsedWish = Extract<CacheWish, { uses: true }>

function keyOf(
  { modelVersion, secret }: CachingDeps,
  policy: CachePolicy & { readonly epoch: string },
  caller: Caller,
  { dialect, model, source, members }: EngineRequest,
  req: IncomingMessage,
): Asked {
  const member = (name: string): string | undefined => {
    const found = members.find((each) => each.name === name)
    return found && memberText(source, found)
  }
  const wish = cacheWishOf(dialect, member, headerOf(req, 'cache-control'), policy)
  if (!wish.uses) return { wish, key: '', version: '' }
  const not = (because: Bypass) => unused(because, wish.onlyIfCached)
  const scope = cacheScopeOf(caller, req.headers)
  if (scope === undefined) return not('scope')
  const version = modelVersion(model)
  if (version === undefined) return not('model-version')
  const parts = { scope, dialect: wish.dialect, modelVersion: version, epoch: policy.epoch }
  const keyed = keyedBody(wish.dialect, source, members, caller.trusted)
  return keyed ? { wish, key: responseCacheKey(secret, parts, keyed), version } : not('not-canonical')
}

/** What of a body is in the key, in its one spelling, in pieces. The edge's bodies are in it already. */
export function keyedBody(
  dialect: CacheableDialect,
  source: Buffer,
  members: readonly BodyMember[],
  canonical: boolean,
): readonly (string | Buffer)[] | undefined {
  const kept = rewriteBody(source, members, (name) => !isInKey(dialect, name), NOTHING_SET)
  if (canonical) return [kept]
  const body = canonicaliseBody(kept.toString())
  if (!body.ok) return undefined
  return kept.length < LARGE_BYTES ? [serialiseBody(body.members)] : bodyPieces(body.members)
}

/** From here on a copy costs more than a few calls. */
const LARGE_BYTES = 65_536
const NOTHING_SET: ReadonlyMap<string, string> = new Map()

function answered(
  found: Exclude<Found, { kind: 'absent' }>,
  dialect: CacheableDialect,
  nowMs: number,
): CacheStepResult {
  const { entry } = found
  const age = ageSeconds(entry, nowMs)
  const joined = found.kind === 'joined'
  const outcome: CacheOutcome = joined
    ? { hit: false, forwarded: 'miss', collapsed: true }
    : { hit: true, ttlSeconds: entry.ttlSeconds - age, detail: found.tier }
  const note: CacheNote = { outcome: joined ? 'joined' : found.tier, ageSeconds: age }
  return { kind: 'stored', entry, dialect, note, status: cacheStatus(CACHE_NAME, outcome) }
}

function result(
  note: CacheNote,
  outcome: CacheOutcome,
  onlyIfCached: boolean,
  keeping?: Keeping | undefined,
): CacheStepResult {
  if (onlyIfCached) {
    const status = cacheStatus(CACHE_NAME, { hit: false, forwarded: undefined, detail: 'not-cached' })
    return { kind: 'refused', rejection: NOT_CACHED, note, status }
  }
  return { kind: 'forward', keeping, note, status: cacheStatus(CACHE_NAME, outcome) }
}

/** @param isCurrent whether the model still is what it was when the question came: another one's words have another key. */
function createKeeping(
  land: Land,
  wish: UsedWish,
  policy: CachePolicy,
  isCurrent: () => boolean,
  deps: CachingDeps,
): Keeping {
  let keeper: ReturnType<typeof createKeeper> | undefined
  return {
    begin(streams) {
      keeper = createKeeper(wish.dialect, streams, deps.onBug)
    },
    push: (chunk) => keeper?.push(chunk),
    over(whole) {
      const kept = whole ? keeper?.end() : undefined
      keeper = undefined
      if (!kept || (kept.callsTools && !wish.toolCalls) || !isCurrent()) return land(whole ? 'unkept' : 'lost')
      land({ ...kept, storedAtMs: deps.epochMs(), ttlSeconds: drawTtlSeconds(policy, deps.random) })
    },
  }
}
