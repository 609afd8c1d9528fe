// Every dialect through the real processes, edge → router → pod, as the official clients of OpenAI and Anthropic speak it.
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import Anthropic from '@anthropic-ai/sdk'
import OpenAI from 'openai'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { DIALECTS, type Dialect } from '../../shared/dialect.ts'
import { freePort, type Program, run, start } from './program.ts'

const CHAT_MODEL = 'sim-8b'
const EMBEDDING_MODEL = 'sim-embed'
/** Served by an engine that does what a test wants. */
const SCRIPTED_MODEL = 'scripted'

const programs: Program[] = []
let scripted: Server
let script: (req: IncomingMessage, res: ServerResponse) => void
let origin: string
let adminUrl: string
let key: string
let openai: OpenAI
let anthropic: Anthropic

beforeAll(async () => {
  scripted = createServer((req, res) => {
    req.resume()
    if (req.url === '/v1/models')
      res.end(JSON.stringify({ object: 'list', data: [{ id: SCRIPTED_MODEL, object: 'model' }] }))
    else if (req.url?.startsWith('/v1/')) req.once('end', () => script(req, res))
    else res.writeHead(404).end('{"detail":"Not Found"}')
  }).listen(0, '127.0.0.1')
  await once(scripted, 'listening')
  const engines = await Promise.all([
    startPod('--model', CHAT_MODEL),
    startPod('--model', EMBEDDING_MODEL, '--runner', 'pooling'),
  ])
  engines.push(`http://127.0.0.1:${(scripted.address() as AddressInfo).port}`)
  const ports = ['--port', String(await freePort()), '--router-port', '0', '--admin-port', '0']
  const program = start(['up', ...ports, ...engines.flatMap((url) => ['--engine', url])])
  programs.push(program)
  await program.says('Ctrl-C stops everything.')
  const rowOf = (row: string) => new RegExp(`^${row} +(\\S+)`, 'm').exec(program.said())?.[1] ?? ''
  origin = rowOf('edge')
  adminUrl = rowOf('admin')
  key = rowOf('key')
  ;({ openai, anthropic } = clientsOf(key))
})

afterAll(async () => {
  for (const { child } of programs) child.kill('SIGTERM')
  await Promise.all(programs.map(({ ended }) => ended))
  scripted.closeAllConnections()
  scripted.close()
})

beforeEach(() => {
  script = (_, res) => res.destroy()
})

async function startPod(...flags: readonly string[]): Promise<string> {
  const pod = start(['simulator', '--port', '0', '--speed', '4', ...flags])
  programs.push(pod)
  await pod.says(/listens on \S+/)
  return /http:\S+/.exec(pod.said())?.[0] ?? ''
}

/** What caches said of the last answer. */
let cacheStatus = ''

function clientsOf(apiKey: string) {
  const watched: typeof fetch = async (...request) => {
    const answer = await fetch(...request)
    cacheStatus = answer.headers.get('cache-status') ?? ''
    return answer
  }
  return {
    openai: new OpenAI({ apiKey, baseURL: `${origin}/v1`, maxRetries: 0, fetch: watched }),
    anthropic: new Anthropic({ apiKey, baseURL: origin, maxRetries: 0, fetch: watched }),
  }
}

type Clients = ReturnType<typeof clientsOf>

type Contract = {
  readonly dialect: Dialect
  readonly model: string
  /** What the client of this dialect throws, by its own names. */
  readonly errors: typeof OpenAI | typeof Anthropic
  /** An unstreamed request, by the client. */
  readonly ask: (clients: Clients, model: string, question?: string, more?: object) => Promise<unknown>
  /** What its answer must hold. */
  readonly answer: object
  /** The same, streamed and read to its end. */
  readonly stream?: (clients: Clients, model: string, question?: string, more?: object) => Promise<readonly unknown[]>
  readonly lastEvent?: object
  /** What makes an answer one that is kept, and what it said, in either form; undefined where nothing is kept. */
  readonly kept?: {
    readonly more: object
    readonly said: (answer: never) => unknown
    readonly saidIn?: (events: never) => unknown
  }
  /** The beginning of an engine's stream, without its end. */
  readonly begun?: string
}

let count = 0
/** Never asked before: an answer that was kept would say nothing of its way through the router. */
const fresh = () => `Tell me about warm cache ${++count}.`
const chat = (content = fresh()) => [{ role: 'user' as const, content }]
const messages = chat()
const usageOf = (prompt: string, completion: string) => ({ [prompt]: expect.any(Number), [completion]: 4 })

const CONTRACTS: readonly Contract[] = [
  {
    dialect: 'chat',
    model: CHAT_MODEL,
    errors: OpenAI,
    ask: ({ openai }, model, question, more) =>
      openai.chat.completions.create({ model, messages: chat(question), max_tokens: 4, ...more }),
    answer: { object: 'chat.completion', usage: usageOf('prompt_tokens', 'completion_tokens') },
    stream: async ({ openai }, model, question, more) => {
      const request = { model, messages: chat(question), max_tokens: 4, stream: true, ...more } as const
      return Array.fromAsync(await openai.chat.completions.create(request))
    },
    kept: {
      more: { temperature: 0 },
      said: ({ choices }: OpenAI.ChatCompletion) => choices[0]?.message.content,
      saidIn: (chunks: OpenAI.ChatCompletionChunk[]) =>
        chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join(''),
    },
    lastEvent: { choices: [{ finish_reason: 'length' }] },
    begun: 'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',
  },
  {
    dialect: 'completions',
    model: CHAT_MODEL,
    errors: OpenAI,
    ask: ({ openai }, model, prompt = fresh(), more = {}) =>
      openai.completions.create({ model, prompt, max_tokens: 4, ...more }),
    answer: { object: 'text_completion', usage: usageOf('prompt_tokens', 'completion_tokens') },
    stream: async ({ openai }, model, prompt = fresh(), more = {}) => {
      const request = { model, prompt, max_tokens: 4, stream: true, ...more } as const
      return Array.fromAsync(await openai.completions.create(request))
    },
    kept: {
      more: { seed: 7 },
      said: ({ choices }: OpenAI.Completion) => choices[0]?.text,
      saidIn: (chunks: OpenAI.Completion[]) => chunks.map(({ choices }) => choices[0]?.text ?? '').join(''),
    },
    lastEvent: { choices: [{ finish_reason: 'length' }] },
    begun: 'data: {"id":"cmpl-1","choices":[{"index":0,"text":"a"}]}\n\n',
  },
  {
    dialect: 'responses',
    model: CHAT_MODEL,
    errors: OpenAI,
    ask: ({ openai }, model, input = fresh(), more = {}) =>
      openai.responses.create({ model, input, max_output_tokens: 4, ...more }),
    answer: { object: 'response', usage: usageOf('input_tokens', 'output_tokens') },
    stream: async ({ openai }, model, input = fresh(), more = {}) => {
      const request = { model, input, max_output_tokens: 4, stream: true, ...more } as const
      return Array.fromAsync(await openai.responses.create(request))
    },
    kept: {
      more: { temperature: 0, store: false },
      said: ({ output_text }: OpenAI.Responses.Response) => output_text,
      saidIn: (events: OpenAI.Responses.ResponseStreamEvent[]) =>
        events.map((event) => (event.type === 'response.output_text.delta' ? event.delta : '')).join(''),
    },
    lastEvent: { response: { usage: usageOf('input_tokens', 'output_tokens') } },
    begun: 'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1"}}\n\n',
  },
  {
    dialect: 'messages',
    model: CHAT_MODEL,
    errors: Anthropic,
    ask: ({ anthropic }, model, question, more) =>
      anthropic.messages.create({ model, messages: chat(question), max_tokens: 4, ...more }),
    answer: {
      type: 'message',
      content: [{ type: 'text', text: expect.stringMatching(/./) }],
      stop_reason: 'max_tokens',
      usage: usageOf('input_tokens', 'output_tokens'),
    },
    stream: async ({ anthropic }, model, question, more) => {
      const request = { model, messages: chat(question), max_tokens: 4, stream: true, ...more } as const
      return Array.fromAsync(await anthropic.messages.create(request))
    },
    kept: {
      more: { temperature: 0 },
      said: ({ content }: Anthropic.Message) => (content[0] as Anthropic.TextBlock).text,
      saidIn: (events: Anthropic.MessageStreamEvent[]) =>
        events
          .map((event) =>
            event.type === 'content_block_delta' && event.delta.type === 'text_delta' ? event.delta.text : '',
          )
          .join(''),
    },
    lastEvent: { type: 'message_stop' },
    begun:
      'event: message_start\ndata: {"type":"message_start","message":{"id":"m","usage":{"input_tokens":9,"output_tokens":0}}}\n\n',
  },
  {
    dialect: 'count-tokens',
    model: CHAT_MODEL,
    errors: Anthropic,
    ask: ({ anthropic }, model) => anthropic.messages.countTokens({ model, messages }),
    answer: { input_tokens: expect.any(Number) },
  },
  {
    dialect: 'embeddings',
    model: EMBEDDING_MODEL,
    errors: OpenAI,
    ask: ({ openai }, model, input = fresh()) => openai.embeddings.create({ model, input: [input, 'cold'] }),
    kept: { more: {}, said: ({ data }: OpenAI.CreateEmbeddingResponse) => data[0]?.embedding },
    answer: {
      object: 'list',
      data: [{ index: 0, embedding: expect.any(Array) }, { index: 1 }],
      usage: { prompt_tokens: expect.any(Number) },
    },
  },
]

const clients = () => ({ openai, anthropic })

async function failureOf(asked: Promise<unknown>): Promise<unknown> {
  try {
    await asked
  } catch (error) {
    return error
  }
  throw new Error('it did not fail')
}

describe.each(CONTRACTS)('$dialect', ({ dialect, model, errors, ask, answer, stream, lastEvent, begun, kept }) => {
  const isAnthropic = DIALECTS[dialect].shape === 'anthropic'

  it('answers', async () => {
    expect(await ask(clients(), model)).toMatchObject(answer)
  })

  if (stream) {
    it('streams to its end', async () => {
      expect((await stream(clients(), model)).at(-1)).toMatchObject(lastEvent ?? {})
    })
  }

  it('tells of an unknown model', async () => {
    const failure = await failureOf(ask(clients(), 'gpt-9'))
    expect(failure).toBeInstanceOf(errors.NotFoundError)
    if (isAnthropic) expect(failure).toMatchObject({ type: 'not_found_error' })
    else expect(failure).toMatchObject({ code: 'model_not_found' })
  })

  it('tells of a bad body', async () => {
    const failure = await failureOf(ask(clients(), 7 as never))
    expect(failure).toBeInstanceOf(errors.BadRequestError)
    expect(failure).toMatchObject({ type: 'invalid_request_error' })
  })

  it('tells of a wrong key', async () => {
    const failure = await failureOf(ask(clientsOf('wp_live_x'), model))
    expect(failure).toBeInstanceOf(errors.AuthenticationError)
    expect(failure).toMatchObject({ status: 401, requestID: expect.stringMatching(/^req_/) })
  })

  it.each([
    ['that it has read', { type: 'error', error: { type: 'BadRequestError', message: 'too long' } }],
    ['that it could not read', { error: { message: 'too long', type: 'Bad Request', param: 'x', code: 400 } }],
  ])('tells what the engine has against a request %s', async (_, error) => {
    script = (__, res) => void res.writeHead(400, { 'content-type': 'application/json' }).end(JSON.stringify(error))
    const failure = await failureOf(ask(clients(), SCRIPTED_MODEL))
    expect(failure).toBeInstanceOf(errors.BadRequestError)
    expect((failure as Error).message).toContain('too long')
    if (isAnthropic) expect(failure).toMatchObject({ type: 'invalid_request_error' })
  })

  it('tells that the engine failed', async () => {
    script = (_, res) => void res.writeHead(500).end('EngineCore died')
    const failure = await failureOf(ask(clients(), SCRIPTED_MODEL))
    expect(failure).toBeInstanceOf(errors.InternalServerError)
    expect(failure).toMatchObject({ status: 500, type: isAnthropic ? 'api_error' : 'server_error' })
  })

  it('tells that no engine takes it, and when to try again', async () => {
    script = (_, res) => void res.writeHead(503).end()
    const failure = await failureOf(ask(clients(), SCRIPTED_MODEL))
    expect(failure).toMatchObject({ status: 503, type: isAnthropic ? 'overloaded_error' : 'server_error' })
    expect((failure as { headers: Headers }).headers.get('retry-after')).toBe('1')
  })

  if (stream)
    it('tells a failure before the first token as a status', async () => {
      const error = { message: 'EngineCore died', type: 'InternalServerError', code: 500 }
      script = (_, res) => {
        res.writeHead(200, { 'content-type': 'text/event-stream' })
        res.end(
          `${isAnthropic ? 'event: error\n' : ''}data: ${JSON.stringify({ ...(isAnthropic && { type: 'error' }), error })}\n\n`,
        )
      }
      const failure = await failureOf(stream(clients(), SCRIPTED_MODEL))
      expect(failure).toBeInstanceOf(errors.InternalServerError)
      expect((failure as Error).message).toContain('EngineCore died')
    })

  if (stream)
    it.each(['ends', 'breaks'])('tells of a stream that %s too early', async (how) => {
      script = (_, res) => {
        res.writeHead(200, { 'content-type': 'text/event-stream' })
        res.write(begun, () => (how === 'ends' ? res.end() : res.destroy()))
      }
      const failure = await failureOf(stream(clients(), SCRIPTED_MODEL))
      expect(failure).toBeInstanceOf(errors.APIError)
      expect((failure as Error).message).toMatch(/complete/)
    })

  it('does not take half an answer for a whole one', async () => {
    script = (_, res) => {
      res.writeHead(200, { 'content-type': 'application/json', 'content-length': 1_000 })
      res.write('{"usage":{"prompt_tokens":1', () => res.destroy())
    }
    await failureOf(ask(clients(), SCRIPTED_MODEL))
  })

  const forms = stream ? [false, true] : [false]
  const turns = kept ? forms.flatMap((first) => forms.map((second) => [first, second] as const)) : []
  const name = (streams: boolean) => (streams ? 'streamed' : 'whole')
  it.each(turns.map((turn) => [name(turn[0]), name(turn[1]), turn] as const))(
    'answered %s, it is answered %s from the caches, with the same words',
    async (_, __, [first, second]) => {
      const question = fresh()
      const asked = async (streams: boolean) => {
        if (!streams) return kept?.said((await ask(clients(), model, question, kept.more)) as never)
        return kept?.saidIn?.((await stream?.(clients(), model, question, kept.more)) as never)
      }
      const said = await asked(first)
      expect(cacheStatus).toMatch(/^warmpath-router; fwd=miss, warmpath-edge; fwd=miss/)
      expect(await asked(second)).toEqual(said)
      expect(cacheStatus).toContain('; hit; ')
    },
  )

  it('is told by why, under the id of its answer', async () => {
    const asked = ask(clients(), model) as Promise<unknown> & ReturnType<OpenAI['models']['retrieve']>
    const { data, response } = await asked.withResponse()
    const { id } = data as { id?: string }
    const decision = response.headers.get('x-warmpath-decision') ?? ''
    const told = await run(['why', id ?? decision, '--admin', adminUrl])
    expect(told.out).toContain(`decision ${decision} `)
    expect(told.out).toContain(`: ${dialect}, model ${model}, tenant demo`)
  })
})

/** Few cities: a model that writes nonsense comes to an end too. */
const weather = {
  type: 'object' as const,
  properties: { city: { type: 'string', enum: ['Köln', 'Oslo'] } },
  required: ['city'],
  additionalProperties: false,
}
const city = expect.stringMatching(/^(Köln|Oslo)$/)

describe('what clients of Anthropic do besides', () => {
  it('reads the id of its request', async () => {
    const answer = await anthropic.messages.create({ model: CHAT_MODEL, messages, max_tokens: 1 })
    expect(answer._request_id).toMatch(/^req_/)
  })

  it('accumulates a stream into a message', async () => {
    const stream = anthropic.messages.stream({ model: CHAT_MODEL, messages, max_tokens: 6 })
    const pieces: string[] = []
    stream.on('text', (piece) => pieces.push(piece))
    const message = await stream.finalMessage()
    expect(message).toMatchObject({ role: 'assistant', stop_reason: 'max_tokens', usage: { output_tokens: 6 } })
    expect(message.content).toMatchObject([{ type: 'text', text: pieces.join('') }])
  })

  const tools = [{ name: 'get_weather', input_schema: weather, strict: true }]
  const tool_choice = { type: 'tool' as const, name: 'get_weather' }

  it('has a tool called, streamed and not, and tells its result', async () => {
    const request = { model: CHAT_MODEL, messages, max_tokens: 1_000, tools, tool_choice }
    const answer = await anthropic.messages.create(request)
    const call = answer.content.find(({ type }) => type === 'tool_use')
    expect(call).toMatchObject({ type: 'tool_use', name: 'get_weather', input: { city } })
    expect(answer.stop_reason).toBe('tool_use')

    const streamed = await anthropic.messages.stream(request).finalMessage()
    expect(streamed.content.find(({ type }) => type === 'tool_use')).toMatchObject({ input: { city } })

    const result = { type: 'tool_result' as const, tool_use_id: (call as { id: string }).id, content: '12 °C' }
    const next = await anthropic.messages.create({
      model: CHAT_MODEL,
      max_tokens: 2,
      tools,
      messages: [...messages, { role: 'assistant', content: answer.content }, { role: 'user', content: [result] }],
    })
    expect(next.usage.output_tokens).toBe(2)
  })

  it('calls the beta API, which adds a query', async () => {
    const answer = await anthropic.beta.messages.create({
      model: CHAT_MODEL,
      messages,
      max_tokens: 1,
      betas: ['token-efficient-tools-2025-02-19'],
    })
    expect(answer.type).toBe('message')
  })

  it('counts as many tokens as the message then has', async () => {
    const { input_tokens } = await anthropic.messages.countTokens({ model: CHAT_MODEL, messages, system: 'Be kind.' })
    const { usage } = await anthropic.messages.create({
      model: CHAT_MODEL,
      messages,
      system: 'Be kind.',
      max_tokens: 1,
    })
    const { cache_read_input_tokens: read, cache_creation_input_tokens: written } = usage
    expect(usage.input_tokens + (read ?? 0) + (written ?? 0)).toBe(input_tokens)
  })
})

describe('what clients of OpenAI do besides', () => {
  const tool = { type: 'function' as const, name: 'get_weather', parameters: weather, strict: true }

  it('has a tool called by a response', async () => {
    const answer = await openai.responses.create({
      model: CHAT_MODEL,
      input: 'What is the weather in Köln?',
      tools: [tool],
      tool_choice: { type: 'function', name: 'get_weather' },
      max_output_tokens: 1_000,
    })
    const call = answer.output.find(({ type }) => type === 'function_call') as { arguments: string } | undefined
    expect(JSON.parse(call?.arguments ?? 'null')).toEqual({ city })
  })

  it('reads embeddings as numbers or as base64, which it asks for by itself', async () => {
    const request = { model: EMBEDDING_MODEL, input: fresh() }
    const packed = await openai.embeddings.create(request)
    const plain = await openai.embeddings.create({ ...request, encoding_format: 'float' })
    const [one, other] = [packed.data[0]?.embedding ?? [], plain.data[0]?.embedding ?? []]
    expect(one.length).toBeGreaterThan(1)
    expect(one.map(Math.fround)).toEqual(other.map(Math.fround))
  })
})
