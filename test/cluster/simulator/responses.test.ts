// /v1/responses beyond the shape of its answers: conversations that go on, what is kept and for how long, and how it ends.
import OpenAI from 'openai'
import { describe, expect, it } from 'vitest'
import { createResponseStore } from '../../../cluster/simulator/response-store.ts'
import type { Simulator } from '../../../cluster/simulator/server.ts'
import { eventsOf, post, startPod, until } from './pod.ts'

const RESPONSES = '/v1/responses'

type Answer = {
  readonly id: string
  readonly status: string
  readonly output: readonly { readonly type: string; readonly content: readonly { readonly text: string }[] }[]
  readonly usage: {
    readonly input_tokens: number
    readonly input_tokens_details: { readonly cached_tokens: number; readonly cache_write_tokens: number }
    readonly output_tokens: number
  } | null
  readonly input_messages: readonly { readonly message: string; readonly tokens: readonly number[] }[] | null
}

async function respond(pod: Simulator, body: object): Promise<Answer> {
  const answer = await post(pod, RESPONSES, { temperature: 0, ...body })
  expect(answer.status).toBe(200)
  return (await answer.json()) as Answer
}

async function kept(pod: Simulator, id: string): Promise<[status: number, body: unknown]> {
  const answer = await fetch(`${pod.url}${RESPONSES}/${encodeURIComponent(id)}`)
  return [answer.status, await answer.json()]
}

const textOf = ({ output }: Answer) => output.map(({ content }) => content.map(({ text }) => text).join('')).join('')
const openai = (pod: Simulator) => new OpenAI({ baseURL: `${pod.url}/v1`, apiKey: 'none', maxRetries: 0 })

describe('the official OpenAI client', () => {
  it('reads an answer and its stream, or agents built on it could not use the pod', async () => {
    const pod = await startPod()
    const request = { model: 'sim-8b', input: 'Tell me about caches.', max_output_tokens: 12, temperature: 0 } as const
    const whole = await openai(pod).responses.create(request)
    expect(whole).toMatchObject({ status: 'incomplete', usage: { output_tokens: 12 } })
    const streamed = await openai(pod).responses.stream(request).finalResponse()
    expect(streamed.output_text).toBe(whole.output_text)
    expect(whole.output_text).toMatch(/^[A-Z][a-z ]+/)
  })

  it('gets a call that satisfies the schema when it demands one', async () => {
    const pod = await startPod()
    const request = {
      model: 'sim-8b',
      input: 'Weather?',
      tools: [
        {
          type: 'function' as const,
          name: 'get_weather',
          strict: false,
          parameters: { type: 'object', properties: { city: { enum: ['Oslo'] } }, required: ['city'] },
        },
      ],
      tool_choice: 'required' as const,
    }
    const streamed = await openai(pod).responses.stream(request).finalResponse()
    for (const { output, status } of [await openai(pod).responses.create(request), streamed]) {
      expect(status).toBe('completed')
      expect(output).toMatchObject([{ type: 'function_call', name: 'get_weather', arguments: '{"city":"Oslo"}' }])
    }
  })
})

describe('a response', () => {
  it('has the id that the body asked for, and the header keeps its own', async () => {
    const pod = await startPod()
    const answer = await post(
      pod,
      RESPONSES,
      { input: 'x', max_output_tokens: 1, request_id: 'mine' },
      { headers: { 'x-request-id': 'theirs' } },
    )
    expect([answer.headers.get('x-request-id'), await answer.json()]).toMatchObject(['theirs', { id: 'mine' }])
  })

  it('says what a chat of the same messages says, for its tokens are the same', async () => {
    const pod = await startPod()
    const messages = [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Hi' },
    ]
    const chat = await post(pod, '/v1/chat/completions', { messages, temperature: 0, max_tokens: 9 })
    const { choices } = (await chat.json()) as { choices: [{ message: { content: string } }] }
    const answer = await respond(pod, {
      input: 'Hi',
      instructions: 'Be brief.',
      max_output_tokens: 9,
      enable_response_messages: true,
    })
    expect(textOf(answer)).toBe(choices[0].message.content)
    const tokens = (await (await post(pod, '/tokenize', { messages })).json()) as { tokens: number[] }
    expect(answer.input_messages?.[0]?.tokens).toEqual(tokens.tokens)
  })

  it('ends its stream with response.completed and no [DONE]', async () => {
    const pod = await startPod()
    const answer = await post(pod, RESPONSES, { input: 'x', max_output_tokens: 3, stream: true })
    const events = eventsOf(await answer.text()).map((data) => JSON.parse(data))
    expect(events.at(-1)).toMatchObject({ type: 'response.completed', response: { status: 'incomplete' } })
    expect(events.map(({ sequence_number: number }) => number)).toEqual([...events.keys()])
  })

  it('that fails in the middle of a stream ends without an end: no event says so', async () => {
    const pod = await startPod()
    pod.faults.set({ errorAfterTokens: 2 })
    const answer = await post(pod, RESPONSES, { input: 'x', max_output_tokens: 9, ignore_eos: true, stream: true })
    await expect(answer.text()).rejects.toThrow()
    pod.faults.set({ errorAfterTokens: 0 })
    expect((await post(pod, RESPONSES, { input: 'x' })).status).toBe(500)
    expect(pod.stats()).toMatchObject({ running: 0, failed: 2 })
  })

  it('is aborted when its reader goes away', async () => {
    const pod = await startPod({ speed: 1 })
    const client = new AbortController()
    const body = { input: 'x', max_output_tokens: 9_000, ignore_eos: true }
    const answer = post(pod, RESPONSES, body, { signal: client.signal })
    await until(() => pod.stats().running === 1)
    client.abort()
    await expect(answer).rejects.toThrow()
    await until(() => pod.stats().aborted === 1)
  })
})

describe('with a store', () => {
  it('a conversation goes on from an id: its turns are prepended, found cached, and its instructions are not', async () => {
    const pod = await startPod({ responsesStore: true, blockSize: 4 })
    const first = await respond(pod, { input: 'First question', instructions: 'Old rule', max_output_tokens: 8 })
    const second = await respond(pod, {
      input: 'Second question',
      max_output_tokens: 4,
      previous_response_id: first.id,
      enable_response_messages: true,
    })
    const prompt = second.input_messages?.[0]?.message
    expect(prompt).toContain(`First question`)
    expect(prompt).toContain(textOf(first))
    expect(prompt).not.toContain('Old rule')
    const third = await respond(pod, { input: 'Third', max_output_tokens: 4, previous_response_id: second.id })
    const before = second.usage?.input_tokens ?? 0
    expect(third.usage?.input_tokens_details.cached_tokens).toBeGreaterThanOrEqual(before - 4)
  })

  it('an answer can be asked for again, and not cancelled any more', async () => {
    const pod = await startPod({ responsesStore: true })
    const answer = await respond(pod, { input: 'x', max_output_tokens: 2, request_id: 'a b/c' })
    expect(await kept(pod, 'a b/c')).toEqual([200, answer])
    const cancel = await post(pod, `${RESPONSES}/${encodeURIComponent('a b/c')}/cancel`, {})
    expect([cancel.status, await cancel.json()]).toMatchObject([
      400,
      { error: { message: 'Cannot cancel a synchronous response.', param: 'response_id' } },
    ])
    await respond(pod, { input: 'x', max_output_tokens: 2, request_id: 'unkept', store: false })
    expect((await kept(pod, 'unkept'))[0]).toBe(404)
  })

  it('work in the background is answered at once, kept when done, and ended when cancelled', async () => {
    const pod = await startPod({ responsesStore: true, speed: 1 })
    const body = { input: 'x', background: true, max_output_tokens: 2, request_id: 'short' }
    expect(await respond(pod, body)).toMatchObject({ status: 'queued', output: [], usage: null })
    await until(() => pod.stats().finished === 1)
    expect(await kept(pod, 'short')).toMatchObject([200, { status: 'incomplete', usage: { output_tokens: 2 } }])

    await respond(pod, { ...body, max_output_tokens: 9_000, ignore_eos: true, request_id: 'long' })
    await until(() => pod.stats().running === 1)
    const cancelled = await post(pod, `${RESPONSES}/long/cancel`, {})
    expect(await cancelled.json()).toMatchObject({ id: 'long', status: 'cancelled' })
    await until(() => pod.stats().running === 0)
    expect(await kept(pod, 'long')).toMatchObject([200, { status: 'cancelled' }])
  })

  it('a failure in the background leaves it queued, as in vLLM 0.32, and costs no other answer its connection', async () => {
    const pod = await startPod({ responsesStore: true })
    pod.faults.set({ errorAfterTokens: 1 })
    await respond(pod, { input: 'x', background: true, max_output_tokens: 5, ignore_eos: true, request_id: 'failing' })
    await until(() => pod.stats().failed === 1)
    expect(await kept(pod, 'failing')).toMatchObject([200, { status: 'queued', output: [] }])
  })

  it('forgets the oldest beyond a thousand, or a long-lived pod would grow without end', () => {
    const store = createResponseStore()
    for (let index = 0; index <= 1_000; index++) {
      store.events.open(`r${index}`)
      store.put(`r${index}`, { output: [] }, [])
    }
    expect([store.bodyOf('r0'), store.bodyOf('r1')]).toEqual([undefined, { output: [] }])
    expect([store.events.of('r0'), store.events.of('r1')?.length]).toEqual([undefined, 0])
    const long = 'x'.repeat(33 * 1024 * 1024)
    for (const id of ['long', 'longer']) store.put(id, { output: [], long }, [])
    expect([store.bodyOf('r1000'), store.bodyOf('long')]).toEqual([undefined, undefined])
    expect(store.bodyOf('longer')).toBeDefined()
  })
})

describe('without a store', () => {
  it('nothing is kept, and what needs it is refused in vLLM’s words', async () => {
    const pod = await startPod()
    const { id } = await respond(pod, { input: 'x', max_output_tokens: 1 })
    expect((await kept(pod, id))[0]).toBe(404)
    const refused = async (body: object) => {
      const answer = await post(pod, RESPONSES, { input: 'x', ...body })
      const { error } = (await answer.json()) as { error: { message: string; type: string; param: string } }
      return [answer.status, error.type, error.param, error.message.slice(0, 55)]
    }
    expect(await refused({ previous_response_id: id })).toEqual([
      404,
      'invalid_request_error',
      'response_id',
      `Response with id '${id}' not found.`,
    ])
    expect(await refused({ background: true })).toEqual([
      400,
      'invalid_request_error',
      'background',
      'This vLLM engine does not support `store=True` and ther',
    ])
  })
})

describe('input', () => {
  it.each<[string, unknown, readonly string[]]>([
    ['parts', [{ role: 'user', content: [{ type: 'input_text', text: 'one' }] }], ['one']],
    [
      'a developer',
      [
        { role: 'developer', content: 'rule' },
        { role: 'user', content: 'hi' },
      ],
      ['system', 'rule', 'hi'],
    ],
    [
      'calls and their outputs',
      [
        { role: 'user', content: 'sum' },
        { type: 'reasoning', summary: [{ type: 'summary_text', text: 'thinking' }] },
        { type: 'function_call', call_id: 'c1', name: 'add', arguments: '{"a":1}' },
        { type: 'function_call', call_id: 'c2', name: 'add', arguments: '{"a":2}' },
        { type: 'function_call_output', call_id: 'c1', output: 'three' },
      ],
      ['"a":1', '"a":2', 'three'],
    ],
    [
      'an answer of ours',
      [{ type: 'message', role: 'assistant', id: 'msg_1', content: [{ type: 'output_text', text: 'said' }] }],
      ['said'],
    ],
  ])('of %s reaches the prompt, or agents would lose their memory', async (_, input, words) => {
    const pod = await startPod()
    const answer = await respond(pod, { input, max_output_tokens: 1, enable_response_messages: true })
    for (const word of words) expect(answer.input_messages?.[0]?.message).toContain(word)
  })

  it.each<[unknown]>([
    [['x']],
    [[{ type: 'nope' }]],
    [[{ role: 'user' }]],
    [[null]],
    [[{ type: 'function_call' }]],
    [{}],
  ])('%j is refused as no input', async (input) => {
    const pod = await startPod()
    const answer = await post(pod, RESPONSES, { input })
    expect([answer.status, await answer.json()]).toMatchObject([400, { error: { param: 'body.input', code: 400 } }])
  })
})
