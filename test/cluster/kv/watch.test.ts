import { describe, expect, it, vi } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import type { KvBatch } from '../../../cluster/kv/kv-event.ts'
import { createKvIndex } from '../../../cluster/kv/kv-index.ts'
import type { Subscription, SubscriptionOptions } from '../../../cluster/kv/subscription.ts'
import { createKvWatch, type KvWatchEvent, type SourcesAnswer } from '../../../cluster/kv/watch.ts'
import { endpoint } from '../views.ts'

const A = endpoint('10.0.0.1:8000', { origin: 'http://10.0.0.1:8000' })
const TOKENS = Uint32Array.from({ length: 64 }, (_, index) => index)
const QUERY = { tokenIds: TOKENS, model: 'm', lora: undefined, cacheSalt: undefined }

const rank = (port: number) => ({
  enable_kv_cache_events: true,
  publisher: 'zmq',
  endpoint: `tcp://*:${port}`,
  replay_endpoint: `tcp://*:${port + 1000}`,
})
const answer = (value: unknown, status = 200): SourcesAnswer => ({ status, body: Buffer.from(JSON.stringify(value)) })

function stored(tokenIds: Uint32Array): KvBatch {
  const hashes = Uint32Array.from({ length: tokenIds.length / 8 }, (_, index) => index + 1)
  const event = {
    type: 'stored',
    hashes,
    parent: undefined,
    tokenIds,
    blockSizeTokens: 16,
    medium: 'GPU',
    loraName: undefined,
    extraKeys: undefined,
    group: 0,
    specKind: undefined,
  } as const
  return { atSeconds: 0, rank: 0, events: [event], unknownEvents: 0 }
}

function rig(said: () => SourcesAnswer | undefined) {
  const index = createKvIndex()
  const opened: (SubscriptionOptions & { closed: boolean })[] = []
  const events: KvWatchEvent[] = []
  const asked: EndpointId[] = []
  const watch = createKvWatch({
    index,
    askSources: async (id) => {
      asked.push(id)
      return said()
    },
    subscribe: (options): Subscription => {
      const its = { ...options, closed: false }
      opened.push(its)
      return {
        position: () => undefined,
        close: async () => {
          its.closed = true
        },
      }
    },
    nowMs: () => 0,
    onEvent: (event) => events.push(event),
  })
  const held = () => index.match(QUERY).map(({ rank, matchedTokens, complete }) => ({ rank, matchedTokens, complete }))
  return { watch, opened, events, asked, held }
}

describe('whose events are followed', () => {
  it('every rank that the engine names, at the engine’s own host, into a table of its own', async () => {
    const { watch, opened, held } = rig(() => answer({ 0: rank(5557), 1: rank(5558) }))
    await watch.follow(A, 'm')
    expect(opened.map(({ events, replay }) => [events, replay])).toEqual([
      ['tcp://10.0.0.1:5557', 'tcp://10.0.0.1:6557'],
      ['tcp://10.0.0.1:5558', 'tcp://10.0.0.1:6558'],
    ])
    expect(watch.follows()).toBe(true)
    opened[1]?.onState({ state: 'live', complete: true })
    opened[1]?.onBatch(stored(TOKENS), 0)
    expect(held()).toEqual([
      { rank: 0, matchedTokens: 0, complete: false },
      { rank: 1, matchedTokens: 48, complete: true },
    ])
    opened[1]?.onClear()
    expect(held()[1]).toMatchObject({ matchedTokens: 0 })
    await watch.close()
  })
  it('what an operator configured, without asking the engine', async () => {
    const { watch, opened, asked } = rig(() => undefined)
    await watch.follow({ ...A, events: 'tcp://*:7000', replay: 'tcp://10.9.9.9:7001' }, 'm')
    expect(opened.map(({ events, replay }) => [events, replay])).toEqual([
      ['tcp://10.0.0.1:7000', 'tcp://10.9.9.9:7001'],
    ])
    expect(asked).toEqual([])
    await watch.close()
  })
  it.each<[string, SourcesAnswer, string]>([
    ['that has no such route', answer({}, 404), 'it answers 404 to /kv_event_sources'],
    ['with events off', answer({}), 'it publishes none: start vLLM with --kv-events-config'],
    ['that answers nonsense', { status: 200, body: Buffer.from('<html>') }, 'the answer is no object of ranks'],
    [
      'that points at another host',
      answer({ 0: { ...rank(1), endpoint: 'tcp://10.6.6.6:1' } }),
      'rank "0": endpoint "tcp://10.6.6.6:1" is on another host than the engine',
    ],
  ])('none of an engine %s; it is told once', async (_, said, because) => {
    const { watch, opened, events } = rig(() => said)
    await watch.follow(A, 'm')
    expect(opened).toEqual([])
    expect(watch.follows()).toBe(false)
    expect(events).toEqual([{ type: 'kv-none', endpoint: A.id, because }])
    await watch.close()
  })
})

describe('what changes', () => {
  it('an engine that is gone takes its blocks along at once', async () => {
    const { watch, opened, held } = rig(() => answer({ 0: rank(5557) }))
    await watch.follow(A, 'm')
    opened[0]?.onBatch(stored(TOKENS), 0)
    watch.unfollow(A.id)
    expect(held()).toEqual([])
    expect(opened[0]?.closed).toBe(true)
    expect(watch.follows()).toBe(false)
    // A batch that was on its way has nowhere to go.
    opened[0]?.onBatch(stored(TOKENS), 1)
    expect(held()).toEqual([])
    await watch.close()
  })
  it('following again with the same model is nothing new; another model begins anew', async () => {
    const { watch, opened } = rig(() => answer({ 0: rank(5557) }))
    await watch.follow(A, 'm')
    await watch.follow(A, 'm')
    expect(opened).toHaveLength(1)
    await watch.follow(A, 'other')
    expect(opened.map(({ closed }) => closed)).toEqual([true, false])
    await watch.close()
  })
  it('an engine that gets another label keeps its blocks; another address for its events begins anew', async () => {
    const { watch, opened, held } = rig(() => answer({ 0: rank(5557) }))
    await watch.follow(A, 'm')
    opened[0]?.onBatch(stored(TOKENS), 0)
    await watch.follow({ ...A, labels: { zone: 'b' }, role: 'decode' }, 'm')
    expect(opened).toHaveLength(1)
    expect(held()).toMatchObject([{ matchedTokens: 48 }])
    await watch.follow({ ...A, events: 'tcp://*:7000' }, 'm')
    expect(opened.map(({ events, closed }) => [events, closed])).toEqual([
      ['tcp://10.0.0.1:5557', true],
      ['tcp://10.0.0.1:7000', false],
    ])
    await watch.close()
  })
  it('after the end nobody is followed any more, whoever answers then: the process could not end', async () => {
    vi.useFakeTimers()
    try {
      const { watch, asked, opened } = rig(() => answer({ 0: rank(5557) }))
      const early = watch.follow(A, 'm')
      await watch.close()
      await early
      await watch.follow(A, 'm')
      expect([asked.length, opened.length, vi.getTimerCount()]).toEqual([1, 0, 0])
    } finally {
      vi.useRealTimers()
    }
  })
  it('an engine that comes back with other ports is asked again, one that is silent keeps what was found', async () => {
    vi.useFakeTimers()
    try {
      let said: SourcesAnswer | undefined = answer({ 0: rank(5557) })
      const { watch, opened, asked } = rig(() => said)
      await watch.follow(A, 'm')
      opened[0]?.onState({ state: 'live', complete: true })
      await vi.advanceTimersByTimeAsync(60_000)
      expect(asked).toHaveLength(1)
      // Its events alone are lost: it answers, so what it holds is still there.
      opened[0]?.onState({ state: 'lost', complete: false })
      await vi.advanceTimersByTimeAsync(0)
      expect([asked.length, opened.length]).toEqual([2, 1])
      said = undefined
      await vi.advanceTimersByTimeAsync(10_000)
      expect([asked.length, opened.length]).toEqual([3, 1])
      said = answer({ 0: rank(9000) })
      await vi.advanceTimersByTimeAsync(10_000)
      expect(opened.map(({ events, closed }) => [events, closed])).toEqual([
        ['tcp://10.0.0.1:5557', true],
        ['tcp://10.0.0.1:9000', false],
      ])
      await watch.close()
    } finally {
      vi.useRealTimers()
    }
  })
  it('an engine whose events are lost and that answers no more is gone, and its blocks with it', async () => {
    let said: SourcesAnswer | undefined = answer({ 0: rank(5557) })
    const { watch, opened, held } = rig(() => said)
    await watch.follow(A, 'm')
    opened[0]?.onBatch(stored(QUERY.tokenIds.subarray(0, 32)), 0)
    opened[0]?.onState({ state: 'live', complete: true })
    expect(held()[0]?.matchedTokens).toBeGreaterThan(0)
    said = undefined
    opened[0]?.onState({ state: 'lost', complete: false })
    await vi.waitUntil(() => opened.length === 2)
    expect(opened.map(({ events, closed }) => [events, closed])).toEqual([
      ['tcp://10.0.0.1:5557', true],
      ['tcp://10.0.0.1:5557', false],
    ])
    expect(held()).toEqual([{ rank: 0, matchedTokens: 0, complete: false }])
    await watch.close()
  })
  it('a stream of garbage is told now and then, and counted', async () => {
    const { watch, opened, events } = rig(() => answer({ 0: rank(5557) }))
    await watch.follow(A, 'm')
    for (let frame = 0; frame < 100; frame++) opened[0]?.onFault('no batch')
    expect(events.filter(({ type }) => type === 'kv-fault')).toHaveLength(1)
    expect(watch.sourcesOf(A.id)).toMatchObject([{ rank: 0, faults: 100, state: 'connecting' }])
    await watch.close()
  })
})
