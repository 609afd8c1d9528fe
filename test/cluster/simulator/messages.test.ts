// /v1/messages beyond the shape of its answers: that its prompt is the chat's, and how it ends.
import Anthropic from '@anthropic-ai/sdk'
import { describe, expect, it } from 'vitest'
import type { Simulator, SimulatorOptions } from '../../../cluster/simulator/server.ts'
import { eventsOf, post, startPod, until } from './pod.ts'

const MESSAGES = '/v1/messages'
const COUNT = '/v1/messages/count_tokens'
const LONG = 'You are a careful assistant that answers in few words. '.repeat(8)
const USER = [{ role: 'user', content: 'Say hello.' }] as const
const WEATHER = {
  name: 'get_weather',
  input_schema: { type: 'object' as const, properties: { city: { enum: ['Oslo'] } }, required: ['city'] },
}

type Usage = Readonly<Record<string, number>>
type Message = {
  readonly content: readonly { readonly text: string }[]
  readonly stop_reason: string
  readonly stop_sequence?: string
  readonly usage: Usage
}

async function message(pod: Simulator, body: object): Promise<Message> {
  const answer = await post(pod, MESSAGES, { model: 'sim-8b', max_tokens: 9, temperature: 0, messages: USER, ...body })
  expect(answer.status).toBe(200)
  return (await answer.json()) as Message
}

async function tokens(pod: Simulator, path: string, body: object): Promise<number> {
  const answer = (await (await post(pod, path, { model: 'sim-8b', ...body })).json()) as Record<string, number>
  return (path === COUNT ? answer.input_tokens : answer.count) ?? Number.NaN
}

const anthropic = (pod: Simulator) => new Anthropic({ baseURL: pod.url, apiKey: 'none', maxRetries: 0 })

describe('the official Anthropic client', () => {
  it('reads an answer and its stream, or agents built on it could not use the pod', async () => {
    const pod = await startPod()
    const request = { model: 'sim-8b', max_tokens: 12, temperature: 0, messages: [...USER] }
    const whole = await anthropic(pod).messages.create(request)
    const streamed = await anthropic(pod).messages.stream(request).finalMessage()
    expect(whole).toMatchObject({ stop_reason: 'max_tokens', usage: { output_tokens: 12 } })
    expect(streamed.content).toMatchObject(whole.content)
    expect(streamed.usage).toMatchObject({ output_tokens: 12 })
  })

  it.each([{ type: 'any' as const }, { type: 'tool' as const, name: 'get_weather' }])(
    'gets a call that satisfies the schema with tool_choice %j, streamed and not',
    async (tool_choice) => {
      const pod = await startPod()
      const request = { model: 'sim-8b', max_tokens: 99, messages: [...USER], tools: [WEATHER], tool_choice }
      const streamed = await anthropic(pod).messages.stream(request).finalMessage()
      for (const { content, stop_reason } of [await anthropic(pod).messages.create(request), streamed]) {
        expect(stop_reason).toBe('tool_use')
        expect(content).toMatchObject([{ type: 'tool_use', name: 'get_weather', input: { city: 'Oslo' } }])
      }
      expect(
        (await (await fetch(`${pod.url}/metrics`)).text()).match(/invocations_total\{.*tool_call.*chat.* 1\.0/g),
      ).toHaveLength(1)
    },
  )

  it('counts tokens', async () => {
    const pod = await startPod()
    const { input_tokens } = await anthropic(pod).messages.countTokens({ model: 'sim-8b', messages: [...USER] })
    expect(input_tokens).toBe(await tokens(pod, '/tokenize', { messages: USER }))
  })
})

describe('a message', () => {
  const call = { role: 'assistant', content: [{ type: 'tool_use', id: 't', name: 'f', input: { day: 'may' } }] }
  const chatCall = { id: 't', type: 'function', function: { name: 'f', arguments: '{"day": "may"}' } }
  const result = [
    { type: 'text', text: 'rain' },
    { type: 'text', text: 'wind' },
  ]
  it.each<[string, object, object]>([
    ['a system', { system: LONG, messages: USER }, { messages: [{ role: 'system', content: LONG }, ...USER] }],
    [
      'a system in blocks without the billing header',
      {
        system: [
          { type: 'text', text: 'x-anthropic-billing-header: cch=1' },
          { type: 'text', text: 'One.' },
          { type: 'text', text: 'Two.' },
        ],
        messages: USER,
      },
      { messages: [{ role: 'system', content: 'One.Two.' }, ...USER] },
    ],
    [
      'a later system message where it stands',
      { messages: [...USER, { role: 'system', content: 'Now.' }, ...USER] },
      { messages: [...USER, { role: 'system', content: 'Now.' }, ...USER] },
    ],
    [
      'a call and its result, before what the user says with it',
      {
        tools: [WEATHER],
        messages: [
          ...USER,
          call,
          {
            role: 'user',
            content: [
              { type: 'text', text: 'And?' },
              { type: 'tool_result', tool_use_id: 't', content: result },
            ],
          },
        ],
      },
      {
        tools: [{ type: 'function', function: { name: 'get_weather', parameters: WEATHER.input_schema } }],
        messages: [
          ...USER,
          { role: 'assistant', tool_calls: [chatCall] },
          { role: 'tool', tool_call_id: 't', content: 'rain\nwind' },
          { role: 'user', content: 'And?' },
        ],
      },
    ],
  ])('with %s has the tokens of the same chat, or its cache would be another', async (_, given, chat) => {
    const pod = await startPod({ blockSize: 4 })
    const count = await tokens(pod, COUNT, given)
    expect(count).toBe(await tokens(pod, '/tokenize', chat))
    await post(pod, '/v1/chat/completions', { ...chat, max_tokens: 1 })
    const { usage } = await message(pod, given)
    // The last block is computed again where it ends the prompt: the next token follows from it.
    expect(usage.cache_read_input_tokens).toBeGreaterThanOrEqual(count - 4)
  })

  it('with another salt finds nothing of it cached', async () => {
    const pod = await startPod()
    const cached = async (cache_salt: string) =>
      (await message(pod, { system: LONG, cache_salt })).usage.cache_read_input_tokens
    expect(await cached('one')).toBe(0)
    expect(await cached('two')).toBe(0)
    expect(await cached('one')).toBeGreaterThan(0)
  })

  it('ends with the stop sequence that it met', async () => {
    const pod = await startPod()
    const { content, stop_reason, stop_sequence } = await message(pod, { max_tokens: 99, stop_sequences: ['x!', 'e'] })
    expect([stop_reason, stop_sequence, content[0]?.text.includes('e')]).toEqual(['stop_sequence', 'e', false])
    expect(await message(pod, { max_tokens: 999 })).toMatchObject({ stop_reason: 'end_turn' })
  })

  it('has the id of its header, and tells nothing of the cache where a pod is told not to', async () => {
    const pod = await startPod({ promptTokensDetails: false })
    const init = { headers: { 'x-request-id': 'mine' } }
    const answer = await post(pod, MESSAGES, { model: 'sim-8b', max_tokens: 2, messages: USER }, init)
    expect(answer.headers.get('x-request-id')).toBe('mine')
    const { id, usage } = (await answer.json()) as { id: string; usage: Usage }
    expect([id, Object.keys(usage)]).toEqual(['chatcmpl-mine', ['input_tokens', 'output_tokens']])
  })

  it('is aborted when its reader goes away', async () => {
    const pod = await startPod({ speed: 1 })
    const leaving = new AbortController()
    const body = { model: 'sim-8b', max_tokens: 2000, messages: USER, stream: true }
    const answer = await post(pod, MESSAGES, body, { signal: leaving.signal })
    await until(() => pod.stats().running === 1)
    leaving.abort()
    await expect(answer.text()).rejects.toThrow()
    await until(() => pod.stats().aborted === 1)
  })
})

describe('an engine that fails', () => {
  const asked = { model: 'sim-8b', max_tokens: 9, messages: USER }
  const pods: SimulatorOptions = {}
  it('before the first token answers in the dialect', async () => {
    const pod = await startPod(pods)
    for (const faults of [{ errorAfterTokens: 0 }, { refuseStatus: 503 }]) {
      pod.faults.set(faults)
      const answer = await post(pod, MESSAGES, asked)
      expect(answer.status).toBe(faults.refuseStatus ?? 500)
      expect(await answer.json()).toEqual({
        type: 'error',
        error: { type: expect.any(String), message: expect.any(String) },
      })
    }
  })

  it('in the middle of a stream says so in an event, and message_stop never comes', async () => {
    const pod = await startPod(pods)
    pod.faults.set({ errorAfterTokens: 3 })
    const events = eventsOf(await (await post(pod, MESSAGES, { ...asked, stream: true })).text())
    expect(JSON.parse(events.at(-1) ?? '')).toMatchObject({ type: 'error', error: { type: 'internal_error' } })
  })
})
