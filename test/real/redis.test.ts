// The tier that routers share over a real redis-server, through what real ones go through: never an error, never slower
// than its budget and what this process itself takes, and used again when it is back.
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as delay } from 'node:timers/promises'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { LOOKUP_BUDGET_MS, VALUE_BYTES_MAX } from '../../cluster/cache/redis.ts'
import { connectedTier, type Rig, startTier, until, untilSaved } from '../cluster/cache/redis-rig.ts'
import { installRedis } from './install-redis.ts'
import { type Redis, startRedis } from './redis.ts'

/** Requests that are looking something up at every moment. */
const LOAD = 32
const KEYS = 64

async function serve(args?: readonly string[]): Promise<Redis> {
  const redis = await startRedis(args)
  onTestFinished(redis.stop)
  return redis
}

const urlOf = ({ port }: Redis): string => `redis://127.0.0.1:${port}`

beforeAll(async () => {
  await installRedis()
})

/** Looks up and saves all the time until it is ended; gives how long lookups took. */
function startLoad({ tier }: Rig) {
  const tookMs: number[] = []
  const wrong: string[] = []
  const pauses = monitorEventLoopDelay({ resolution: 1 })
  pauses.enable()
  let going = true
  async function ask(client: number): Promise<void> {
    for (let turn = client; going; turn++) {
      const key = `key ${turn % KEYS}`
      const startedAtMs = performance.now()
      const value = await tier.get(key)
      tookMs.push(performance.now() - startedAtMs)
      if (value && value.toString() !== `of ${key}`) wrong.push(key)
      if (!value) tier.set(key, Buffer.from(`of ${key}`), 60_000)
      await delay(1)
    }
  }
  const clients = Array.from({ length: LOAD }, (_, client) => ask(client))
  return {
    async end() {
      going = false
      await Promise.all(clients)
      pauses.disable()
      const sorted = tookMs.toSorted((a, b) => a - b)
      const p99Ms = sorted[Math.floor(sorted.length * 0.99)] ?? 0
      return { wrong, lookups: tookMs.length, p99Ms, mostMs: sorted.at(-1) ?? 0, pauseMs: pauses.max / 1e6 }
    },
  }
}

async function expectWithinBudget(load: ReturnType<typeof startLoad>, what: string): Promise<void> {
  const { wrong, lookups, p99Ms, mostMs, pauseMs } = await load.end()
  const told = [lookups, p99Ms, mostMs, pauseMs].map((number) => number.toFixed(1))
  process.stdout.write(
    `  ${what}: ${told[0]} lookups, p99 ${told[1]} ms, at most ${told[2]} ms (longest pause ${told[3]} ms)\n`,
  )
  expect(wrong).toEqual([])
  expect(p99Ms).toBeLessThan(LOOKUP_BUDGET_MS + 10)
  expect(mostMs).toBeLessThan(LOOKUP_BUDGET_MS + 10 + 2 * pauseMs)
}

describe('a real Redis', () => {
  it('keeps what was saved until it expires', async () => {
    const rig = await connectedTier(urlOf(await serve()))
    const bytes = Buffer.from(Array.from({ length: VALUE_BYTES_MAX }, (_, index) => index % 251))
    expect(await rig.set('large', bytes)).toBe('saved')
    await rig.set('brief', 'x', 300)
    expect((await rig.get('brief')).outcome).toBe('hit')
    expect((await rig.tier.get('large'))?.equals(bytes)).toBe(true)
    await delay(350)
    expect((await rig.get('brief')).outcome).toBe('miss')
  })

  it('with a password is used with it, and not with another', async () => {
    const redis = await serve(['--requirepass', 'p@ss word'])
    const rig = await connectedTier(`redis://:p%40ss%20word@127.0.0.1:${redis.port}/3`)
    await rig.set('key', 'value')
    expect((await rig.get('key')).value).toBe('value')
    for (const [userInfo, cause] of [
      [':wrong@', 'it refuses the password'],
      ['', 'it wants a password'],
    ] as const) {
      const refused = startTier(`redis://${userInfo}127.0.0.1:${redis.port}`)
      await until(() => refused.events.length > 0)
      expect(refused.events).toMatchObject([{ type: 'redis-lost', cause }])
      expect((await refused.get('key')).outcome).toBe('not-asked')
    }
  })

  it('asks its user for no right but to read and write these keys', async () => {
    const redis = await serve(['--user', 'warm', 'on', '>secret', '~warmpath:response:*', '+get', '+set'])
    const rig = await connectedTier(`redis://warm:secret@127.0.0.1:${redis.port}`)
    expect(await rig.set('key', 'value')).toBe('saved')
    expect((await rig.get('key')).value).toBe('value')
  })

  it('that has no password, no such database, or too many clients says so', async () => {
    const redis = await serve(['--databases', '2', '--maxclients', '2'])
    for (const [userInfo, database, cause] of [
      [':secret@', 0, 'it has no password, and the URL has one'],
      ['', 2, 'it has no database of this number'],
    ] as const) {
      const refused = startTier(`redis://${userInfo}127.0.0.1:${redis.port}/${database}`)
      await until(() => refused.events.length > 0)
      expect(refused.events).toMatchObject([{ type: 'redis-lost', cause }])
      await refused.tier.close()
    }
    await connectedTier(urlOf(redis))
    const surplus = startTier(urlOf(redis))
    await until(() => surplus.events.length > 0)
    expect(surplus.events).toMatchObject([{ type: 'redis-lost', cause: 'it has too many clients' }])
  })

  it('under load answers in a fraction of the budget', async () => {
    const rig = await connectedTier(urlOf(await serve()))
    const load = startLoad(rig)
    await until(() => rig.lookups.filter((outcome) => outcome === 'hit').length > 5_000)
    const { wrong, p99Ms } = await load.end()
    expect(wrong).toEqual([])
    expect(p99Ms).toBeLessThan(LOOKUP_BUDGET_MS / 2)
    expect(rig.events).toHaveLength(1)
  })

  it('that is killed and started again under load costs no request more than the budget', async () => {
    const redis = await serve()
    const rig = await connectedTier(urlOf(redis))
    const load = startLoad(rig)
    await until(() => rig.lookups.includes('hit'))
    await redis.kill()
    await until(() => rig.tier.state() === 'resting')
    await redis.start()
    await until(() => rig.tier.state() === 'connected')
    await untilSaved(rig)
    const before = rig.lookups.length
    await until(() => rig.lookups.slice(before).includes('hit'))
    await expectWithinBudget(load, 'killed and started')
    expect(rig.events.map(({ type }) => type)).toEqual(['redis-answers', 'redis-lost', 'redis-answers'])
  })

  it('that stalls under load is left alone, and used again when it goes on', async () => {
    const redis = await serve()
    const rig = await connectedTier(urlOf(redis))
    const load = startLoad(rig)
    await until(() => rig.lookups.includes('hit'))
    redis.pause()
    await until(() => rig.tier.state() === 'resting')
    // Through a probe that fails.
    await until(() => rig.tier.state() === 'connecting')
    await until(() => rig.tier.state() === 'resting')
    redis.resume()
    await until(() => rig.tier.state() === 'connected')
    const before = rig.lookups.length
    await until(() => rig.lookups.slice(before).includes('hit'))
    await expectWithinBudget(load, 'stalled')
    expect(rig.events.map(({ type }) => type)).toEqual(['redis-answers', 'redis-lost', 'redis-answers'])
    expect(rig.lookups.filter((outcome) => outcome === 'late').length).toBeLessThanOrEqual(2 * LOAD)
  })

  it('that is full is read still', async () => {
    const redis = await serve(['--maxmemory', '8mb', '--maxmemory-policy', 'noeviction'])
    const rig = await connectedTier(urlOf(redis))
    await rig.set('kept', 'value')
    const load = startLoad(rig)
    for (let save = 0; !rig.events.some(({ type }) => type === 'redis-refuses-saves'); save++) {
      await rig.set(`filler ${save}`, Buffer.alloc(VALUE_BYTES_MAX / 2))
      expect(save).toBeLessThan(2_000)
    }
    for (let lookup = 0; lookup < 100; lookup++) expect((await rig.get('kept')).value).toBe('value')
    await expectWithinBudget(load, 'full')
    expect(rig.tier.state()).toBe('connected')
    expect(rig.events.slice(0, 2)).toMatchObject([
      { type: 'redis-answers' },
      { type: 'redis-refuses-saves', cause: 'its memory is full' },
    ])
  })

  it('is not taken for slow when it was this process that paused', async () => {
    const rig = await connectedTier(urlOf(await serve()))
    await rig.set('key', 'value')
    for (let round = 0; round < 3; round++) {
      const lookups = Array.from({ length: 20 }, () => rig.tier.get('key'))
      const untilMs = performance.now() + 3 * LOOKUP_BUDGET_MS
      while (performance.now() < untilMs);
      expect((await Promise.all(lookups)).map(String)).toEqual(Array(20).fill('value'))
    }
    expect(rig.events).toHaveLength(1)
  })
})
