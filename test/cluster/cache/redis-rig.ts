// A tier against a server, with everything that it told; it is closed when the test ends.
import { expect, onTestFinished } from 'vitest'
import {
  connectRedis,
  LOOKUP_BUDGET_MS,
  type RedisEvent,
  type RedisLookup,
  type RedisSave,
  type RedisTier,
} from '../../../cluster/cache/redis.ts'

/** Tests share two cores with others. */
export const NOISE_MS = 100
const WITHIN_MS = 10_000

export type Rig = {
  readonly tier: RedisTier
  readonly lookups: readonly RedisLookup[]
  readonly saves: readonly RedisSave[]
  readonly events: readonly RedisEvent[]
  /** A lookup that must end in time; what it found, and what was told of it. */
  readonly get: (key: string) => Promise<{ readonly value: string | undefined; readonly outcome: RedisLookup }>
  /** Saves, and waits for what became of it. */
  readonly set: (key: string, value: string | Buffer, ttlMs?: number) => Promise<RedisSave>
}

export function startTier(url: string): Rig {
  const lookups: RedisLookup[] = []
  const saves: RedisSave[] = []
  const events: RedisEvent[] = []
  const tier = connectRedis(url, {
    nowMs: () => performance.now(),
    // Short rests.
    random: () => 0.999,
    onLookup: (outcome) => lookups.push(outcome),
    onSave: (outcome) => saves.push(outcome),
    onEvent: (event) => events.push(event),
  })
  onTestFinished(tier.close)
  return {
    tier,
    lookups,
    saves,
    events,
    async get(key) {
      const startedAtMs = performance.now()
      const told = lookups.length
      const value = await tier.get(key)
      expect(performance.now() - startedAtMs).toBeLessThan(LOOKUP_BUDGET_MS + NOISE_MS)
      return { value: value?.toString(), outcome: lookups[told] as RedisLookup }
    },
    async set(key, value, ttlMs = 60_000) {
      const told = saves.length
      tier.set(key, Buffer.from(value), ttlMs)
      await until(() => saves.length > told)
      return saves[told] as RedisSave
    },
  }
}

/** Resolves when it is so; throws when it never is. */
export async function until(isSo: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + WITHIN_MS
  while (!isSo()) {
    if (performance.now() > deadlineMs) throw new Error(`not within ${WITHIN_MS} ms: ${isSo}`)
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}

/** A tier whose two connections are made. */
export async function connectedTier(url: string): Promise<Rig> {
  const rig = startTier(url)
  await until(() => rig.tier.state() === 'connected')
  await untilSaved(rig)
  return rig
}

/** The connection for saves tells nothing: it takes one when it is there. */
export async function untilSaved(rig: Rig): Promise<void> {
  const deadlineMs = performance.now() + WITHIN_MS
  while ((await rig.set('first', 'x')) !== 'saved') {
    if (performance.now() > deadlineMs) throw new Error('nothing is saved')
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}
