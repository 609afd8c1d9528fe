// The response cache's second tier: a Redis that routers share. Whatever becomes of it, a lookup gives what was saved or
// nothing, in bounded time, and never an error.
import { UserError } from '../user-error.ts'
import { type RedisConnection, RedisFault, within } from './redis-connection.ts'
import { createRedisLink, type RedisLink } from './redis-link.ts'
import { readRedisUrl } from './redis-url.ts'
import { HEADER_BYTES_MAX, KEY_BYTES_MAX, packValue, unpackValue } from './redis-value.ts'

/** What a lookup may cost a request. A Redis nearby answers in less than one. */
export const LOOKUP_BUDGET_MS = 50
export const VALUE_BYTES_MAX = 1024 * 1024
export const SAVES_MAX = 256
export const SAVES_BYTES_MAX = 32 * 1024 * 1024
const LOOKUPS_MAX = 1_024
/** As long as all that may be under way takes on a slow network. */
const SAVE_WITHIN_MS = 5_000
const CLOSE_WITHIN_MS = 500
const TTL_MS_MAX = 365 * 24 * 3_600_000
const KEY_PREFIX = 'warmpath:response:'

/** `late`: not within the budget. `not-asked`: there is no connection now. `wrong-key`: it gave what is stored elsewhere. */
export type RedisLookup = 'hit' | 'miss' | 'late' | 'failed' | 'not-asked' | 'wrong-key'
/** `dropped`: not tried, because too much is under way, it is too large, or there is no connection now. */
export type RedisSave = 'saved' | 'failed' | 'dropped'

/** Each of two things is told when it changes, and once: whether Redis answers, and whether it takes what is saved. */
export type RedisEvent =
  | { readonly type: 'redis-answers' | 'redis-takes-saves'; readonly redis: string }
  | { readonly type: 'redis-lost' | 'redis-refuses-saves'; readonly redis: string; readonly cause: string }

export type RedisTier = {
  /** The value, or undefined. Never rejects and never takes longer than the budget. */
  readonly get: (key: string) => Promise<Buffer | undefined>
  /** Saves in the background; dropped when too much is under way or Redis is resting. Never throws. */
  readonly set: (key: string, value: Buffer, ttlMs: number) => void
  /** For metrics and logs. */
  readonly state: () => 'connected' | 'connecting' | 'resting'
  /** Resolves in bounded time, with what is under way saved where Redis answers. */
  readonly close: () => Promise<void>
}

export type RedisDeps = {
  readonly nowMs: () => number
  readonly random: () => number
  readonly onLookup: (outcome: RedisLookup, seconds: number) => void
  readonly onSave: (outcome: RedisSave) => void
  readonly onEvent: (event: RedisEvent) => void
}

/** Returns at once, whatever Redis does. Throws a UserError for an URL that redisUrlFault() has words for. */
export function connectRedis(url: string, { nowMs, random, onLookup, onSave, onEvent }: RedisDeps): RedisTier {
  const target = readRedisUrl(url)
  if (typeof target === 'string') throw new UserError(`the URL of Redis: ${target}`)
  const { name: redis } = target
  const common = {
    target,
    nowMs,
    random,
    valueBytesMax: VALUE_BYTES_MAX + HEADER_BYTES_MAX,
    keyPrefix: KEY_PREFIX,
    probeWithinMs: LOOKUP_BUDGET_MS,
  }

  let told: 'redis-answers' | 'redis-lost' | undefined
  const lookups = createRedisLink({
    ...common,
    onUp() {
      if (told !== 'redis-answers') onEvent({ type: 'redis-answers', redis })
      told = 'redis-answers'
    },
    onRest(cause) {
      if (told !== 'redis-lost') onEvent({ type: 'redis-lost', redis, cause })
      told = 'redis-lost'
    },
  })
  // A connection of their own: a lookup must not wait behind megabytes, and a Redis that takes no writes has answers yet.
  const saves = createRedisLink({ ...common, onUp() {}, onRest() {} })
  let lookupsUnderWay = 0
  let savesUnderWay = 0
  let savesBytes = 0
  let refusesSaves = false

  async function find(on: RedisConnection, key: Buffer): Promise<Buffer | RedisLookup> {
    const reply = await within(LOOKUP_BUDGET_MS, on.get(key))
    if (reply === 'late') {
      lookups.failed(on, `its answers take longer than ${LOOKUP_BUDGET_MS} ms`)
      return 'late'
    }
    if (reply instanceof RedisFault) {
      lookups.failed(on, reply.message)
      return 'failed'
    }
    const value = reply === null ? null : unpackValue(key, reply)
    if (value === 'wrong-key') {
      lookups.broken(on, 'it gave what is stored under another key')
      return 'wrong-key'
    }
    lookups.answered(on)
    if (value === null || value === 'other-format') return 'miss'
    return value.length > VALUE_BYTES_MAX ? 'failed' : value
  }

  async function save(on: RedisConnection, key: Buffer, value: Buffer, ttlMs: number): Promise<RedisSave> {
    const reply = await within(SAVE_WITHIN_MS, on.set(key, packValue(key, value), ttlMs))
    if (reply === undefined) {
      saves.answered(on)
      if (refusesSaves) onEvent({ type: 'redis-takes-saves', redis })
      refusesSaves = false
      return 'saved'
    }
    if (reply === 'late') {
      saves.broken(on, 'late')
    } else {
      saves.failed(on, reply.message)
      if (reply.refused && saves.state() === 'resting' && !refusesSaves) {
        refusesSaves = true
        onEvent({ type: 'redis-refuses-saves', redis, cause: reply.message })
      }
    }
    return 'failed'
  }

  return {
    async get(key) {
      const startedAtMs = nowMs()
      const on = lookups.connection()
      const storedUnder = storedKey(key)
      let found: Buffer | RedisLookup = 'not-asked'
      if (on && storedUnder && lookupsUnderWay < LOOKUPS_MAX) {
        lookupsUnderWay++
        found = await find(on, storedUnder)
        lookupsUnderWay--
      }
      onLookup(typeof found === 'string' ? found : 'hit', (nowMs() - startedAtMs) / 1_000)
      return typeof found === 'string' ? undefined : found
    },
    set(key, value, ttlMs) {
      const on = saves.connection()
      const storedUnder = storedKey(key)
      const ttl = Math.min(Math.floor(ttlMs), TTL_MS_MAX)
      const fits =
        value.length <= VALUE_BYTES_MAX && savesUnderWay < SAVES_MAX && savesBytes + value.length <= SAVES_BYTES_MAX
      if (!on || !storedUnder || !fits || !(ttl >= 1)) return onSave('dropped')
      savesUnderWay++
      savesBytes += value.length
      void save(on, storedUnder, value, ttl).then((outcome) => {
        savesUnderWay--
        savesBytes -= value.length
        onSave(outcome)
      })
    },
    state: lookups.state,
    async close() {
      await Promise.all([part(lookups), part(saves)])
    },
  }
}

async function part(link: RedisLink): Promise<void> {
  const last = link.close()
  if (last && (await within(CLOSE_WITHIN_MS, last.quit())) === 'late') last.drop()
}

function storedKey(key: string): Buffer | undefined {
  const bytes = Buffer.from(`${KEY_PREFIX}${key}`)
  return bytes.length <= KEY_BYTES_MAX ? bytes : undefined
}
