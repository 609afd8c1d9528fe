// KV events over real ZeroMQ sockets, as a router subscribes to them and asks for what it missed.
import { describe, expect, it, onTestFinished } from 'vitest'
import { Dealer, Subscriber } from 'zeromq'
import { encodeBatch } from '../../../cluster/simulator/kv-events.ts'
import { MsgpackWriter } from '../../../cluster/simulator/msgpack-writer.ts'
import { type Simulator, startSimulator } from '../../../cluster/simulator/server.ts'
import { post, startPod, until } from './pod.ts'

const ANSWER_MS = 5_000
const END_SEQUENCE = 'ffffffffffffffff'

type Batch = { readonly topic: string; readonly sequence: string; readonly payload: Buffer }

/** A subscription that is known to work: all that the pod said was heard, and its cache is empty again. */
async function subscribe(pod: Simulator): Promise<() => Promise<Batch>> {
  const socket = new Subscriber({ linger: 0, receiveTimeout: ANSWER_MS })
  onTestFinished(() => socket.close())
  const connected = new Promise((resolve) => socket.events.on('handshake', resolve))
  socket.connect(`tcp://127.0.0.1:${pod.kvEvents?.port}`)
  socket.subscribe('')
  await connected
  const next = async () => {
    const [topic, sequence, payload] = await socket.receive()
    if (!topic || !sequence || !payload) throw new Error('a batch has three frames')
    return { topic: topic.toString(), sequence: sequence.toString('hex'), payload }
  }
  // The handshake is over before the subscription has arrived: what is said until then is not heard.
  socket.receiveTimeout = 50
  let heard = ''
  for (let said = 0; heard === '' || Number(`0x${heard}`) < said - 1; ) {
    if (heard === '') {
      await say(pod, [1, 1, 1, 1])
      said++
      await reset(pod)
    }
    heard = await next().then(
      ({ sequence }) => sequence,
      () => heard,
    )
  }
  socket.receiveTimeout = ANSWER_MS
  return next
}

async function say(pod: Simulator, prompt: readonly number[], more: object = {}): Promise<number> {
  const answer = await post(pod, '/v1/completions', { prompt, max_tokens: 1, ...more })
  const { usage } = (await answer.json()) as { usage: { prompt_tokens_details: { cached_tokens: number } } }
  return usage.prompt_tokens_details.cached_tokens
}

async function reset(pod: Simulator): Promise<unknown> {
  return (await post(pod, '/reset_prefix_cache', {})).json()
}

/** The replies to a replay request, each as its frames in hex; ends with the end marker. */
async function replay(pod: Simulator, request: readonly Buffer[], timeoutMs = ANSWER_MS): Promise<string[][]> {
  const socket = new Dealer({ linger: 0, receiveTimeout: timeoutMs })
  onTestFinished(() => socket.close())
  socket.connect(`tcp://127.0.0.1:${pod.kvEvents?.replayPort}`)
  await socket.send([...request])
  const replies: string[][] = []
  for (;;) {
    const frames = (await socket.receive()).map((frame) => frame.toString('hex'))
    replies.push(frames)
    if (frames[2] === END_SEQUENCE) return replies
  }
}

const from = (sequence: number) => [Buffer.alloc(0), Buffer.from(sequence.toString(16).padStart(16, '0'), 'hex')]
/** The types of a batch's events, in order. */
const typesIn = (payload: Buffer) => payload.toString('latin1').match(/BlockStored|BlockRemoved|AllBlocksCleared/g)

const OPTIONS = { models: ['sim'], blockSize: 4, kvCacheTokens: 64 }

describe('a pod’s KV events', () => {
  it('come in three frames, numbered from 0, a batch for each step that had any', async () => {
    const pod = await startPod(OPTIONS)
    const next = await subscribe(pod)
    await say(pod, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    const first = await next()
    expect(first.topic).toBe(`kv@127.0.0.1:${pod.port}@sim`)
    // What was cleared while the pod was idle is told only now.
    expect(typesIn(first.payload)).toEqual(['AllBlocksCleared', 'BlockStored'])
    expect(await say(pod, [1, 2, 3, 4, 5, 6, 7, 8, 9])).toBe(8)
    await say(pod, [11, 12, 13, 14])
    const second = await next()
    expect(Number(`0x${second.sequence}`)).toBe(Number(`0x${first.sequence}`) + 1)
    expect(typesIn(second.payload)).toEqual(['BlockStored'])
  })

  it('tell of removed blocks before those that took their place', async () => {
    const pod = await startPod(OPTIONS)
    const next = await subscribe(pod)
    const long = (first: number) => Array.from({ length: 60 }, (_, index) => first + index)
    await say(pod, long(1))
    await next()
    await say(pod, long(101))
    expect(typesIn((await next()).payload)).toEqual([...Array(14).fill('BlockRemoved'), 'BlockStored'])
    expect(pod.stats()).toMatchObject({ cachedBlocks: 16, kvCacheUsage: 0 })
  })

  it('are the same for the same traffic on every pod with the same hash seed, salts included', async () => {
    const payloads = await Promise.all(
      ['0', '0', '1'].map(async (hashSeed) => {
        const pod = await startPod({ ...OPTIONS, hashSeed })
        await say(pod, [1, 2, 3, 4], { cache_salt: 'tenant' })
        const [batch] = await replay(pod, from(0))
        // Behind the time.
        return batch?.[3]?.slice(20) ?? ''
      }),
    )
    expect(payloads[0]).toBe(payloads[1])
    expect(payloads[0]).not.toBe(payloads[2])
    expect(Buffer.from(payloads[0] ?? '', 'hex').toString('latin1')).toContain('tenant')
  })

  it('are sent again from any number on, and a request without its empty frame gets no answer', async () => {
    const pod = await startPod(OPTIONS)
    for (const first of [1, 11, 21]) await say(pod, [first, first + 1, first + 2, first + 3])
    const topic = Buffer.from(`kv@127.0.0.1:${pod.port}@sim`).toString('hex')
    const end = ['', '', END_SEQUENCE, '']
    const all = await replay(pod, from(0))
    expect(all.map((frames) => frames.slice(0, 3))).toEqual([
      ['', topic, '0000000000000000'],
      ['', topic, '0000000000000001'],
      ['', topic, '0000000000000002'],
      end.slice(0, 3),
    ])
    expect(all.at(-1)).toEqual(end)
    expect(await replay(pod, from(2))).toEqual(all.slice(2))
    expect(await replay(pod, from(3))).toEqual([end])
    // A number of any length, as Python reads it.
    expect(await replay(pod, [Buffer.alloc(0), Buffer.alloc(100, 0xff)])).toEqual([end])
    expect(await replay(pod, [Buffer.alloc(0), Buffer.alloc(0)])).toEqual(all)
    await expect(replay(pod, from(0).slice(1), 200)).rejects.toThrow()
    await expect(replay(pod, [...from(0), Buffer.alloc(0)], 200)).rejects.toThrow()
    // And it serves on.
    expect(await replay(pod, from(3))).toEqual([end])
  })

  it('can be lost, to be asked for again: a router has to survive that', async () => {
    const pod = await startPod(OPTIONS)
    const next = await subscribe(pod)
    const batches: Batch[] = []
    for (const [first, isLost] of [
      [1, false],
      [11, true],
      [21, false],
    ] as const) {
      pod.faults.set(isLost ? { dropEventsShare: 1 } : {})
      await say(pod, [first, first + 1, first + 2, first + 3])
      if (!isLost) batches.push(await next())
    }
    const [before, after] = batches.map(({ sequence }) => Number(`0x${sequence}`))
    expect(after).toBe((before ?? 0) + 2)
    expect(await replay(pod, from((before ?? 0) + 1))).toHaveLength(3)
  })

  it('can be found: /kv_event_sources names both ports, and nothing where events are off', async () => {
    const pod = await startPod(OPTIONS)
    const sources = async (of: Simulator) => (await fetch(`${of.url}/kv_event_sources`)).json()
    expect(await sources(pod)).toMatchObject({
      0: { endpoint: `tcp://*:${pod.kvEvents?.port}`, replay_endpoint: `tcp://*:${pod.kvEvents?.replayPort}` },
    })
    const silent = await startPod({ ...OPTIONS, kvEventsPort: 'off' })
    expect([await sources(silent), silent.kvEvents]).toEqual([{}, undefined])
    expect(await say(silent, [1, 2, 3, 4, 5])).toBe(0)
    expect(await say(silent, [1, 2, 3, 4, 5])).toBe(4)
  })

  it('want a port of their own: one that is taken is named, with its flag', async () => {
    const { kvEvents } = await startPod(OPTIONS)
    await expect(startSimulator({ ...OPTIONS, kvEventsPort: kvEvents?.port ?? 0 })).rejects.toThrow(
      `127.0.0.1:${kvEvents?.port}: the port is taken; choose another one for KV events with --kv-events-port`,
    )
  })

  it('end with the pod at once, though a subscriber and a replay are still connected', async () => {
    const pod = await startPod(OPTIONS)
    await subscribe(pod)
    await replay(pod, from(0))
    const startedAtMs = performance.now()
    await pod.close()
    expect(performance.now() - startedAtMs).toBeLessThan(1_000)
  })
})

describe('a reset', () => {
  it('fails while a request runs, unless it may be taken back', async () => {
    const pod = await startPod({ ...OPTIONS, speed: 0.001 })
    const answer = post(pod, '/v1/completions', { prompt: [1, 2, 3, 4, 5], max_tokens: 2 })
    await until(() => pod.stats().running === 1)
    expect(await reset(pod)).toEqual({ success: false })
    const forced = await post(pod, '/reset_prefix_cache?reset_running_requests=true', {})
    expect(await forced.json()).toEqual({ success: true })
    await Promise.all([expect(answer).rejects.toThrow(), pod.close()])
  })
})

describe('MessagePack', () => {
  it.each<[string, (writer: MsgpackWriter) => void, string]>([
    ['0', (writer) => writer.uint(0), '00'],
    ['127', (writer) => writer.uint(127), '7f'],
    ['128', (writer) => writer.uint(128), 'cc80'],
    ['256', (writer) => writer.uint(256), 'cd0100'],
    ['65536', (writer) => writer.uint(65_536), 'ce00010000'],
    ['2^32', (writer) => writer.uint64(1, 0), 'cf0000000100000000'],
    ['a small number of 64 bits', (writer) => writer.uint64(0, 7), '07'],
    ['1.5', (writer) => writer.float(1.5), 'cb3ff8000000000000'],
    ['nothing', (writer) => writer.nil(), 'c0'],
    ['an array of 15', (writer) => writer.array(15), '9f'],
    ['an array of 16', (writer) => writer.array(16), 'dc0010'],
    ['an array of 65536', (writer) => writer.array(65_536), 'dd00010000'],
    ['a short text', (writer) => writer.text('ü'), 'a2c3bc'],
    ['a text of 32', (writer) => writer.text('x'.repeat(32)), `d920${'78'.repeat(32)}`],
    ['a text of 300', (writer) => writer.text('x'.repeat(300)), `da012c${'78'.repeat(300)}`],
    ['a text of 70000', (writer) => writer.text('x'.repeat(70_000)), `db00011170${'78'.repeat(70_000)}`],
  ])('writes %s in its shortest form, as msgspec does', (_, write, hex) => {
    const writer = new MsgpackWriter()
    write(writer)
    expect(writer.bytes().toString('hex')).toBe(hex)
  })

  it('writes an event that clears all as the one member that it has', () => {
    expect(
      encodeBatch(1.5, [{ type: 'cleared' }], { blockSizeTokens: 16, rank: 0, form: 'map', hashes: 'int' }).toString(
        'hex',
      ),
    ).toBe('93cb3ff80000000000009181a474797065b0416c6c426c6f636b73436c656172656400')
  })
})
