// What the simulator and the KV index take for granted about vLLM's events, asked of a real one: a new version that does
// it differently fails here first.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Dealer, Subscriber } from 'zeromq'
import { decodeEvents } from '../../cluster/kv/decode-events.ts'
import { createBlockHasher, type Digest } from '../../cluster/simulator/block-hash.ts'
import { readMsgpack } from './msgpack.ts'
import { BLOCK_SIZE_TOKENS, HASH_SEED, startVllm, type Vllm } from './vllm.ts'

/** So few that two long prompts do not fit together. */
const BLOCKS = 48
const MAX_MODEL_LEN = 1_024
const RECEIVE_TIMEOUT_MS = 10_000
const FIRST_RECEIVE_TIMEOUT_MS = 1_000
const FIRST_TRIES = 20
const END = Buffer.alloc(8, 0xff)

type Event = Readonly<Record<string, unknown>> & { readonly type: string; readonly block_hashes: readonly bigint[] }
type Batch = {
  readonly topic: string
  readonly seq: number
  readonly payload: Buffer
  readonly events: readonly Event[]
}

const hasher = createBlockHasher(BLOCK_SIZE_TOKENS, HASH_SEED)
let engine: Vllm
let subscriber: Subscriber
/** Every batch that was received, in order. */
const received: Batch[] = []

beforeAll(async () => {
  engine = await startVllm({ blocks: BLOCKS, maxModelLen: MAX_MODEL_LEN })
  subscriber = new Subscriber({ linger: 0, receiveTimeout: FIRST_RECEIVE_TIMEOUT_MS })
  subscriber.connect(engine.eventsEndpoint)
  subscriber.subscribe('')
  // A publisher drops what it sends before it knows of its subscribers.
  for (let tries = 0; received.length === 0; tries++) {
    expect(tries, 'an event arrives').toBeLessThan(FIRST_TRIES)
    await complete(promptFrom(100_000 + tries * BLOCK_SIZE_TOKENS, 1))
    await nextBatch().catch(() => undefined)
  }
  subscriber.receiveTimeout = RECEIVE_TIMEOUT_MS
})

afterAll(async () => {
  subscriber?.close()
  await engine?.stop()
})

/** Token ids of so many blocks, and some more. */
function promptFrom(first: number, blocks: number, moreTokens = 0): readonly number[] {
  return Array.from({ length: blocks * BLOCK_SIZE_TOKENS + moreTokens }, (_, index) => first + index)
}

async function complete(prompt: readonly number[], more: object = {}): Promise<void> {
  const answer = await fetch(`${engine.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'tiny-qwen3', prompt, max_tokens: 1, temperature: 0, ...more }),
  })
  expect(answer.status, await answer.text()).toBe(200)
}

/** The next one. Batches are numbered without a gap, so whatever a test leaves unread fails the next one. */
async function nextBatch(): Promise<Batch> {
  const frames = await subscriber.receive()
  expect(frames).toHaveLength(3)
  const [topic, seq, payload] = frames as [Buffer, Buffer, Buffer]
  const batch = readBatch(topic, seq, payload)
  const last = received.at(-1)
  if (last) expect(batch.seq).toBe(last.seq + 1)
  received.push(batch)
  return batch
}

function readBatch(topic: Buffer, seq: Buffer, payload: Buffer): Batch {
  expect(seq).toHaveLength(8)
  const [atSeconds, events, rank] = readMsgpack(payload) as [number, readonly Event[], number]
  expect(Math.abs(atSeconds - Date.now() / 1_000)).toBeLessThan(3_600)
  expect(rank).toBe(0)
  return { topic: topic.toString(), seq: Number(seq.readBigUInt64BE()), payload, events }
}

function announced(digests: readonly Digest[]): bigint[] {
  return digests.map((digest) => Buffer.from(digest, 'latin1').readBigUInt64BE(24))
}

function hashesOf(prompt: readonly number[], salt?: string): bigint[] {
  return announced(hasher.prompt(prompt, { salt }))
}

describe('GET /kv_event_sources', () => {
  it('tells by rank where the events are, as vLLM was configured', async () => {
    const answer = await fetch(`${engine.url}/kv_event_sources`)
    expect(answer.status).toBe(200)
    const port = (endpoint: string) => new URL(endpoint).port
    expect(await answer.json()).toEqual({
      '0': {
        enable_kv_cache_events: true,
        publisher: 'zmq',
        endpoint: `tcp://*:${port(engine.eventsEndpoint)}`,
        replay_endpoint: `tcp://*:${port(engine.replayEndpoint)}`,
        buffer_steps: 10_000,
        hwm: 100_000,
        max_queue_size: 100_000,
        topic: `kv@${new URL(engine.url).host}@tiny-qwen3`,
      },
    })
  })
})

describe('blocks that are stored', () => {
  it('are one map for a run of them, its members in this order, with the hashes that the simulator computes too', async () => {
    const prompt = promptFrom(1_000, 3, 5)
    await complete(prompt)
    const { topic, payload, events } = await nextBatch()
    expect(topic).toBe(`kv@${new URL(engine.url).host}@tiny-qwen3`)
    const members = {
      type: 'BlockStored',
      block_hashes: hashesOf(prompt),
      parent_block_hash: null,
      token_ids: prompt.slice(0, 3 * BLOCK_SIZE_TOKENS),
      block_size: BLOCK_SIZE_TOKENS,
      lora_id: null,
      medium: 'GPU',
      lora_name: null,
      extra_keys: [null, null, null],
      group_idx: 0,
      kv_cache_spec_kind: 'full_attention',
    }
    expect(events).toEqual([members])
    expect(Object.keys(events[0] ?? {})).toEqual(Object.keys(members))
    expect(decodeEvents(payload)).toMatchObject({
      ok: true,
      batch: { unknownEvents: 0, events: [{ type: 'stored', specKind: 'full_attention', medium: 'GPU' }] },
    })
  })

  it('are not told again when they are found in the cache: only what follows them is, with its parent', async () => {
    const prompt = promptFrom(1_000, 4)
    const [, , parent, last] = hashesOf(prompt)
    await complete(prompt)
    expect((await nextBatch()).events).toMatchObject([
      {
        type: 'BlockStored',
        block_hashes: [last],
        parent_block_hash: parent,
        token_ids: prompt.slice(-BLOCK_SIZE_TOKENS),
      },
    ])
  })

  it('are told once more for a prompt of whole blocks that is cached to its end: its last block is computed again', async () => {
    const prompt = promptFrom(1_000, 4)
    const [, , parent, last] = hashesOf(prompt)
    await complete(prompt)
    expect((await nextBatch()).events).toMatchObject([
      { type: 'BlockStored', block_hashes: [last], parent_block_hash: parent },
    ])
  })

  it('with a salt have hashes of their own, and say the salt on their first block alone', async () => {
    const prompt = promptFrom(1_000, 2, 1)
    await complete(prompt, { cache_salt: 'a tenant' })
    expect((await nextBatch()).events).toMatchObject([
      { type: 'BlockStored', block_hashes: hashesOf(prompt, 'a tenant'), extra_keys: [['a tenant'], null] },
    ])
    expect(hashesOf(prompt, 'a tenant')).not.toEqual(hashesOf(prompt))
  })

  it('while tokens are generated come one at a time, as each block fills', async () => {
    const prompt = promptFrom(2_000, 1)
    await complete(prompt, { max_tokens: 2 * BLOCK_SIZE_TOKENS + 1, ignore_eos: true })
    const batches = [await nextBatch(), await nextBatch(), await nextBatch()]
    const hashes = batches.map(({ events }) => events.map(({ block_hashes }) => block_hashes))
    expect(hashes.map(([run]) => run?.length)).toEqual([1, 1, 1])
    const parents = batches.map(({ events }) => events[0]?.parent_block_hash)
    expect(parents).toEqual([null, hashes[0]?.[0]?.[0], hashes[1]?.[0]?.[0]])
  })
})

describe('a reset of the prefix cache', () => {
  it('is told with the next batch, before what that one stores; until then an index is wrong', async () => {
    const reset = await fetch(`${engine.url}/reset_prefix_cache`, { method: 'POST' })
    expect(reset.status).toBe(200)
    const prompt = promptFrom(1_000, 2, 1)
    await complete(prompt)
    const { events } = await nextBatch()
    expect(events).toMatchObject([
      { type: 'AllBlocksCleared' },
      { type: 'BlockStored', block_hashes: hashesOf(prompt), parent_block_hash: null },
    ])
    expect(Object.keys(events[0] ?? {})).toEqual(['type'])
  })
})

describe('blocks that make room', () => {
  it('are told one event each, the last of a prompt first, and before what takes their place', async () => {
    const prompt = promptFrom(10_000, 30)
    await complete(prompt)
    expect((await nextBatch()).events).toMatchObject([{ type: 'BlockStored', block_hashes: hashesOf(prompt) }])
    await complete(promptFrom(20_000, 30))
    const { events } = await nextBatch()
    const kinds = events.map(({ type }) => type)
    expect(kinds.slice(0, -1).every((type) => type === 'BlockRemoved')).toBe(true)
    expect(kinds.at(-1)).toBe('BlockStored')
    const removed = events.slice(0, -1)
    expect(removed.every(({ block_hashes }) => block_hashes.length === 1)).toBe(true)
    expect(Object.keys(removed[0] ?? {})).toEqual(['type', 'block_hashes', 'medium', 'group_idx'])
    const evicted = removed.map(({ block_hashes }) => block_hashes[0] as bigint)
    const places = evicted.map((hash) => hashesOf(prompt).indexOf(hash)).filter((place) => place >= 0)
    expect(places.length).toBeGreaterThan(0)
    expect(places).toEqual(places.map((_, index) => 29 - index))
  })
})

describe('a replay', () => {
  const from = (seq: number) => {
    const frame = Buffer.alloc(8)
    frame.writeBigUInt64BE(BigInt(seq))
    return frame
  }

  /** All that comes until the end is told. */
  async function replay(dealer: Dealer): Promise<readonly Batch[]> {
    const batches: Batch[] = []
    for (;;) {
      const [empty, topic, seq, payload, ...more] = (await dealer.receive()) as [Buffer, Buffer, Buffer, Buffer]
      expect([empty.length, more.length]).toEqual([0, 0])
      if (seq.equals(END)) {
        expect([topic.length, payload.length]).toEqual([0, 0])
        return batches
      }
      batches.push(readBatch(topic, seq, payload))
    }
  }

  function dial(): Dealer {
    const dealer = new Dealer({ linger: 0, receiveTimeout: RECEIVE_TIMEOUT_MS })
    dealer.connect(engine.replayEndpoint)
    return dealer
  }

  it('gives every batch again as it was, numbered from 0, and then says that it is over', async () => {
    const dealer = dial()
    await dealer.send(['', from(0)])
    const batches = await replay(dealer)
    expect(batches.map(({ seq }) => seq)).toEqual(batches.map((_, index) => index))
    expect(batches.slice(received[0]?.seq)).toEqual(received)
    dealer.close()
  })

  it('from a number on gives what is left, and beyond the last nothing but the end', async () => {
    const dealer = dial()
    const last = received.at(-1)?.seq ?? 0
    await dealer.send(['', from(last)])
    expect(await replay(dealer)).toEqual(received.slice(-1))
    await dealer.send(['', from(last + 1)])
    expect(await replay(dealer)).toEqual([])
    dealer.close()
  })

  it('is not given to a request without the empty frame, which is not answered at all', async () => {
    const dealer = dial()
    const last = received.at(-1)?.seq ?? 0
    await dealer.send([from(0)])
    await dealer.send(['', from(last)])
    expect(await replay(dealer)).toHaveLength(1)
    dealer.close()
  })
})
