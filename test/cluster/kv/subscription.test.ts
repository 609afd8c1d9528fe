import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import {
  type ReplayTimes,
  type StreamState,
  type Subscription,
  type SubscriptionOptions,
  subscribe,
} from '../../../cluster/kv/subscription.ts'
import { batchAt, type PublisherOptions, seqFrame, startPublisher, type TestPublisher } from './publisher.ts'

const PATIENCE_MS = 10_000
const QUICK: ReplayTimes = { idleMs: 300, wholeMs: 5_000, spacingMs: 0 }

const cleanUps: (() => unknown)[] = []
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
})

async function publisherFor(options?: PublisherOptions): Promise<TestPublisher> {
  const publisher = await startPublisher(options)
  cleanUps.push(publisher.close)
  return publisher
}

/** What a subscription reported; waits for it to report something. */
function follow(options: Pick<SubscriptionOptions, 'events' | 'replay' | 'replayTimes'>, work = () => {}) {
  const batches: string[] = []
  const states: StreamState[] = []
  const faults: string[] = []
  let clears = 0
  let check = () => {}
  const subscription: Subscription = subscribe({
    replayTimes: QUICK,
    ...options,
    onBatch(batch, seq) {
      work()
      batches.push(`${seq}@${batch.atSeconds}`)
      check()
    },
    onClear() {
      clears++
      batches.length = 0
      check()
    },
    onState(state) {
      states.push(state)
      check()
    },
    onFault(message) {
      faults.push(message)
      check()
    },
  })
  cleanUps.push(subscription.close)
  const seen = {
    subscription,
    batches,
    states,
    faults,
    clears: () => clears,
    state: (): StreamState | undefined => states.at(-1),
    until(condition: () => boolean): Promise<void> {
      if (condition()) return Promise.resolve()
      return new Promise((resolve, reject) => {
        const timer = setTimeout(() => {
          reject(
            new Error(
              `not seen: ${condition}; seen: ${JSON.stringify({ states, faults, clears, batches: batches.slice(-20) })}`,
            ),
          )
        }, PATIENCE_MS)
        check = () => {
          if (!condition()) return
          clearTimeout(timer)
          check = () => {}
          resolve()
        }
      })
    },
    untilLive: () => seen.until(() => seen.state()?.state === 'live'),
    untilBatches: (...wanted: string[]) => seen.until(() => batches.join() === wanted.join()),
  }
  return seen
}

describe('a subscription', () => {
  it.each(['vllm', 'old'] as const)(
    'replays what was published before it (%s frames), then follows',
    async (replay) => {
      const publisher = await publisherFor({ replay })
      for (const at of [10, 11, 12]) await publisher.publish(batchAt(at))
      const { states, untilLive, untilBatches } = follow(publisher)
      await untilLive()
      await publisher.publish(batchAt(13))
      await untilBatches('0@10', '1@11', '2@12', '3@13')
      expect(states).toEqual([
        { state: 'replaying', complete: false },
        { state: 'live', complete: true },
      ])
    },
  )
  it('finds an engine that starts after it', async () => {
    const early = await publisherFor()
    early.close()
    const { untilLive, untilBatches } = follow(early)
    const publisher = await publisherFor({ at: early })
    await untilLive()
    await publisher.publish(batchAt(10))
    await untilBatches('0@10')
  })
  it('gets a lost batch by replay, before those that came after it', async () => {
    const publisher = await publisherFor()
    const { untilLive, untilBatches, until, state } = follow(publisher)
    await untilLive()
    await publisher.publish(batchAt(10))
    publisher.lose(batchAt(11))
    publisher.lose(batchAt(12))
    await publisher.publish(batchAt(13))
    await untilBatches('0@10', '1@11', '2@12', '3@13')
    await until(() => state()?.complete === true)
    expect(publisher.asked()).toEqual([0, 0])
  })
  it('says that it is incomplete when the engine no longer has what was lost', async () => {
    const publisher = await publisherFor()
    const { untilLive, untilBatches, until, state } = follow(publisher)
    await untilLive()
    await publisher.publish(batchAt(10))
    publisher.lose(batchAt(11))
    publisher.lose(batchAt(12))
    publisher.forget(2)
    await publisher.publish(batchAt(13))
    await untilBatches('0@10', '2@12', '3@13')
    await until(() => state()?.state === 'live')
    expect(state()).toEqual({ state: 'live', complete: false })
  })
  it('forgets everything when another engine takes the place, even one that has published more', async () => {
    const old = await publisherFor()
    const { untilLive, untilBatches, until, state, clears } = follow(old)
    await untilLive()
    await old.publish(batchAt(10))
    await untilBatches('0@10')
    old.close()
    await until(() => state()?.state === 'lost')
    const next = await publisherFor({ at: old })
    for (const at of [20, 21, 22]) next.lose(batchAt(at))
    await untilLive()
    await next.publish(batchAt(23))
    await untilBatches('0@20', '1@21', '2@22', '3@23')
    expect(clears()).toBe(1)
    await until(() => state()?.complete === true)
  })
  it('keeps what it knows of an engine whose connection was cut', async () => {
    const old = await publisherFor()
    const { untilLive, untilBatches, until, state, clears } = follow(old)
    await untilLive()
    await old.publish(batchAt(10))
    await untilBatches('0@10')
    old.close()
    await until(() => state()?.state === 'lost')
    const same = await publisherFor({ at: old })
    for (const at of [10, 11]) same.lose(batchAt(at))
    await untilBatches('0@10', '1@11')
    await until(() => state()?.complete === true)
    expect(clears()).toBe(0)
  })
  it('without a replay address is live at once', async () => {
    const { events, publish, subscribed } = await publisherFor()
    await publish(batchAt(10))
    const { untilLive, untilBatches, state } = follow({ events, replay: undefined })
    await untilLive()
    await subscribed
    await publish(batchAt(11))
    await untilBatches('1@11')
    expect(state()).toEqual({ state: 'live', complete: false })
  })
})

describe('a replay', () => {
  it('that is never answered is given up: what is live goes on, incomplete', async () => {
    const publisher = await publisherFor({ replay: 'mute' })
    const { untilLive, untilBatches, faults, state } = follow(publisher)
    await untilLive()
    expect(state()).toEqual({ state: 'live', complete: false })
    expect(faults).toEqual(['the replay from 0 got no further in 300 ms'])
    await publisher.publish(batchAt(10))
    await untilBatches('0@10')
  })
  it('whose port nobody listens on is given up too', async () => {
    const publisher = await publisherFor()
    const { untilLive, state } = follow({ events: publisher.events, replay: 'tcp://127.0.0.1:1' })
    await untilLive()
    expect(state()?.complete).toBe(false)
  })
  it('with an impossible address is a fault, not an exception', async () => {
    const publisher = await publisherFor()
    const { untilLive, faults } = follow({ events: publisher.events, replay: 'tcp://nowhere' })
    await untilLive()
    expect(faults).toEqual(['no replay from tcp://nowhere: Invalid argument'])
  })
  it('that never ends is cut off', async () => {
    const publisher = await publisherFor({ replay: 'endless' })
    for (const at of [10, 11]) publisher.lose(batchAt(at))
    const { untilLive, batches, state } = follow(publisher)
    await untilLive()
    expect(batches).toEqual(['0@10', '1@11'])
    expect(state()?.complete).toBe(false)
    // The second question goes on where the first stopped, and brings nothing new.
    expect(publisher.asked()).toEqual([0, 1])
  })
  it('takes its time when another has just been served: an engine is not asked without a pause', async () => {
    const publisher = await publisherFor()
    const { untilLive, untilBatches } = follow({ ...publisher, replayTimes: { ...QUICK, spacingMs: 400 } })
    const beganAtMs = performance.now()
    await untilLive()
    await publisher.publish(batchAt(10))
    publisher.lose(batchAt(11))
    await publisher.publish(batchAt(12))
    await untilBatches('0@10', '1@11', '2@12')
    expect(performance.now() - beganAtMs).toBeGreaterThan(399)
  })
})

describe('garbage', () => {
  it('is reported and stops nothing', async () => {
    const publisher = await publisherFor()
    const { untilLive, untilBatches, until, faults, state } = follow(publisher)
    await untilLive()
    await publisher.send(['topic'])
    await publisher.send(['topic', 'short', 'payload'])
    await publisher.send(['topic', seqFrame(2n ** 53n), batchAt(1)])
    await publisher.send(['topic', seqFrame(2n ** 64n - 1n), batchAt(1)])
    await publisher.send(['topic', seqFrame(0), batchAt(1), 'more'])
    await until(() => faults.length === 5)
    expect(faults.at(1)).toBe('a message of 3 frames without a sequence number')
    await publisher.publish(batchAt(10))
    await untilBatches('0@10')
    expect(state()?.complete).toBe(true)

    await publisher.publish(Buffer.from('ffff', 'hex'))
    await publisher.publish(batchAt(12))
    await untilBatches('0@10', '2@12')
    await until(() => state()?.complete === false)
    expect(faults.at(-1)).toMatch(/^batch 1 cannot be read: /)
  })
  it('from the replay socket is reported too', async () => {
    const publisher = await publisherFor({ replay: 'endless' })
    publisher.lose(batchAt(10))
    const { until, untilBatches, faults } = follow({ ...publisher, replayTimes: { ...QUICK, idleMs: 2_000 } })
    await untilBatches('0@10')
    await publisher.sendReplayed(['', 'garbage'])
    await publisher.sendReplayed(['', 'topic', 'short', batchAt(11)])
    await publisher.sendReplayed(['', 'topic', seqFrame(1), batchAt(11)])
    await untilBatches('0@10', '1@11')
    await until(() => faults.length === 2)
    expect(faults).toEqual([
      'a replayed message of 2 frames without a sequence number',
      'a replayed message of 4 frames without a sequence number',
    ])
  })
  it('instead of ZMTP leaves the subscription connecting', async () => {
    const server = createServer((socket) => void socket.on('error', () => {}).end('HTTP/1.1 400 Bad Request\r\n\r\n'))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    cleanUps.push(() => server.close())
    const { port } = server.address() as { port: number }
    const { until, faults, states } = follow({ events: `tcp://127.0.0.1:${port}`, replay: undefined })
    await until(() => faults.length > 0)
    expect(faults[0]).toBe(`no ZMTP handshake with tcp://127.0.0.1:${port}`)
    expect(states).toEqual([])
  })
  it('for an address is a fault, not an exception', async () => {
    const { until, faults, subscription } = follow({ events: 'tcp://nowhere', replay: undefined })
    await until(() => faults.length > 0)
    expect(faults).toEqual(['cannot subscribe to tcp://nowhere: Invalid argument'])
    await subscription.close()
  })
})

describe('closing', () => {
  it('works while a replay runs, and nothing is reported after it', async () => {
    const publisher = await publisherFor({ replay: 'endless' })
    for (let at = 0; at < 2_000; at++) publisher.lose(batchAt(at))
    const { until, batches, subscription, states } = follow(publisher)
    await until(() => batches.length > 0)
    const closed = subscription.close()
    const [batchesThen, statesThen] = [batches.length, states.length]
    await closed
    await publisher.publish(batchAt(1))
    await new Promise(setImmediate)
    expect([batches.length, states.length]).toEqual([batchesThen, statesThen])
  })
  it('may be called twice, and before a connection stands', async () => {
    const { subscription } = follow({ events: 'tcp://127.0.0.1:1', replay: 'tcp://127.0.0.1:1' })
    await subscription.close()
    await subscription.close()
  })
  it.each([
    ['closed', 'await subscription.close()'],
    ['left open', 'process.exit()'],
  ])('does not keep a process from ending, %s', async (_, end) => {
    const publisher = await publisherFor({ replay: 'mute' })
    const script = `
      import { subscribe } from ${JSON.stringify(new URL('../../../cluster/kv/subscription.ts', import.meta.url).href)}
      const ignore = () => {}
      const subscription = subscribe({ ...${JSON.stringify({ events: publisher.events, replay: publisher.replay })},
        onBatch: ignore, onClear: ignore, onFault: ignore, onState: async () => { ${end} } })`
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'inherit' })
    cleanUps.push(() => child.kill('SIGKILL'))
    const [code] = await once(child, 'exit', { signal: AbortSignal.timeout(PATIENCE_MS) })
    expect(code).toBe(0)
  })
})

describe('a burst', () => {
  const COUNT = 300
  const BATCH_MS = 1
  it.each([
    ['of a replay', 'vllm', 'before'],
    ['of what was held back during a replay', 'mute', 'after'],
    ['of live batches', undefined, 'after'],
  ] as const)('%s leaves the event loop free every few batches', async (_, replay, published) => {
    const publisher = await publisherFor(replay ? { replay } : {})
    let sinceTurn = 0
    let most = 0
    let open = true
    const turn = () => {
      sinceTurn = 0
      if (open) setImmediate(turn)
    }
    const { until, batches } = follow({ events: publisher.events, replay: replay && publisher.replay }, () => {
      const endMs = performance.now() + BATCH_MS
      while (performance.now() < endMs);
      most = Math.max(most, ++sinceTurn)
    })
    if (published === 'after') await publisher.subscribed
    turn()
    for (let at = 0; at < COUNT; at++) {
      if (published === 'after') await publisher.publish(batchAt(at))
      else publisher.lose(batchAt(at))
    }
    await until(() => batches.length === COUNT)
    open = false
    expect(most).toBeLessThanOrEqual(6)
  })
  it('larger than the queues on its way comes whole', async () => {
    const publisher = await publisherFor()
    const count = 20_000
    for (let at = 0; at < count; at++) publisher.lose(batchAt(at))
    const { until, batches, state } = follow(publisher)
    await until(() => state()?.complete === true)
    expect(batches).toHaveLength(count)
    expect(batches.at(-1)).toBe(`${count - 1}@${count - 1}`)
  })
})
