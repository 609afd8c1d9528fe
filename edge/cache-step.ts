// The response cache's place in the edge's story: what of it is the isolate's, and what the caller and the log are told.
import { ageSeconds } from '../shared/cache/entry.ts'
import { systemClock } from '../shared/clock.ts'
import { HEADER } from '../shared/headers.ts'
import type { Config } from './config.ts'
import { createModelVersions, type ModelVersions } from './model-version.ts'
import { type CacheDeps, type Consulted, type KeptBytes, replay, statusHeader } from './response-cache.ts'
import { cacheApiStore } from './store.ts'
import type { Visit } from './visit.ts'

const versionsOf = new WeakMap<Config, ModelVersions>()

/** @param url of the request at hand: entries lie under its origin. */
export function cacheDepsOf(config: Config, url: string, onBug: (error: unknown) => void): CacheDeps {
  let versions = versionsOf.get(config)
  if (!versions) {
    versions = createModelVersions(systemClock)
    versionsOf.set(config, versions)
  }
  const { policy, epoch } = config.cache
  const store = cacheApiStore(new URL(url).origin)
  return { policy, epoch, secret: config.pepper, versions, store, clock: systemClock, random: Math.random, onBug }
}

/** The answer to a caller whose question was answered before. */
export function storedAnswer(
  visit: Visit,
  { entry, dialect, outcome }: Extract<Consulted, { kind: 'hit' }>,
  wish: { readonly stream: boolean; readonly withholdUsage: boolean },
): Response {
  const { body, contentType } = replay(entry, dialect, wish, systemClock)
  const headers = new Headers({
    'content-type': contentType,
    'cache-status': statusHeader(outcome),
    age: String(ageSeconds(entry, systemClock.epochMs())),
  })
  if (wish.stream) headers.set('cache-control', 'no-cache, no-transform')
  visit.name(headers)
  visit.cache = 'hit'
  visit.settle(200, 'complete')
  return new Response(body, { status: 200, headers })
}

/**
 * Adds our word to the router's in the answer's headers, and begins to listen when the answer may be kept. `until` keeps
 * the isolate alive for what comes after the answer.
 */
export function followAnswer(
  visit: Visit,
  { outcome, keep, atMs }: Extract<Consulted, { kind: 'forward' }>,
  deps: CacheDeps,
  answer: Response,
  headers: Headers,
  until: (work: Promise<void>) => void,
): KeptBytes | undefined {
  const before = answer.headers.get('cache-status')
  headers.set('cache-status', statusHeader(outcome, before))
  // Of equal requests at once, one was computed; the others are `collapsed`.
  const byRouter = before !== null && /; (?:hit|collapsed)\b/.test(before)
  visit.cache = byRouter ? 'router' : outcome.hit ? 'hit' : outcome.forwarded
  if (answer.status !== 200) return undefined
  const version = answer.headers.get(HEADER.modelVersion)
  if (deps.policy && version !== null && visit.model !== undefined) {
    until(deps.versions.learn(visit.model, version, atMs, deps.store))
  }
  const streams = headers.get('content-type')?.startsWith('text/event-stream') ?? false
  return keep?.(answer.headers, streams)
}
