// Memory, then Redis, then one of those who ask the same: every path, and every way in which it can be lost.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createFlights, type Landing } from '../../../cluster/cache/flights.ts'
import { createMemoryTier } from '../../../cluster/cache/memory.ts'
import type { RedisTier } from '../../../cluster/cache/redis.ts'
import { createResponseCache, type Found, JOIN_WAIT_MS } from '../../../cluster/cache/response-cache.ts'
import { type CacheEntry, formatEntry } from '../../../shared/cache/entry.ts'
import type { CacheWish } from '../../../shared/cache/policy.ts'

type Wish = Extract<CacheWish, { uses: true }>
const WISH: Wish = {
  uses: true,
  dialect: 'chat',
  reads: true,
  maxAgeSeconds: undefined,
  onlyIfCached: false,
  toolCalls: false,
}

beforeEach(() => {
  vi.useFakeTimers({ now: 1_000_000 })
})
afterEach(() => {
  vi.useRealTimers()
})

const JSON_KEPT =
  '{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"hi"}}],"object":"chat.completion","usage":{"total_tokens":1}}'

function entryAt(storedAtMs: number, json = JSON_KEPT): CacheEntry {
  return { storedAtMs, ttlSeconds: 100, callsTools: false, json }
}

/** Redis as a map, of which a test can see what was saved. */
function fakeRedis(): RedisTier & { readonly saved: Map<string, { value: Buffer; ttlMs: number }>; asked: number } {
  const saved = new Map<string, { value: Buffer; ttlMs: number }>()
  return {
    saved,
    asked: 0,
    async get(key) {
      this.asked++
      return saved.get(key)?.value
    },
    set: (key, value, ttlMs) => void saved.set(key, { value, ttlMs }),
    state: () => 'connected',
    close: async () => {},
  }
}

function rig(redis: RedisTier | undefined = undefined) {
  const memory = createMemoryTier(1e6)
  const flights = createFlights(Date.now)
  const cache = createResponseCache({ memory, redis, flights, epochMs: Date.now, nowMs: Date.now })
  const here = new AbortController().signal
  const find = (wish: Partial<Wish> = {}, left = here): Promise<Found> => cache.find('key', { ...WISH, ...wish }, left)
  return { memory, flights, find }
}

function land(found: Found, landing: Landing): void {
  if (found.kind !== 'absent' || !found.land) throw new Error(`not a leader: ${JSON.stringify(found)}`)
  found.land(landing)
}

describe('where an answer is found', () => {
  it('in memory first, and Redis is not asked', async () => {
    const redis = fakeRedis()
    const { memory, find } = rig(redis)
    memory.set('key', entryAt(Date.now()))
    expect(await find()).toMatchObject({ kind: 'stored', tier: 'memory' })
    expect(redis.asked).toBe(0)
  })

  it('then in Redis, from where it comes into memory', async () => {
    const redis = fakeRedis()
    redis.set('key', Buffer.from(formatEntry(entryAt(Date.now()))), 1)
    const { memory, find } = rig(redis)
    expect(await find()).toMatchObject({ kind: 'stored', tier: 'redis', entry: { json: JSON_KEPT } })
    expect(memory.get('key')).toBeDefined()
  })

  it('what is too old in memory may be newer in Redis, where another router saved it', async () => {
    const redis = fakeRedis()
    redis.set('key', Buffer.from(formatEntry(entryAt(Date.now()))), 1)
    const { memory, find } = rig(redis)
    memory.set('key', entryAt(Date.now() - 100_000, '{"old":1}'))
    expect(await find()).toMatchObject({ kind: 'stored', tier: 'redis', entry: { json: JSON_KEPT } })
  })

  it.each([
    '',
    'nonsense',
    'warmpath-answer-1 x 1 0\n{}',
    'warmpath-answer-1 1 1 0',
    ...['', 'null', '{}', '[]', '{"a":', JSON_KEPT.slice(0, -1), JSON_KEPT.replace('"hi"', '7')].map((json) =>
      formatEntry(entryAt(1_000_000, json)),
    ),
    formatEntry({ ...entryAt(1_000_000), ttlSeconds: 999_999_999 }),
    formatEntry(entryAt(9_999_999_999_999)),
  ])('what Redis holds and is no answer is none: %j', async (text) => {
    const redis = fakeRedis()
    redis.set('key', Buffer.from(text), 1)
    expect(await rig(redis).find()).toMatchObject({ kind: 'absent', forwarded: 'miss' })
  })

  it('nowhere: the answer is saved in both, for as long as it is good', async () => {
    const redis = fakeRedis()
    const { memory, find } = rig(redis)
    const found = await find()
    expect(found).toMatchObject({ kind: 'absent', forwarded: 'miss' })
    land(found, entryAt(Date.now()))
    expect(memory.get('key')).toBeDefined()
    expect(redis.saved.get('key')?.ttlMs).toBe(100_000)
    expect(await find()).toMatchObject({ kind: 'stored', tier: 'memory' })
  })

  it('no-cache does not look, does not wait, and saves', async () => {
    const { memory, find } = rig()
    memory.set('key', entryAt(Date.now(), '{"old":1}'))
    const [first, second] = [await find({ reads: false }), await find({ reads: false })]
    expect(first).toMatchObject({ kind: 'absent', forwarded: 'request' })
    land(second, entryAt(Date.now(), '{"new":1}'))
    expect(memory.get('key')?.json).toBe('{"new":1}')
  })

  it('an answer older than max-age is computed again', async () => {
    const { memory, find } = rig()
    memory.set('key', entryAt(Date.now() - 50_000))
    expect(await find({ maxAgeSeconds: 60 })).toMatchObject({ kind: 'stored' })
    expect(await find({ maxAgeSeconds: 40 })).toMatchObject({ kind: 'absent', forwarded: 'stale' })
  })

  it('only-if-cached begins nothing that others would wait for', async () => {
    const { flights, find } = rig()
    expect(await find({ onlyIfCached: true })).toEqual({ kind: 'absent', forwarded: 'miss', land: undefined })
    expect(flights.underWay()).toBe(0)
  })
})

describe('equal requests at once', () => {
  it('one computes, the others get its answer', async () => {
    const { find, flights } = rig()
    const leader = await find()
    const others = [find(), find({ toolCalls: true }), find()]
    await vi.advanceTimersByTimeAsync(JOIN_WAIT_MS - 1)
    land(leader, entryAt(Date.now()))
    for (const other of await Promise.all(others)) expect(other).toMatchObject({ kind: 'joined' })
    expect(flights.underWay()).toBe(0)
  })

  it('who has waited long enough computes for itself, and does not make others wait', async () => {
    const { find } = rig()
    const leader = await find()
    const other = find()
    await vi.advanceTimersByTimeAsync(JOIN_WAIT_MS)
    expect(await other).toEqual({ kind: 'absent', forwarded: 'miss', land: undefined })
    land(leader, 'lost')
  })

  it('who comes late to a long one does not wait', async () => {
    const { find } = rig()
    const leader = await find()
    await vi.advanceTimersByTimeAsync(JOIN_WAIT_MS - 1)
    const soon = find()
    await vi.advanceTimersByTimeAsync(1)
    expect(await soon).toMatchObject({ kind: 'absent', land: undefined })
    expect(await find()).toMatchObject({ kind: 'absent', land: undefined })
    land(leader, 'lost')
  })

  it('a lost leader is replaced by one of those who wait', async () => {
    const { find } = rig()
    const leader = await find()
    const others = [find(), find()]
    await vi.advanceTimersByTimeAsync(10)
    land(leader, 'lost')
    const next = await Promise.race(others)
    land(next, entryAt(Date.now()))
    const found = (await Promise.all(others)).map(({ kind }) => kind).sort()
    expect(found).toEqual(['absent', 'joined'])
  })

  it('an answer that is not for others holds nobody up', async () => {
    const { find } = rig()
    const leader = await find()
    const others = [find(), find(), find()]
    await vi.advanceTimersByTimeAsync(10)
    land(leader, 'unkept')
    for (const other of await Promise.all(others)) expect(other).toMatchObject({ kind: 'absent', land: undefined })
  })

  it('a call of tools goes to those alone who asked for such', async () => {
    const { find } = rig()
    const leader = await find({ toolCalls: true })
    const [plain, asking] = [find(), find({ toolCalls: true })]
    await vi.advanceTimersByTimeAsync(10)
    land(leader, { ...entryAt(Date.now()), callsTools: true })
    expect(await plain).toMatchObject({ kind: 'absent' })
    expect(await asking).toMatchObject({ kind: 'joined' })
  })

  it('who leaves while it waits leads nothing', async () => {
    const { find, flights } = rig()
    const leader = await find()
    const leaving = new AbortController()
    const other = find({}, leaving.signal)
    leaving.abort()
    expect(await other).toMatchObject({ kind: 'absent', land: undefined })
    land(leader, 'lost')
    expect(flights.underWay()).toBe(0)
  })

  it('landing twice lands once', async () => {
    const { memory, find, flights } = rig()
    const leader = await find()
    land(leader, 'lost')
    const next = await find()
    land(leader, 'lost')
    expect(flights.underWay()).toBe(1)
    land(next, entryAt(Date.now()))
    expect(memory.get('key')).toBeDefined()
  })
})
