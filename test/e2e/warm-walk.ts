// One scenario for engines of any kind: through the edge and the router with the official client, requests go where their
// prompt is warm, and the engine's own usage confirms it. Simulators and real vLLM servers pass the same tests.
import { setTimeout as delay } from 'node:timers/promises'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { freePort, type Program, run, start } from './program.ts'

export type WarmEngines = {
  readonly urls: readonly [string, string]
  /** As SIGKILL ends it. */
  readonly kill: (index: number) => Promise<void>
  readonly stop: () => Promise<void>
}

export type WarmWalk = {
  /** Two engines that keep responses and publish KV events. */
  readonly startEngines: () => Promise<WarmEngines>
  readonly model: string
  readonly blockSizeTokens: number
}

/** What the admin door tells of a decision. */
type Told = {
  readonly chosen: string
  readonly attempts: readonly { readonly endpoint: string }[]
  readonly promptTokens: number
  readonly predictedCachedTokens?: number
  readonly tokensUnknown?: string
  readonly usage: { readonly cachedTokens: number }
}
type Asked = {
  readonly said: string
  readonly promptTokens: number
  readonly completionTokens: number
  readonly cachedTokens: number | undefined
  readonly decision: Told
  readonly sessionToken: string
}
type Message = OpenAI.ChatCompletionMessageParam
/** Whose client asks, and the session token that it echoes. */
type How = { readonly by?: OpenAI; readonly session?: string; readonly maxTokens?: number }

const WITHIN_MS = 10_000
const LOOK_EVERY_MS = 20
/** Asked at once: far more than one pod takes before its load speaks for the other one. */
const WAVE_REQUESTS = 24
const WAVE_TOKENS = 100
const CHATS_AFTER_LOSS = 6

const SYSTEM = {
  role: 'system',
  content: 'You answer in few words, you never guess, and you stay kind. '.repeat(30),
} as const

async function eventually(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadlineMs = performance.now() + WITHIN_MS
  while (!(await holds())) {
    if (performance.now() > deadlineMs) throw new Error(`not within ${WITHIN_MS} ms: ${what}`)
    await delay(LOOK_EVERY_MS)
  }
}

export function describeWarmWalk(name: string, { startEngines, model, blockSizeTokens }: WarmWalk): void {
  let engines: WarmEngines
  let program: Program
  let adminUrl: string
  let client: OpenAI
  let pods: readonly string[]
  let fresh = 0

  beforeAll(async () => {
    engines = await startEngines()
    pods = engines.urls.map((url) => new URL(url).host)
    const edgePort = await freePort()
    const ports = ['--port', String(edgePort), '--router-port', '0', '--admin-port', '0']
    program = start(['up', ...ports, ...engines.urls.flatMap((url) => ['--engine', url])])
    await program.says('Ctrl-C stops everything.')
    adminUrl = /^admin +(\S+)/m.exec(program.said())?.[1] ?? ''
    client = clientWith(/^key +(\S+)/m.exec(program.said())?.[1] ?? '', `http://127.0.0.1:${edgePort}/v1`)
    await eventually('the router follows the KV events of both', async () => {
      const endpoints = await admin<{ readonly cache: readonly { readonly state: string }[] }[]>('/endpoints')
      return endpoints.filter(({ cache }) => cache.some(({ state }) => state === 'live')).length === pods.length
    })
  })

  afterAll(async () => {
    program?.child.kill('SIGTERM')
    await program?.ended
    await engines?.stop()
  })

  const clientWith = (apiKey: string, baseURL: string) => new OpenAI({ apiKey, baseURL, maxRetries: 0 })
  const admin = async <T>(path: string) => (await (await fetch(`${adminUrl}${path}`)).json()) as T
  const decisionOf = (response: Response) => admin<Told>(`/decisions/${response.headers.get('x-warmpath-decision')}`)
  const indexedBlocks = async () => {
    const page = await (await fetch(`${adminUrl}/metrics`)).text()
    return Number(/^warmpath_kv_index_blocks (\d+)/m.exec(page)?.[1] ?? 0)
  }
  /** Pods are asked about here: an answer from the response cache would say nothing of them. */
  const echoed = (session: string | undefined) => ({
    'cache-control': 'no-store',
    ...(session !== undefined && { 'x-session-token': session }),
  })
  /** What no engine has seen before. */
  const newTopic = () => `Topic ${++fresh}: tell me about it.`

  function conversation(...texts: readonly string[]): Message[] {
    const turns = texts.map((content, index) => ({ role: index % 2 ? 'assistant' : 'user', content }) as const)
    // The topic comes first: conversations share no block.
    return [{ role: 'system', content: `${texts[0]} ${SYSTEM.content}` }, ...turns]
  }

  async function chat(messages: Message[], { by = client, session, maxTokens = 12 }: How = {}): Promise<Asked> {
    // A parameter of vLLM's own: without it the model may stop first.
    const request = { model, messages, max_tokens: maxTokens, temperature: 0, ignore_eos: true }
    const { data, response } = await by.chat.completions.create(request, { headers: echoed(session) }).withResponse()
    return {
      said: data.choices[0]?.message.content ?? '',
      promptTokens: data.usage?.prompt_tokens ?? 0,
      completionTokens: data.usage?.completion_tokens ?? 0,
      cachedTokens: data.usage?.prompt_tokens_details?.cached_tokens,
      decision: await decisionOf(response),
      sessionToken: response.headers.get('x-session-token') ?? '',
    }
  }

  /** A chat about something new, and the router's index holds all that the engine has kept of it. */
  async function firstTurn(topic: string, how: How = {}): Promise<Asked> {
    const before = await indexedBlocks()
    const first = await chat(conversation(topic), how)
    // What was said last is not computed until something follows it.
    const kept = Math.floor((first.promptTokens + first.completionTokens - 1) / blockSizeTokens)
    await eventually(`${kept} more blocks in the index`, async () => (await indexedBlocks()) >= before + kept)
    return first
  }

  /**
   * A session token for each pod. So many at once, and each for so long, that load alone spreads them, whatever else
   * speaks for one pod.
   */
  async function sessionTokens(): Promise<ReadonlyMap<string, string>> {
    const hello = (): Message[] => [{ role: 'user', content: newTopic() }]
    const asked = await Promise.all(
      Array.from({ length: WAVE_REQUESTS }, () => chat(hello(), { maxTokens: WAVE_TOKENS })),
    )
    const tokens = new Map(asked.map(({ decision, sessionToken }) => [decision.chosen, sessionToken]))
    expect([...tokens.keys()].sort(), 'load spreads requests').toEqual([...pods].sort())
    return tokens
  }

  async function respond(input: string, { previous, session }: { previous?: string; session?: string } = {}) {
    const request = { model, input, max_output_tokens: 8, ...(previous && { previous_response_id: previous }) }
    const { data, response } = await client.responses.create(request, { headers: echoed(session) }).withResponse()
    return { id: data.id, decision: await decisionOf(response) }
  }

  describe(name, () => {
    it('lists the model', async () => {
      expect((await Array.fromAsync(await client.models.list())).map(({ id }) => id)).toEqual([model])
    })

    it('chats', async () => {
      const answer = await chat([{ role: 'user', content: 'Tell me about warm caches.' }])
      expect(answer).toMatchObject({ completionTokens: 12, cachedTokens: 0 })
      expect(answer.said.length).toBeGreaterThan(0)
      expect(answer.decision.attempts.map(({ endpoint }) => endpoint)).toEqual([answer.decision.chosen])
    })

    it('streams, with usage for those who ask for it', async () => {
      const messages: Message[] = [{ role: 'user', content: 'Tell me about cold caches.' }]
      const request = { model, messages, max_tokens: 8, stream: true } as const
      const chunks = await Array.fromAsync(await client.chat.completions.create(request))
      expect(chunks[0]?.choices[0]?.delta.role).toBe('assistant')
      expect(chunks.every(({ choices, usage }) => choices.length === 1 && !usage)).toBe(true)
      const asked = await client.chat.completions.create({ ...request, stream_options: { include_usage: true } })
      const last = (await Array.fromAsync(asked)).at(-1)
      expect(last?.usage).toMatchObject({
        completion_tokens: 8,
        prompt_tokens_details: { cached_tokens: expect.any(Number) },
      })
    })

    it('a later turn lands on the pod that has the earlier ones, and the engine finds what the router predicted', async () => {
      for (let conversations = 0; conversations < 4; conversations++) {
        const topic = newTopic()
        const first = await firstTurn(topic)
        expect(first.cachedTokens).toBe(0)
        const second = await chat(conversation(topic, first.said, 'And then?'))
        expect(second.decision.tokensUnknown).toBeUndefined()
        expect(second.decision.chosen).toBe(first.decision.chosen)
        expect(second.decision.attempts.map(({ endpoint }) => endpoint)).toEqual([first.decision.chosen])
        expect(second.cachedTokens).toBeGreaterThan(300)
        expect(second.decision).toMatchObject({
          promptTokens: second.promptTokens,
          predictedCachedTokens: second.cachedTokens,
          usage: { cachedTokens: second.cachedTokens },
        })
      }
    })

    it('a prompt of whole blocks that is cached to its end is predicted to the token as well', async () => {
      const prompt = Array.from({ length: 4 * blockSizeTokens }, (_, index) => 1_000 + index)
      const ask = async () => {
        const { data, response } = await client.completions.create({ model, prompt, max_tokens: 1 }).withResponse()
        return { cached: data.usage?.prompt_tokens_details?.cached_tokens, decision: await decisionOf(response) }
      }
      const before = await indexedBlocks()
      await ask()
      await eventually('4 more blocks in the index', async () => (await indexedBlocks()) >= before + 4)
      const again = await ask()
      // Its last block is computed again: the next token follows from it.
      expect(again.cached).toBe(3 * blockSizeTokens)
      expect(again.decision.predictedCachedTokens).toBe(again.cached)
    })

    it("another tenant's identical prompt is not warm: neither by the router's word nor by the engine's", async () => {
      const { out } = await run(['key', 'create', '--tenant', 'somebody-else'])
      const other = clientWith(out.trim(), client.baseURL)
      const topic = newTopic()
      const first = await firstTurn(topic)
      const theirs = await firstTurn(topic, { by: other })
      expect(theirs.promptTokens).toBe(first.promptTokens)
      expect(theirs.cachedTokens).toBe(0)
      expect(theirs.decision.predictedCachedTokens).toBe(0)
      const theirsAgain = await chat(conversation(topic), { by: other })
      expect(theirsAgain.cachedTokens).toBeGreaterThan(300)
      expect(theirsAgain.decision).toMatchObject({
        chosen: theirs.decision.chosen,
        predictedCachedTokens: theirsAgain.cachedTokens,
      })
    })

    it('a session token that is echoed keeps the pod, whatever is asked', async () => {
      for (const [pod, session] of await sessionTokens()) {
        for (let turn = 0; turn < 4; turn++) {
          expect((await chat(conversation(newTopic()), { session })).decision.chosen).toBe(pod)
        }
      }
    })

    it('a caller that aborts frees the engine', async () => {
      const sumOf = async (series: string) => {
        const pages = await Promise.all(engines.urls.map(async (url) => (await fetch(`${url}/metrics`)).text()))
        const counts = pages.map((page) => Number(new RegExp(`^vllm:${series}\\{.*\\} (\\S+)$`, 'm').exec(page)?.[1]))
        return counts.reduce((sum, count) => sum + count, 0)
      }
      const before = await sumOf('generation_tokens_total')
      const abort = new AbortController()
      const messages: Message[] = [{ role: 'user', content: 'Count.' }]
      // Half a minute's work: where cores are few, a real vLLM may say its first word seconds late. Without the parameter
      // of its own the model may stop first.
      const request = { model, messages, max_tokens: 8_000, stream: true, ignore_eos: true } as const
      const stream = await client.chat.completions.create(request, { signal: abort.signal })
      // Not by a loop: the client gives up a stream whose loop is left.
      expect((await stream[Symbol.asyncIterator]().next()).done).toBe(false)
      abort.abort()
      await eventually('no engine is busy', async () => (await sumOf('num_requests_running')) === 0)
      const generated = (await sumOf('generation_tokens_total')) - before
      expect(generated).toBeGreaterThan(0)
      expect(generated).toBeLessThan(8_000)
    })

    it('mistakes are answered in the shape that the client reads', async () => {
      const messages: Message[] = [{ role: 'user', content: 'hi' }]
      const refused = { status: 400, message: expect.any(String), type: expect.any(String) }
      const create = (more: object) => client.chat.completions.create({ model, messages, ...more })
      await expect(create({ temperature: -1 })).rejects.toThrow(OpenAI.BadRequestError)
      await expect(create({ temperature: -1 })).rejects.toMatchObject(refused)
      await expect(create({ messages: 'hi' })).rejects.toMatchObject(refused)
      await expect(create({ max_tokens: 10_000_000 })).rejects.toMatchObject(refused)
      await expect(create({ model: 'gpt-9' })).rejects.toThrow(OpenAI.NotFoundError)
      await expect(create({ model: 'gpt-9' })).rejects.toMatchObject({
        status: 404,
        message: expect.stringContaining('gpt-9'),
      })
    })

    it('a response is gone on with at the pod that made it', async () => {
      for (const [pod, session] of await sessionTokens()) {
        let { id: previous } = await respond(newTopic(), { session })
        for (let turn = 0; turn < 3; turn++) {
          const next = await respond('And then?', { previous })
          expect(next.decision.chosen).toBe(pod)
          previous = next.id
        }
        expect((await client.responses.retrieve(previous)).id).toBe(previous)
      }
    })

    it('when a pod is killed the other one answers everybody, but for the responses that are lost with it', async () => {
      const sessions = await sessionTokens()
      const [lost, left] = pods as [string, string]
      const lostResponse = await respond(newTopic(), { session: sessions.get(lost) ?? '' })
      const leftResponse = await respond(newTopic(), { session: sessions.get(left) ?? '' })
      expect([lostResponse, leftResponse].map(({ decision }) => decision.chosen)).toEqual([lost, left])
      await engines.kill(0)
      for (let asked = 0; asked < CHATS_AFTER_LOSS; asked++) {
        const how = asked % 2 === 0 ? { session: sessions.get(lost) ?? '' } : {}
        expect((await chat(conversation(newTopic()), how)).decision.attempts.at(-1)?.endpoint).toBe(left)
      }
      await expect(respond('And then?', { previous: lostResponse.id })).rejects.toMatchObject({
        status: 404,
        message: expect.stringContaining('send the whole conversation as input'),
        param: 'previous_response_id',
      })
      expect((await respond('And then?', { previous: leftResponse.id })).decision.chosen).toBe(left)
    })
  })
}
