// The pod over real TCP: what clients, routers and operators rely on beyond the shape of answers.
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import OpenAI from 'openai'
import { Agent, fetch as undiciFetch } from 'undici'
import { describe, expect, it } from 'vitest'
import { type Simulator, type SimulatorOptions, startSimulator } from '../../../cluster/simulator/server.ts'
import { eventsOf, post, startPod, until } from './pod.ts'

const MESSAGES = [{ role: 'user' as const, content: 'Tell me about warm caches.' }]
const WEATHER = {
  type: 'function' as const,
  function: {
    name: 'get_weather',
    parameters: {
      type: 'object',
      properties: { city: { type: 'string' }, days: { type: 'integer', minimum: 3 }, unit: { enum: ['c', 'f'] } },
      required: ['city', 'days', 'unit'],
    },
  },
}
const ARGUMENTS = { city: 'example', days: 3, unit: 'c' }

function openai(pod: Simulator, apiKey = 'none'): OpenAI {
  return new OpenAI({ baseURL: `${pod.url}/v1`, apiKey, maxRetries: 0 })
}

async function say(pod: Simulator, more: object, path = '/v1/chat/completions'): Promise<string> {
  const body = path.endsWith('chat/completions') ? { messages: MESSAGES, ...more } : { prompt: 'Once', ...more }
  const answer = (await (await post(pod, path, body)).json()) as {
    choices: { message?: { content: string }; text?: string }[]
  }
  return answer.choices.map(({ message, text }) => message?.content ?? text).join('|')
}

describe('the official OpenAI client', () => {
  it('reads a stream to its usage, or nothing built on it could use the pod', async () => {
    const pod = await startPod()
    const stream = await openai(pod).chat.completions.create({
      model: 'sim-8b',
      messages: MESSAGES,
      max_completion_tokens: 12,
      stream: true,
      stream_options: { include_usage: true },
    })
    const chunks = []
    for await (const chunk of stream) chunks.push(chunk)
    const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')
    expect(text).toMatch(/^[A-Z][a-z ]+/)
    expect(chunks.at(-2)?.choices[0]?.finish_reason).toBe('length')
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 12 } })
  })

  it.each([
    ['required', 'tool_calls'],
    [{ type: 'function', function: { name: 'get_weather' } }, 'stop'],
  ] as const)('gets a call that satisfies the schema with tool_choice %j, streamed and not', async (choice, reason) => {
    const pod = await startPod()
    const request = { model: 'sim-8b', messages: MESSAGES, tools: [WEATHER], tool_choice: choice }
    const whole = await openai(pod).chat.completions.create(request)
    expect(whole.choices[0]?.finish_reason).toBe(reason)
    const streamed = await openai(pod).chat.completions.stream(request).finalChatCompletion()
    expect(streamed.choices[0]?.finish_reason).toBe(reason)
    for (const completion of [whole, streamed]) {
      const call = completion.choices[0]?.message.tool_calls?.[0]
      expect(call).toMatchObject({ id: expect.stringMatching(/^chatcmpl-tool-/), type: 'function' })
      const { name, arguments: json } = call?.type === 'function' ? call.function : { name: '', arguments: '{}' }
      expect([name, JSON.parse(json)]).toEqual(['get_weather', ARGUMENTS])
    }
  })

  it('frees a request within 200 ms when it stops reading, or the GPU would work for nobody', async () => {
    const pod = await startPod({ speed: 1 })
    const stream = await openai(pod).chat.completions.create({
      model: 'sim-8b',
      messages: MESSAGES,
      max_tokens: 10_000,
      stream: true,
    })
    for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break
    const abortedAtMs = performance.now()
    await until(() => pod.stats().running === 0)
    expect(performance.now() - abortedAtMs).toBeLessThan(200)
    expect(pod.stats()).toMatchObject({ aborted: 1, finished: 0, kvCacheUsage: 0 })
  })

  it('frees a request that is not streamed too', async () => {
    const pod = await startPod({ speed: 1 })
    const client = new AbortController()
    const answer = post(
      pod,
      '/v1/completions',
      { prompt: 'x', max_tokens: 9_000, ignore_eos: true },
      { signal: client.signal },
    )
    await until(() => pod.stats().running === 1)
    client.abort()
    await expect(answer).rejects.toThrow()
    await until(() => pod.stats().running === 0)
    expect(pod.stats().aborted).toBe(1)
  })
})

describe('what it says', () => {
  it.each([
    ['temperature 0', { temperature: 0 }],
    ['a seed', { seed: 7 }],
  ])('is the same for the same prompt with %s, on every pod', async (_, sampling) => {
    const [one, other] = [await startPod({ seed: 1 }), await startPod({ seed: 2 })]
    const said = await say(one, sampling)
    expect(await say(one, sampling)).toBe(said)
    expect(await say(other, sampling)).toBe(said)
    expect(await say(one, { ...sampling, messages: [{ role: 'user', content: 'Else?' }] })).not.toBe(said)
  })

  it('differs from time to time otherwise, but not from run to run of a pod', async () => {
    const [one, again] = [await startPod({ seed: 3 }), await startPod({ seed: 3 })]
    const said = [await say(one, {}), await say(one, {})]
    expect(said[0]).not.toBe(said[1])
    expect([await say(again, {}), await say(again, {})]).toEqual(said)
  })

  it('ends by itself after some sentences, and never with ignore_eos', async () => {
    const pod = await startPod()
    const ended = (await (await post(pod, '/v1/chat/completions', { messages: MESSAGES })).json()) as {
      choices: [{ finish_reason: string; message: { content: string } }]
      usage: { completion_tokens: number }
    }
    expect(ended.choices[0]).toMatchObject({
      finish_reason: 'stop',
      message: { content: expect.stringMatching(/\.$/) },
    })
    expect(ended.usage.completion_tokens).toBeGreaterThan(20)
    expect(ended.usage.completion_tokens).toBeLessThan(300)
    const endless = await post(pod, '/v1/completions', { prompt: 'x', max_tokens: 2_000, ignore_eos: true })
    expect(await endless.json()).toMatchObject({ usage: { completion_tokens: 2_000 } })
  })

  it('stops before a stop string, however tokens cut it, and not before min_tokens', async () => {
    const pod = await startPod()
    const whole = await say(pod, { temperature: 0, max_tokens: 40 })
    const stop = whole.slice(9, 15)
    const streamed = await (
      await post(pod, '/v1/chat/completions', { messages: MESSAGES, temperature: 0, stop, stream: true })
    ).text()
    const chunks = eventsOf(streamed)
      .slice(0, -1)
      .map((data) => JSON.parse(data).choices[0])
    expect(chunks.map(({ delta }) => delta.content).join('')).toBe(whole.slice(0, whole.indexOf(stop)))
    expect(chunks.at(-1)).toMatchObject({ finish_reason: 'stop', stop_reason: stop })
    const kept = await say(pod, { temperature: 0, stop: [stop], include_stop_str_in_output: true })
    expect(kept).toBe(whole.slice(0, whole.indexOf(stop) + stop.length))
    expect(await say(pod, { temperature: 0, stop, max_tokens: 40, min_tokens: 40 })).toBe(whole)
  })

  it('answers each prompt n times in order, with the prompt before it on demand', async () => {
    const pod = await startPod()
    const more = { prompt: ['One', 'Two'], n: 2, seed: 1, max_tokens: 4, echo: true }
    const choices = (await say(pod, more, '/v1/completions')).split('|')
    expect(choices.map((text) => text.slice(0, 3))).toEqual(['One', 'One', 'Two', 'Two'])
    expect(new Set(choices).size).toBe(4)
  })
})

describe('usage', () => {
  const LONG = [{ role: 'user', content: 'The same long beginning of a prompt, said again and again. '.repeat(4) }]
  type Details = { readonly cached_tokens: number; readonly created_cache_tokens?: number | null }
  type Usage = { readonly prompt_tokens: number; readonly prompt_tokens_details: Details | null }

  async function usageOf(pod: Simulator, body: object, path = '/v1/chat/completions'): Promise<Usage> {
    return ((await (await post(pod, path, { max_tokens: 1, ...body })).json()) as { usage: Usage }).usage
  }

  it('tells what was cached and what is now, streamed or not, or a prediction could not be checked', async () => {
    const pod = await startPod({ blockSize: 4 })
    const cold = await usageOf(pod, { messages: LONG })
    const whole = cold.prompt_tokens - (cold.prompt_tokens % 4)
    expect(cold.prompt_tokens_details).toMatchObject({ cached_tokens: 0, created_cache_tokens: whole })
    const cached = cold.prompt_tokens % 4 === 0 ? whole - 4 : whole
    const warm = { cached_tokens: cached, created_cache_tokens: whole - cached }
    expect((await usageOf(pod, { messages: LONG })).prompt_tokens_details).toMatchObject(warm)
    const stream = { messages: LONG, max_tokens: 1, stream: true, stream_options: { include_usage: true } }
    const events = eventsOf(await (await post(pod, '/v1/chat/completions', stream)).text())
    expect(JSON.parse(events.at(-2) ?? '').usage.prompt_tokens_details).toEqual(warm)
  })

  it('of a completion does not tell what it created, and without details tells nothing', async () => {
    const pod = await startPod({ blockSize: 4 })
    const completion = await usageOf(pod, { prompt: [1, 2, 3, 4, 5] }, '/v1/completions')
    expect(completion.prompt_tokens_details).toMatchObject({ cached_tokens: 0, created_cache_tokens: null })
    const terse = await startPod({ promptTokensDetails: false })
    expect((await usageOf(terse, { messages: LONG })).prompt_tokens_details).toBeNull()
  })

  it.each([{}, { add_special_tokens: true }, { continue_final_message: true, add_generation_prompt: false }])(
    'counts what /tokenize counts with %j, or a router would predict from other tokens than the engine sees',
    async (more) => {
      const pod = await startPod()
      const messages = [...MESSAGES, { role: 'assistant', content: 'They are' }]
      const tokenized = await post(pod, '/tokenize', { messages, ...more })
      const { count } = (await tokenized.json()) as { count: number }
      expect((await usageOf(pod, { messages, ...more })).prompt_tokens).toBe(count)
    },
  )
})

describe('faults', () => {
  const streamed = { messages: MESSAGES, stream: true, max_tokens: 20, ignore_eos: true }
  const chat = '/v1/chat/completions'

  it('hang: healthy, but no step makes progress until it is healed', async () => {
    const pod = await startPod()
    pod.faults.set({ hang: true })
    const answer = post(pod, chat, { ...streamed, stream: false })
    await until(() => pod.stats().waiting === 1)
    expect((await fetch(`${pod.url}/health`)).status).toBe(200)
    expect(pod.stats().steps).toBe(0)
    pod.faults.set({})
    expect((await answer).status).toBe(200)
  })

  it('refuseStatus: every generation is refused in vLLM’s shape, all else works', async () => {
    const pod = await startPod()
    pod.faults.set({ refuseStatus: 503 })
    const answer = await post(pod, chat, streamed)
    expect(answer.status).toBe(503)
    expect(await answer.json()).toMatchObject({ error: { message: expect.any(String), param: null, code: 503 } })
    expect((await fetch(`${pod.url}/v1/models`)).status).toBe(200)
  })

  it('dieAfterTokens: the client keeps the tokens that were said, then loses the connection', async () => {
    const pod = await startPod()
    pod.faults.set({ dieAfterTokens: 3 })
    const answer = await post(pod, chat, streamed)
    let text = ''
    const read = async () => {
      for await (const chunk of answer.body ?? []) text += Buffer.from(chunk).toString()
    }
    await expect(read()).rejects.toThrow()
    expect(eventsOf(text)).toHaveLength(1 + 3)
    expect(pod.stats()).toMatchObject({ running: 0, aborted: 1 })
  })

  it.each([
    [0, 0],
    [2, 1 + 2],
  ])('errorAfterTokens %i: the stream ends with an error event and [DONE]', async (errorAfterTokens, before) => {
    const pod = await startPod()
    pod.faults.set({ errorAfterTokens })
    const answer = await post(pod, chat, streamed)
    expect(answer.status).toBe(200)
    const events = eventsOf(await answer.text())
    expect(events).toHaveLength(before + 2)
    expect(events.at(-2)).toBe(
      '{"error": {"message": "Internal server error", "type": "InternalServerError", "param": null, "code": 500}}',
    )
    expect(events.at(-1)).toBe('[DONE]')
    expect((await post(pod, chat, { ...streamed, stream: false })).status).toBe(500)
    expect(pod.stats()).toMatchObject({ running: 0, failed: 2 })
  })

  it('noMetrics: the page has no engine series, as with statistics switched off', async () => {
    const pod = await startPod()
    pod.faults.set({ noMetrics: true })
    const page = await (await fetch(`${pod.url}/metrics`)).text()
    expect(page).toContain('process_start_time_seconds')
    expect(page).not.toContain('vllm:')
  })
})

describe('the door', () => {
  it('asks for the API key on /v1 only, or probes and scrapes would fail', async () => {
    const pod = await startPod({ apiKey: 'let-me-in' })
    const refused = await fetch(`${pod.url}/v1/models`)
    expect([refused.status, await refused.text()]).toEqual([401, '{"error":"Unauthorized"}'])
    await expect(openai(pod, 'wrong').models.list()).rejects.toMatchObject({ status: 401 })
    expect((await openai(pod, 'let-me-in').models.list()).data.map(({ id }) => id)).toEqual(['sim-8b'])
    for (const path of ['/health', '/metrics', '/ping']) expect((await fetch(`${pod.url}${path}`)).status).toBe(200)
  })

  it('speaks TLS when it is given a certificate', async () => {
    const file = (name: string) => readFileSync(new URL(`../../fixtures/tls/${name}`, import.meta.url))
    const pod = await startPod({ tls: { key: file('engine.key'), cert: file('engine.crt') } })
    expect(pod.url).toMatch(/^https:/)
    const dispatcher = new Agent({ connect: { rejectUnauthorized: false } })
    expect((await undiciFetch(`${pod.url}/health`, { dispatcher })).status).toBe(200)
    await dispatcher.close()
  })

  it('closes a connection that was idle for 5 s as uvicorn does, which clients must expect', async () => {
    const pod = await startPod()
    const socket = connect(pod.port, '127.0.0.1')
    socket.write('GET /health HTTP/1.1\r\nhost: pod\r\n\r\n')
    await new Promise((resolve) => socket.once('data', resolve))
    const answeredAtMs = performance.now()
    await new Promise((resolve) => socket.once('close', resolve))
    expect(Math.round((performance.now() - answeredAtMs) / 1000)).toBe(5)
  })

  it('keeps a caller’s request id, or its logs could not be joined with the pod’s', async () => {
    const pod = await startPod()
    const body = { prompt: 'x', max_tokens: 1, request_id: 'from-body' }
    const both = await post(pod, '/v1/completions', body, { headers: { 'x-request-id': 'from-header' } })
    expect([both.headers.get('x-request-id'), await both.json()]).toMatchObject([
      'from-header',
      { id: 'cmpl-from-header' },
    ])
    expect(await (await post(pod, '/v1/completions', body)).json()).toMatchObject({ id: 'cmpl-from-body' })
  })

  it('closes at once with work in flight, or a test’s end would wait for it', async () => {
    const pod = await startPod({ speed: 0.01 })
    const answer = post(pod, '/v1/completions', { prompt: 'x', max_tokens: 1_000 })
    await until(() => pod.stats().running === 1)
    await Promise.all([expect(answer).rejects.toThrow(), pod.close()])
    expect(pod.stats()).toMatchObject({ running: 0, waiting: 0, kvCacheUsage: 0 })
  })

  it('keeps time: a decode step takes its 8 ms on the wall, without drift', async () => {
    const pod = await startPod({ speed: 1 })
    const startedAtMs = performance.now()
    await (await post(pod, '/v1/completions', { prompt: 'x', max_tokens: 50, ignore_eos: true })).text()
    const tookMs = performance.now() - startedAtMs
    expect(tookMs).toBeGreaterThan(50 * 7.9)
    // Far above: a loaded machine is slow, an engine that never waits or stands still is wrong.
    expect(tookMs).toBeLessThan(50 * 7.95 * 10)
  })
})

describe('a stream told some tokens at a time', () => {
  it('tells the first at once, then as many as it was told to, and loses none', async () => {
    const pod = await startPod({ streamInterval: 4 })
    const ask = { prompt: 'abc', max_tokens: 10, ignore_eos: true, stream: true, return_token_ids: true }
    const whole = (await (await post(pod, '/v1/completions', { ...ask, stream: false, temperature: 0 })).json()) as {
      choices: [{ text: string }]
    }
    const events = eventsOf(await (await post(pod, '/v1/completions', { ...ask, temperature: 0 })).text())
    const choices = events.slice(0, -1).map((data) => JSON.parse(data).choices[0])
    expect(choices.map(({ token_ids: ids }) => ids.length)).toEqual([1, 4, 4, 1])
    expect(choices.map(({ text }) => text).join('')).toBe(whole.choices[0].text)
    expect(choices.at(-1).finish_reason).toBe('length')
  })
})

describe('a wrong option', () => {
  it.each<[SimulatorOptions, string]>([
    [{ blockSize: 0 }, 'blockSize 0: give a whole number of at least 1'],
    [{ maxNumSeqs: 1.5 }, 'maxNumSeqs 1.5: give a whole number of at least 1'],
    [{ kvEventsPort: -1 }, 'kvEventsPort -1: give a whole number of at least 0'],
    [{ speed: -1 }, 'speed -1: give 1 for real time, 0 for no waiting'],
    [{ models: [] }, 'models: give at least one name, and no empty one'],
    [
      { tokenizerDir: 'no/such/model' },
      "no/such/model/tokenizer.json does not exist: give the directory of a model's tokenizer",
    ],
    [
      { kvCacheTokens: 1_000, maxModelLen: 2_000 },
      'kvCacheTokens 1000 cannot hold one request of maxModelLen 2000 tokens: raise the one or lower the other',
    ],
  ])('%j is named with its fix, or the operator would have to guess', async (options, message) => {
    await expect(startSimulator(options)).rejects.toThrow(message)
  })

  it('a port that is taken is named', async () => {
    const { port } = await startPod()
    await expect(startSimulator({ port })).rejects.toThrow(`127.0.0.1:${port}: the port is taken`)
  })
})
