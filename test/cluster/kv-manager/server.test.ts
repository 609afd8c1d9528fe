// The KV-Cache Manager over real sockets: what it says of a prompt is what the engine then reports, in every way to ask, for
// pods that are dialled and pods that dial, and for a replica that has its index from another.
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import pino, { type Logger } from 'pino'
import { describe, expect, it, onTestFinished } from 'vitest'
import { Publisher } from 'zeromq'
import { loadRouterConfig } from '../../../cluster/config.ts'
import type { Endpoint, EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { endpointIdOf } from '../../../cluster/endpoints/endpoint.ts'
import { type KvManagerOptions, startKvManager } from '../../../cluster/kv-manager/server.ts'
import { startRouter } from '../../../cluster/router.ts'
import { type Simulator, type SimulatorOptions, startSimulator } from '../../../cluster/simulator/server.ts'
import { freePort } from '../../e2e/program.ts'
import { eventually } from '../../eventually.ts'
import { type Encodable, encode } from '../kv/encode-msgpack.ts'
import { seqFrame, startPublisher } from '../kv/publisher.ts'
import { endpoint } from '../views.ts'

const SILENT = pino({ level: 'silent' })
const KV = { bind: undefined, cacheTtlSeconds: 3_600, snapshotFrom: undefined }
// biome-ignore lint/suspicious/noExplicitAny: what it is, the expectations say.
type Any = any

async function startPod(options: SimulatorOptions = {}): Promise<Simulator> {
  const pod = await startSimulator({ port: 0, models: ['m'], speed: 0, ...options })
  onTestFinished(() => pod.close())
  return pod
}

const idOf = (pod: Simulator): EndpointId => endpointIdOf(new URL(pod.url))

const start = (pods: readonly Simulator[], more?: Partial<KvManagerOptions>, log?: Logger) =>
  startFor(
    pods.map((pod) => endpoint(idOf(pod), { origin: pod.url })),
    more,
    log,
  )

async function startFor(endpoints: readonly Endpoint[], more: Partial<KvManagerOptions> = {}, log = SILENT) {
  const tokenizers = { named: [], modelsDirectory: undefined }
  const manager = await startKvManager(
    { host: '127.0.0.1', port: 0, endpoints, tokenizers, tokenizeMs: 5_000, kv: KV, ...more },
    log,
  )
  onTestFinished(() => manager.close())
  await manager.firstRound
  return `http://127.0.0.1:${manager.port}`
}

async function ask(pod: Simulator, request: object, path = '/v1/completions'): Promise<number> {
  const answer = await post(`${pod.url}${path}`, { model: 'm', max_tokens: 4, ...request })
  return ((await answer.json()) as Any).usage.prompt_tokens_details.cached_tokens
}

function post(url: string, body: unknown): Promise<Response> {
  return fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })
}

async function scores(url: string, request: object): Promise<Any> {
  const answer = await post(`${url}/score`, request)
  return { status: answer.status, ...((await answer.json()) as object) }
}

/** The scores once the events of what was asked before have come. */
function scored(url: string, request: object, best: (matched: number) => boolean): Promise<Any> {
  return eventually(
    () => scores(url, request),
    (said) => best(said.scores?.[0]?.matchedTokens ?? 0),
  )
}

/** Of one block. */
const ids = Array.from({ length: 16 }, (_, index) => index + 10)
const PROMPT = Array.from({ length: 150 }, (_, index) => `word${index}`).join(' ')
const messages = [{ role: 'user', content: PROMPT }]

describe('a score', () => {
  it('is what the pod then reports as cached: by query, by prompt, by messages, by token ids', async () => {
    const [one, two] = [await startPod(), await startPod()]
    const url = await start([one, two])
    await ask(one, { prompt: PROMPT })
    await ask(two, { messages }, '/v1/chat/completions')

    const said = await scored(url, { model: 'm', prompt: `${PROMPT} and on` }, (matched) => matched > 0)
    const [best, other] = said.scores
    expect(said).toMatchObject({ status: 200, model: 'm', promptTokens: expect.any(Number) })
    expect([best.endpoint, other.endpoint]).toEqual([idOf(one), idOf(two)])
    expect(best).toMatchObject({ rank: 0, stale: false, tiers: { gpu: best.matchedTokens, cpu: 0 } })
    expect(best.score).toBeCloseTo(best.matchedTokens / said.promptTokens)
    const query = await fetch(`${url}/score?prompt=${encodeURIComponent(`${PROMPT} and on`)}`)
    expect(await query.json()).toEqual({ model: 'm', promptTokens: said.promptTokens, scores: said.scores })
    const tokenized = (await (
      await post(`${one.url}/tokenize`, { model: 'm', prompt: `${PROMPT} and on` })
    ).json()) as Any
    expect((await scores(url, { model: 'm', token_ids: tokenized.tokens })).scores).toEqual(said.scores)
    expect(await ask(one, { prompt: `${PROMPT} and on` })).toBe(best.matchedTokens)

    const chat = await scored(url, { messages }, (matched) => matched > 0)
    expect(chat.scores[0].endpoint).toBe(idOf(two))
    expect(await ask(two, { messages }, '/v1/chat/completions')).toBe(chat.scores[0].matchedTokens)
  })

  it('knows a salt', async () => {
    const pod = await startPod()
    const url = await start([pod])
    await ask(pod, { prompt: PROMPT, cache_salt: 's' })
    const salted = await scored(url, { prompt: PROMPT, cache_salt: 's' }, (matched) => matched > 0)
    expect(await ask(pod, { prompt: PROMPT, cache_salt: 's' })).toBe(salted.scores[0].matchedTokens)
    expect((await scores(url, { prompt: PROMPT })).scores[0].matchedTokens).toBe(0)
    expect((await scores(url, { prompt: PROMPT, cache_salt: 'other' })).scores[0].matchedTokens).toBe(0)
  })

  const WRONG: readonly (readonly [string, string | object, number, string])[] = [
    ['no JSON', '{', 400, 'The body is not what is expected'],
    ['nothing to score', {}, 400, 'Give one of'],
    ['two prompts', { prompt: 'a', token_ids: [1] }, 400, 'Give one of'],
    ['ids that are none', { token_ids: ['a'] }, 400, '`token_ids` is no list'],
    ['several prompts', { prompt: ['a', 'b'] }, 400, 'There is no one prompt'],
    ['a model that is no text', { model: 5, prompt: 'a' }, 400, '`model` is no text'],
    ['a model that nobody serves', { model: 'other', prompt: 'a' }, 404, 'No pod serves "other": there are m.'],
    ['a chat that the engine refuses', { messages: [] }, 503, "The prompt's token ids are not known"],
    ['a salt without end', { prompt: 'a', cache_salt: 'x'.repeat(5_000) }, 400, '`cache_salt` has more than'],
  ]
  it('says what is wrong with a request, and goes on', async () => {
    const url = await start([await startPod()])
    for (const [name, body, status, message] of WRONG) {
      const answer = await post(`${url}/score`, body)
      expect([name, answer.status]).toEqual([name, status])
      expect(((await answer.json()) as Any).error.message).toContain(message)
    }
    expect((await fetch(`${url}/score`)).status).toBe(400)
    const put = await fetch(`${url}/score`, { method: 'PUT' })
    expect([put.status, put.headers.get('allow')]).toEqual([405, 'GET, POST'])
    const large = await post(`${url}/score`, { prompt: 'x'.repeat(9 * 2 ** 20) }).catch(() => ({ status: 413 }))
    expect(large.status).toBe(413)
    expect((await scores(url, { token_ids: [] })).scores).toHaveLength(1)
    expect((await fetch(`${url}/nothing`)).status).toBe(404)
    expect(await (await fetch(`${url}/metrics`)).text()).toContain('warmpath_kv_index_blocks')
  })

  it('asks which model where there are several', async () => {
    const url = await start([await startPod(), await startPod({ models: ['n'] })])
    expect(await scores(url, { prompt: 'a' })).toMatchObject({
      status: 400,
      error: { message: 'Say which model: m, n.', param: 'model' },
    })
    expect((await scores(url, { model: 'n', prompt: 'a' })).scores).toHaveLength(1)
  })
})

describe('a router that asks it', () => {
  it('predicts with its word what the pod reports, and says in why who told', async () => {
    const pods = [await startPod(), await startPod()]
    const kvManager = await start(pods)
    const over = { endpoints: pods.map(({ url }) => url), port: 0, adminPort: 0, kvManager, cacheEnabled: 'false' }
    const router = await startRouter(loadRouterConfig(undefined, over), SILENT)
    onTestFinished(() => router.close({ drainNoticeMs: 0, drainMs: 0 }))
    await router.firstRound
    const chat = async () => {
      const answer = await post(`http://127.0.0.1:${router.port}/v1/chat/completions`, {
        model: 'm',
        messages,
        max_tokens: 2,
      })
      const { usage } = (await answer.json()) as Any
      const id = answer.headers.get('x-warmpath-decision')
      const decision = (await (await fetch(`http://127.0.0.1:${router.adminPort}/decisions/${id}`)).json()) as Any
      return { decision, cached: usage.prompt_tokens_details.cached_tokens }
    }
    await chat()
    await scored(kvManager, { messages }, (matched) => matched > 0)
    const { decision, cached } = await eventually(chat, (seen) => seen.decision.lookedUpBy === kvManager)
    expect(cached).toBeGreaterThan(0)
    expect(decision.predictedCachedTokens).toBe(cached)
  })
})

describe('a replica that starts', () => {
  it('has the index from one that runs, blocks that no pod would tell again among them, and follows the events from there', async () => {
    const pod = await startPod({ kvEventsPort: 'off' })
    const publisher = await startPublisher()
    onTestFinished(() => publisher.close())
    const { events, replay } = publisher
    const pods = [endpoint(idOf(pod), { origin: pod.url, events, replay })]
    const first = await startFor(pods)
    const chain = (from: number, to: number) => Array.from({ length: to - from }, (_, at) => 100 * (from + at))
    const idsOf = (from: number, to: number) => chain(from, to).flatMap((start) => ids.map((id) => id + start))
    const publish = async (from: number, to: number) => {
      for (const start of chain(from, to)) {
        const hash = BigInt(start + 1)
        const block = ids.map((id) => id + start)
        await publisher.publish(encode(stored(hash, block, start === 0 ? null : hash - 100n)))
      }
    }
    await publish(0, 9)
    const nine = { model: 'm', token_ids: [...idsOf(0, 9), 1] }
    await scored(first, nine, (matched) => matched === 144)
    publisher.forget(8)

    // Alone it would know of the last block only, whose parent never comes.
    const alone = await startFor(pods)
    await eventually(
      async () => publisher.asked(),
      (asked) => asked.length > 1,
    )
    expect((await scores(alone, nine)).scores[0]).toMatchObject({ matchedTokens: 0, stale: true })
    const second = await startFor(pods, { kv: { ...KV, snapshotFrom: first } })
    const expected = await scores(first, nine)
    expect(expected.scores[0]).toMatchObject({ matchedTokens: 144, stale: false })
    await eventually(
      () => scores(second, nine),
      (said) => JSON.stringify(said) === JSON.stringify(expected),
    )
    await publish(9, 10)
    const ten = { model: 'm', token_ids: [...idsOf(0, 10), 1] }
    const said = await scored(second, ten, (matched) => matched === 160)
    expect(said.scores[0].stale).toBe(false)
  })

  it('drops what it was given when the pod is another one by then', async () => {
    const pod = await startPod({ kvEventsPort: 'off' })
    const publisher = await startPublisher()
    const { events, replay } = publisher
    const pods = [endpoint(idOf(pod), { origin: pod.url, events, replay })]
    const first = await startFor(pods)
    await publisher.publish(encode(stored(1n, ids)))
    const request = { model: 'm', token_ids: [...ids, 1] }
    await scored(first, request, (matched) => matched === 16)
    const bytes = Buffer.from(await (await fetch(`${first}/snapshot`)).arrayBuffer())
    publisher.close()
    const anew = await startPublisher({ at: { events, replay } })
    onTestFinished(() => anew.close())
    const others = ids.map((id) => id + 7)
    await anew.publish(encode(stored(9n, others)))
    const keeper = createServer((_, res) => res.end(bytes)).listen(0, '127.0.0.1')
    onTestFinished(() => void keeper.close())
    await once(keeper, 'listening')
    const from = `http://127.0.0.1:${(keeper.address() as AddressInfo).port}`
    const second = await startFor(pods, { kv: { ...KV, snapshotFrom: from } })
    await scored(second, { model: 'm', token_ids: [...others, 1] }, (matched) => matched === 16)
    expect((await scores(second, request)).scores[0].matchedTokens).toBe(0)
  })

  it('starts without it where there is none to be had, and says so', async () => {
    const lines: string[] = []
    const log = pino({}, { write: (line: string) => void lines.push(line) })
    const nobody = `http://127.0.0.1:${await freePort()}`
    const pod = await startPod()
    const url = await start([pod], { kv: { ...KV, snapshotFrom: nobody } }, log)
    expect(lines.join()).toContain('kv-snapshot-lost')
    await ask(pod, { prompt: PROMPT })
    await scored(url, { prompt: PROMPT }, (matched) => matched > 0)
  })
})

/** One stored block as vLLM publishes it. */
function stored(hash: bigint, tokenIds: readonly number[], parent: bigint | null = null): Encodable {
  const event = {
    type: 'BlockStored',
    block_hashes: [hash],
    parent_block_hash: parent,
    token_ids: [...tokenIds],
    block_size: tokenIds.length,
    lora_id: null,
    medium: 'GPU',
    lora_name: null,
  }
  return [1.5, [event], 0]
}

describe('pods that dial', () => {
  async function dial(address: string): Promise<Publisher> {
    const publisher = new Publisher({ linger: 0 })
    onTestFinished(() => publisher.close())
    publisher.connect(address)
    return publisher
  }

  it('are known by their topic; one without it is dropped, and the flag that it lacks is named', async () => {
    const lines: string[] = []
    const log = pino({}, { write: (line: string) => void lines.push(line) })
    const bind = `tcp://127.0.0.1:${await freePort()}`
    const url = await start([], { kv: { ...KV, bind } }, log)
    const publisher = await dial(bind)
    const publish = async (topic: string, seq: number, batch: Encodable) =>
      publisher.send([topic, seqFrame(seq), encode(batch)])
    const request = { model: 'org/m@1', token_ids: [...ids, ...ids.map((id) => id + 100), 1] }
    // A publisher drops what it sends before it is connected.
    let seq = 0
    const said = await eventually(
      async () => {
        await publish('', seq, stored(1n, ids))
        await publish('kv@10.0.0.7:8000@org/m@1', seq++, stored(1n, ids))
        return scores(url, request)
      },
      ({ scores: list }) => list?.[0]?.matchedTokens > 0,
    )
    expect(said.scores).toMatchObject([{ endpoint: '10.0.0.7:8000', rank: 0, matchedTokens: 16 }])
    await publish(
      'kv@10.0.0.7:8000@org/m@1',
      seq++,
      stored(
        2n,
        ids.map((id) => id + 100),
        1n,
      ),
    )
    await scored(url, request, (matched) => matched === 32)
    expect(lines.join()).toContain('kv@$(POD_IP):8000@')
    expect(await (await fetch(`${url}/metrics`)).text()).toMatch(/warmpath_kv_bound_faults\{reason="topic"\} [1-9]/)

    // It begins anew: what it had before is gone at once.
    await publish('kv@10.0.0.7:8000@org/m@1', 0, stored(3n, ids))
    const anew = await scored(url, request, (matched) => matched === 16)
    expect(anew.scores[0].matchedTokens).toBe(16)
  })

  it('that fall silent are forgotten after the time that was set, and not before', async () => {
    const bind = `tcp://127.0.0.1:${await freePort()}`
    const url = await start([], { kv: { ...KV, bind, cacheTtlSeconds: 1 } })
    const publisher = await dial(bind)
    const request = { model: 'm', token_ids: [...ids, 1] }
    let seq = 0
    await eventually(
      async () => {
        await publisher.send(['kv@10.0.0.7:8000@m', seqFrame(seq++), encode(stored(1n, ids))])
        return scores(url, request)
      },
      ({ scores: list }) => list?.[0]?.matchedTokens > 0,
    )
    await eventually(
      () => scores(url, request),
      (seen) => (seen.scores ?? []).length === 0,
    )
  })

  it('an address that cannot be bound is one line that names the flag', async () => {
    await expect(start([], { kv: { ...KV, bind: 'tcp://192.0.2.1:5555' } })).rejects.toThrow(
      'choose another with --zmq-bind',
    )
  })
})

describe('what happens in the caches', () => {
  async function watch(url: string, query = '') {
    const stop = new AbortController()
    onTestFinished(() => stop.abort())
    const answer = await fetch(`${url}/events${query}`, { signal: stop.signal })
    expect(answer.headers.get('content-type')).toBe('text/event-stream')
    const seen: Any[] = []
    void (async () => {
      let text = ''
      for await (const chunk of (answer.body as ReadableStream).pipeThrough(new TextDecoderStream())) {
        text += chunk
        const events = text.split('\n\n')
        text = events.pop() ?? ''
        for (const event of events) {
          const data = /^data: (.*)$/m.exec(event)?.[1]
          if (data !== undefined) seen.push(JSON.parse(data))
        }
      }
    })().catch(() => undefined)
    return seen
  }

  it('can be watched live, in the guide’s words, and of some pods or kinds alone', async () => {
    const [one, two] = [await startPod({ kvCacheTokens: 640 }), await startPod()]
    const url = await start([one, two])
    const all = await watch(url)
    const ofTwo = await watch(url, `?endpoint=${idOf(two)}`)
    const freed = await watch(url, '?type=kv_free')
    await ask(one, { prompt: PROMPT })
    await ask(two, { prompt: PROMPT })
    await eventually(
      async () => ofTwo,
      (seen) => seen.length > 0,
    )
    const [event] = all
    expect(event).toEqual({
      event_type: 'kv_alloc',
      seq_num: expect.any(Number),
      timestamp: expect.any(Number),
      block_ids: expect.arrayContaining([expect.stringMatching(/^[0-9a-f]{16}$/)]),
      prompt_hash: expect.stringMatching(/^[0-9a-f]{16}$/),
      endpoint: idOf(one),
      rank: 0,
      medium: 'GPU',
      tokens: expect.any(Number),
    })
    expect(new Set(ofTwo.map(({ endpoint: id }) => id))).toEqual(new Set([idOf(two)]))
    // The same prompt has the same hash wherever it lies.
    expect(ofTwo[0].prompt_hash).toBe(event.prompt_hash)
    expect(freed).toEqual([])
    for (let index = 0; index < 8; index++) await ask(one, { prompt: `${index} ${PROMPT}` })
    const [gone] = await eventually(
      async () => freed,
      (seen) => seen.length > 0,
    )
    expect(gone).toMatchObject({ event_type: 'kv_free', endpoint: idOf(one), medium: 'GPU', tokens: 0 })
  })

  it('by more than sixteen at a time is refused', async () => {
    const url = await start([await startPod()])
    for (let times = 0; times < 16; times++) await watch(url)
    expect((await fetch(`${url}/events`)).status).toBe(503)
  })
})
