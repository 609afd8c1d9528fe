// Faults: what they are called, and that each is what it says to whoever meets it.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { Dealer, Subscriber } from 'zeromq'
import { decodeEvents } from '../../../cluster/kv/decode-events.ts'
import { describeFaults, FAULT_NAMES, faultsOfFlags, parseFaults } from '../../../cluster/simulator/faults.ts'
import { eventsOf, post, startPod, until } from './pod.ts'

const chat = { messages: [{ role: 'user', content: 'hi' }], max_tokens: 5, ignore_eos: true }

describe('the names of faults', () => {
  it.each([
    [['hang'], { hang: true }],
    [['slow-factor=3', 'stale-metrics'], { slowFactor: 3, staleMetrics: true }],
    [['refuse-status'], { refuseStatus: 503 }],
    [['refuse-status=429'], { refuseStatus: 429 }],
    [['drop-events-share'], { dropEventsShare: 1 }],
    [['drop-events-share=0.25', 'die-after-tokens=10'], { dropEventsShare: 0.25, dieAfterTokens: 10 }],
    [['hang=true'], { hang: true }],
    [[], {}],
  ])('as flags: %j', (flags, faults) => {
    expect(faultsOfFlags(flags)).toEqual(faults)
  })

  it.each([
    ['sulk', /^--fault sulk: there is no such fault; there are hang, slow-factor, /],
    ['hang=2', /^--fault hang=2: expected hang=VALUE with true or false$/],
    ['slow-factor', /expected slow-factor=VALUE with a number from 0\.01 to 10000$/],
    ['slow-factor=fast', /expected slow-factor=VALUE/],
    ['refuse-status=200', /a whole number from 400 to 599/],
    ['drop-events-share=2', /a number from 0 to 1/],
    ['', /there is no such fault/],
  ])('a wrong flag is one line that names it and what was expected: %s', (flag, message) => {
    expect(() => faultsOfFlags([flag])).toThrow(message)
    expect(() => faultsOfFlags([flag])).toThrow(/^[^\n]*$/)
  })

  it('as JSON, where false and null are the same as nothing', () => {
    expect(parseFaults({ hang: false, slowFactor: null, noReplay: true })).toEqual({ noReplay: true })
    expect(() => parseFaults({ sulk: true })).toThrow('there is no fault sulk; there are hang,')
    expect(() => parseFaults({ __proto__: 1, constructor: 1 })).toThrow('there is no fault constructor')
    expect(() => parseFaults({ slowFactor: '3' })).toThrow('slowFactor: expected a number from 0.01 to 10000, got "3"')
    for (const wrong of [null, [], 'hang', 3]) expect(() => parseFaults(wrong)).toThrow('expected an object')
  })

  it('are all told in the help', () => {
    expect(describeFaults().split('\n')).toHaveLength(FAULT_NAMES.length)
  })
})

describe('a pod with a fault', () => {
  it('slowFactor: a step takes so many times as long, and the pod is as fast as before once it is healed', async () => {
    const pod = await startPod({ speed: 1 })
    const took = async () => {
      const startedAtMs = performance.now()
      await (await post(pod, '/v1/chat/completions', { ...chat, max_tokens: 10 })).text()
      return performance.now() - startedAtMs
    }
    pod.faults.set({ slowFactor: 4 })
    const slow = await took()
    pod.faults.set({})
    const healed = await took()
    // Ten steps of 8 ms each.
    expect(slow).toBeGreaterThan(300)
    expect(healed).toBeLessThan(slow / 2)
  })

  it('engineDead: health says so, streams end with the engine’s last words, and nothing new is taken', async () => {
    const pod = await startPod({ speed: 1 })
    const streaming = await post(pod, '/v1/chat/completions', { ...chat, max_tokens: 10_000, stream: true })
    await until(() => pod.stats().running === 1)
    pod.faults.set({ engineDead: true })
    const events = eventsOf(await streaming.text())
    expect(events.at(-1)).toBe('[DONE]')
    expect(JSON.parse(events.at(-2) ?? '')).toMatchObject({
      error: { message: expect.stringContaining('EngineCore encountered an issue'), code: 500 },
    })
    expect((await fetch(`${pod.url}/health`)).status).toBe(503)
    expect((await post(pod, '/v1/chat/completions', chat)).status).toBe(500)
    pod.faults.set({})
    expect((await post(pod, '/v1/chat/completions', chat)).status).toBe(200)
  })

  it('refuseStatus 503: in the words of a vLLM whose queue is full', async () => {
    const pod = await startPod()
    pod.faults.set({ refuseStatus: 503 })
    const answer = await post(pod, '/v1/chat/completions', chat)
    expect(await answer.json()).toMatchObject({
      error: {
        message: expect.stringMatching(/^The engine is currently busy/),
        type: 'Service Unavailable',
        code: 503,
      },
    })
  })

  it('resetConnections: whoever connects is cut off', async () => {
    const pod = await startPod()
    pod.faults.set({ resetConnections: true })
    await expect(post(pod, '/v1/chat/completions', chat)).rejects.toThrow()
    pod.faults.set({})
    expect((await post(pod, '/v1/chat/completions', chat)).status).toBe(200)
  })

  it('staleMetrics: the page tells of the time before', async () => {
    const pod = await startPod()
    const generated = async () => {
      const page = await (await fetch(`${pod.url}/metrics`)).text()
      return Number(/^vllm:generation_tokens_total\{.*\} (\S+)$/m.exec(page)?.[1])
    }
    pod.faults.set({ staleMetrics: true })
    await (await post(pod, '/v1/chat/completions', chat)).text()
    expect(await generated()).toBe(0)
    pod.faults.set({})
    expect(await generated()).toBe(5)
  })

  it('corruptEventsShare: a subscriber gets frames that are no batches; a replay gives what they were', async () => {
    const pod = await startPod({ kvEventsPort: 0, blockSize: 4 })
    const subscriber = new Subscriber({ linger: 0, receiveTimeout: 10_000 })
    subscriber.connect(`tcp://127.0.0.1:${pod.kvEvents?.port}`)
    subscriber.subscribe('')
    let prompt = 0
    const store = async () => {
      const ids = Array.from({ length: 8 }, (_, index) => 1 + ((prompt * 8 + index) % 200))
      prompt++
      await (await post(pod, '/v1/completions', { prompt: ids, max_tokens: 1 })).text()
    }
    // A publisher drops what it sends before it knows of its subscribers.
    const asking = setInterval(() => void store(), 10)
    await subscriber.receive()
    clearInterval(asking)
    pod.faults.set({ corruptEventsShare: 1 })
    const sequences: bigint[] = []
    const spoilt: Buffer[] = []
    for (let batches = 0; batches < 12; batches++) {
      await store()
      const [, sequence, payload] = (await subscriber.receive()) as [Buffer, Buffer, Buffer]
      sequences.push(sequence.readBigUInt64BE())
      spoilt.push(payload)
    }
    expect(spoilt.filter((payload) => !decodeEvents(payload).ok).length).toBeGreaterThan(3)
    const dealer = new Dealer({ linger: 0, receiveTimeout: 10_000 })
    dealer.connect(`tcp://127.0.0.1:${pod.kvEvents?.replayPort}`)
    const from = Buffer.alloc(8)
    await dealer.send(['', from])
    for (let received = 0n; ; received++) {
      const [, , sequence, payload] = (await dealer.receive()) as [Buffer, Buffer, Buffer, Buffer]
      if (payload.length === 0) break
      expect(sequence.readBigUInt64BE()).toBe(received)
      expect(decodeEvents(payload).ok).toBe(true)
    }
    pod.faults.set({ noReplay: true })
    dealer.receiveTimeout = 100
    await dealer.send(['', from])
    await expect(dealer.receive()).rejects.toThrow()
    dealer.close()
    subscriber.close()
  })
})

it('the README names no fault that there is not', () => {
  const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8')
  const named = [...readme.matchAll(/--fault ([a-z-]+)/g)].map(([, name]) => name ?? '')
  for (const name of named) expect(describeFaults()).toMatch(new RegExp(`^ +${name}\\b`, 'm'))
})
