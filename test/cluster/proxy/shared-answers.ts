// Two routers before one Redis, whatever kind of it: what one has answered the other need not compute, and no request is lost
// or late because of the Redis.
import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { chat, type Generation, type Rig, startEngine, startRig, until } from './rig.ts'

export type SharedRedis = {
  readonly url: string
  readonly kill: () => Promise<void> | void
  readonly start: () => Promise<void> | void
  /** It keeps its connections and says nothing. */
  readonly pause: () => void
  readonly resume: () => void
}

const ACME = { authorization: 'Bearer acme' }
const CALLERS = 16
/** What a request may take when its look-up had to be given up: 50 ms, and this busy machine. */
const LATE_MS = 1_000
/** Of the time with a faulty Redis. */
const FAULT_MS = 1_000
/** A router leaves a lost Redis alone for a while, longer each time. */
const BACK_WITHIN_MS = 30_000

export function answerWhole({ res }: Generation): void {
  const message = { role: 'assistant', content: 'an answer' }
  const choices = [{ index: 0, message, logprobs: null, finish_reason: 'stop', stop_reason: null }]
  const usage = { prompt_tokens: 1, total_tokens: 2, completion_tokens: 1 }
  res.writeHead(200, { 'content-type': 'application/json' })
  res.end(JSON.stringify({ id: 'chatcmpl-1', object: 'chat.completion', created: 1, model: 'm', choices, usage }))
}

let asked = 0
const question = () => ({ model: 'm', temperature: 0, messages: [{ role: 'user', content: `question ${++asked}` }] })

export function describeSharedAnswers(name: string, startRedis: () => Promise<SharedRedis>): void {
  async function start() {
    const redis = await startRedis()
    const engine = await startEngine(answerWhole)
    // Without a memory of its own each look-up goes to Redis.
    const cache = { keep: 'deterministic', toolCalls: false, ttlSeconds: 60, memoryBytes: 0, epoch: '' } as const
    const start = () => startRig([engine], { cache: { ...cache, redis: redis.url } })
    const [one, other] = [await start(), await start()]
    await untilShared(one, other)
    return { redis, engine, one, other }
  }

  /** Resolves when an answer of the one is found by the other. */
  async function untilShared(one: Rig, other: Rig): Promise<void> {
    const endMs = performance.now() + BACK_WITHIN_MS
    await until(async () => {
      if (performance.now() > endMs) throw new Error('Redis is not used again')
      const body = question()
      await chat(one.url, body, ACME).answer
      await delay(20)
      const { headers } = await chat(other.url, body, ACME).answer
      return headers['cache-status']?.includes('detail=redis') ?? false
    })
  }

  /** Callers that ask one thing after the other, new ones and old ones, until they are stopped. */
  function startLoad({ url }: Rig) {
    const statuses = new Set<number>()
    let mostMs = 0
    let count = 0
    let going = true
    async function call(): Promise<void> {
      let body = question()
      for (let turn = 0; going; turn++) {
        if (turn % 2 === 0) body = question()
        const startedMs = performance.now()
        statuses.add((await chat(url, body, ACME).answer).status)
        mostMs = Math.max(mostMs, performance.now() - startedMs)
        count++
      }
    }
    const callers = Array.from({ length: CALLERS }, call)
    return async () => {
      going = false
      await Promise.all(callers)
      return { statuses: [...statuses], mostMs, count }
    }
  }

  describe(name, () => {
    it('gives what one router has answered to the other, and to no other tenant', async () => {
      const { engine, one, other } = await start()
      const body = question()
      await chat(one.url, body, ACME).answer
      const before = engine.seen.length
      await until(async () => {
        const { headers } = await chat(other.url, body, ACME).answer
        return headers['cache-status']?.includes('detail=redis') ?? false
      })
      expect(engine.seen.length - before).toBeLessThanOrEqual(1)
      const { headers } = await chat(other.url, body, { authorization: 'Bearer somebody else' }).answer
      expect(headers['cache-status']).toBe('warmpath-router; fwd=miss')
    })

    it.each(['dies', 'stalls'])(
      'loses no request when it %s under load, and is used again when it is back',
      async (how) => {
        const { redis, one, other } = await start()
        const stop = startLoad(one)
        await delay(FAULT_MS / 2)
        await (how === 'dies' ? redis.kill() : redis.pause())
        await delay(FAULT_MS)
        await (how === 'dies' ? redis.start() : redis.resume())
        await delay(FAULT_MS / 2)
        const { statuses, mostMs, count } = await stop()
        expect(statuses).toEqual([200])
        expect(count).toBeGreaterThan(CALLERS)
        expect(mostMs).toBeLessThan(LATE_MS)
        await untilShared(one, other)
      },
    )
  })
}
