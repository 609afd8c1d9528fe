import { describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import type { PrefixMatch } from '../../../cluster/kv/prefix-match.ts'
import { followRemoteIndex, type RemoteIndexEvent } from '../../../cluster/kv/remote-index.ts'

const A = 'a:1' as EndpointId
const LOCAL: readonly PrefixMatch[] = [{ endpoint: A, rank: 0, matchedTokens: 16, gpuTokens: 16, complete: true }]
const STAND_IN = { matches: LOCAL, by: 'the index in this process: http://kv:8080 gave no answer in time' }
const QUERY = { tokenIds: Uint32Array.of(1, 2, 3), model: 'm', lora: undefined, cacheSalt: 'salt' }

type Reply = () => Response | Promise<Response>

function rig(reply: Reply) {
  const asked: unknown[] = []
  const events: RemoteIndexEvent[] = []
  const turned: (() => void)[] = []
  let answer = reply
  const remote = followRemoteIndex({
    origin: 'http://kv:8080',
    local: () => LOCAL,
    fetch: (async (_url: string, init: RequestInit) => {
      asked.push(JSON.parse(init.body as string))
      return answer()
    }) as unknown as typeof fetch,
    onEvent: (event) => {
      events.push(event)
      for (const turn of turned.splice(0)) turn()
    },
  })
  return {
    remote,
    asked,
    events,
    reply: (next: Reply) => {
      answer = next
    },
    turn: () => new Promise<void>((resolve) => turned.push(resolve)),
  }
}

function endless(): ReadableStream {
  return new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(1024 * 1024)) })
}

const scores = () =>
  Response.json({
    model: 'm',
    promptTokens: 3,
    scores: [{ endpoint: 'b:1', rank: 1, matchedTokens: 2, score: 0.6, tiers: { gpu: 1, cpu: 1 }, stale: true }],
  })

describe('a KV-Cache Manager elsewhere', () => {
  it('is asked with token ids, salt and adapter once it is known to answer', async () => {
    const { remote, asked, turn } = rig(scores)
    await turn()
    expect(await remote.findPrefixes(QUERY)).toEqual({
      matches: [{ endpoint: 'b:1', rank: 1, matchedTokens: 2, gpuTokens: 1, complete: false }],
      by: 'http://kv:8080',
    })
    expect(asked.at(-1)).toEqual({ model: 'm', cache_salt: 'salt', token_ids: [1, 2, 3] })
    remote.close()
  })
  it('that never answers costs no request any time: the index in this process is used', async () => {
    const { remote, asked } = rig(() => new Promise(() => undefined))
    expect(await remote.findPrefixes(QUERY)).toEqual(STAND_IN)
    // Nothing but the probe at the start.
    expect(asked).toHaveLength(1)
    expect(remote.answers()).toBe(false)
    remote.close()
  })
  it('never holds more of a prompt than its engine can: the last token is computed', async () => {
    const { remote, turn } = rig(() => Response.json({ scores: [{ endpoint: 'b:1', matchedTokens: 99 }] }))
    await turn()
    expect((await remote.findPrefixes(QUERY)).matches).toMatchObject([{ matchedTokens: 2, gpuTokens: 2, rank: 0 }])
    remote.close()
  })
  it('that is late for one long prompt is asked about the next one; late for several, it is left alone', async () => {
    const { remote, events, turn, reply } = rig(scores)
    await turn()
    reply(() => Promise.reject(new DOMException('late', 'TimeoutError')))
    for (const late of [1, 2]) expect(await remote.findPrefixes(QUERY), `${late}`).toEqual(STAND_IN)
    reply(scores)
    expect(await remote.findPrefixes(QUERY)).toMatchObject({ by: 'http://kv:8080' })
    reply(() => Promise.reject(new DOMException('late', 'TimeoutError')))
    for (const late of [1, 2, 3]) expect(await remote.findPrefixes(QUERY), `${late}`).toEqual(STAND_IN)
    expect(events.map(({ type }) => type)).toEqual(['kv-manager-answers', 'kv-manager-lost'])
    remote.close()
  })
  it('that never answered is told of once, at the start', async () => {
    const { remote, events, turn } = rig(() => new Response('here is nothing', { status: 404 }))
    await turn()
    expect(await remote.findPrefixes(QUERY)).toEqual(STAND_IN)
    expect(events).toEqual([{ type: 'kv-manager-lost', origin: 'http://kv:8080', cause: 'its /score answers 404' }])
    remote.close()
  })
  it.each<[string, Reply, RegExp]>([
    ['that fails', () => new Response('no', { status: 500 }), /answers 500/],
    ['that breaks off', () => Promise.reject(new Error('reset')), /reset/],
    ['that answers something else', () => Response.json({ scores: [{ endpoint: 1 }] }), /string/],
    [
      'with a rank that no engine has',
      () => Response.json({ scores: [{ endpoint: 'b:1', rank: 1.5, matchedTokens: 1 }] }),
      /integer/,
    ],
    ['that counts without end', () => new Response('{"scores":[{"endpoint":"b:1","matchedTokens":1e999}]}'), /integer/],
    ['that is no JSON', () => new Response('<html>'), /JSON/],
    ['that never ends', () => new Response(endless()), /more than/],
  ])('%s is left alone until a probe succeeds', async (_, broken, cause) => {
    const { remote, asked, events, turn, reply } = rig(scores)
    await turn()
    reply(broken)
    expect(await remote.findPrefixes(QUERY)).toEqual(STAND_IN)
    const { length } = asked
    expect(await remote.findPrefixes(QUERY)).toEqual(STAND_IN)
    expect(asked).toHaveLength(length)
    expect(events).toEqual([
      { type: 'kv-manager-answers', origin: 'http://kv:8080' },
      { type: 'kv-manager-lost', origin: 'http://kv:8080', cause: expect.stringMatching(cause) },
    ])
    remote.close()
  })
})
