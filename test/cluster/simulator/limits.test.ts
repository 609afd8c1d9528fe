// What one request may cost a pod, and what is left of the pod when the simulator itself is wrong.
import { describe, expect, it, vi } from 'vitest'
import { Engine } from '../../../cluster/simulator/engine.ts'
import { RankMetrics } from '../../../cluster/simulator/metrics.ts'
import { exampleOf } from '../../../cluster/simulator/schema-example.ts'
import { eventsOf, post, startPod } from './pod.ts'

const CHAT = '/v1/chat/completions'
const COMPLETION = '/v1/completions'
const MESSAGES = [{ role: 'user', content: 'Hi' }]
const NO_TEXT = { toString: 1, valueOf: 1 }
const INTERNAL = { message: 'Internal server error', type: 'InternalServerError', param: null, code: 500 }

function nested(levels: number): unknown {
  let value: unknown = 1
  for (let level = 0; level < levels; level++) value = [value]
  return value
}

const demanding = (parameters: unknown) => ({
  messages: MESSAGES,
  tools: [{ type: 'function', function: { name: 'f', parameters } }],
  tool_choice: 'required',
})

describe('a request with a member of no expected type', () => {
  it.each<[string, string, object]>([
    ['a part’s type', CHAT, { messages: [{ role: 'user', content: [{ type: NO_TEXT }] }] }],
    ['a part’s text', CHAT, { messages: [{ role: 'user', content: [{ type: 'text', text: NO_TEXT }] }] }],
    ['a required name', CHAT, demanding({ type: 'object', required: [NO_TEXT] })],
    ['a format that every object has as a method', CHAT, demanding({ type: 'string', format: 'constructor' })],
    ['a reference into nothing', CHAT, demanding({ $ref: '#/__proto__/toString/a' })],
    ['properties', CHAT, demanding({ type: 'object', properties: 'no', required: ['length'] })],
    ['a boolean that every object has as a member', '/tokenize', { prompt: 'x', add_special_tokens: 'constructor' }],
    ['a token id', '/detokenize', { tokens: [1e300, -1, 0] }],
  ])('is answered, or %s would end the process of everyone’s pods', async (_, path, body) => {
    const pod = await startPod()
    const answer = await post(pod, path, { max_tokens: 4, ...body })
    await answer.text()
    expect(answer.status).toBeLessThan(500)
  })

  it.each<[string, string, object]>([
    ['body.prompt.1', COMPLETION, { prompt: ['a', [[1]]] }],
    ['body.stop_token_ids.0', COMPLETION, { prompt: 'a', stop_token_ids: [NO_TEXT] }],
    ['body.response_format', CHAT, { messages: MESSAGES, response_format: 'json' }],
    ['body.n', COMPLETION, { prompt: 'a', n: '9'.repeat(400) }],
  ])('is refused with %s named, or its author would have to guess', async (param, path, body) => {
    const pod = await startPod()
    const answer = await post(pod, path, body)
    expect([answer.status, await answer.json()]).toMatchObject([400, { error: { param, code: 400 } }])
  })
})

describe('a request for more than a pod can hold', () => {
  it.each<[string, string, object]>([
    ['n', COMPLETION, { prompt: 'a', n: 129 }],
    ['n', COMPLETION, { prompt: Array(1_024).fill('a'), n: 2 }],
    ['prompt', COMPLETION, { prompt: Array(1_025).fill('a') }],
    ['n', COMPLETION, { prompt: Array(200).fill(Array(5_000).fill(1)), n: 5, echo: true }],
    ['stop', COMPLETION, { prompt: 'a', stop: Array(200_000).fill('x') }],
    ['stop_token_ids', COMPLETION, { prompt: 'a', stop_token_ids: Array(129).fill(1) }],
    ['request_id', COMPLETION, { prompt: 'a', request_id: 'x'.repeat(1_025) }],
    ['max_tokens', COMPLETION, { prompt: 'a', max_tokens: 1e300 }],
    ['input_tokens', COMPLETION, { prompt: 'a'.repeat(10_000_000) }],
    ['input_tokens', CHAT, { messages: [{ role: 'user', content: 'a'.repeat(10_000_000) }] }],
    ['logprobs', CHAT, { messages: MESSAGES, logprobs: true, top_logprobs: 20, n: 128 }],
    ['body', CHAT, { messages: MESSAGES, tools: [nested(200)] }],
    ['body', CHAT, { messages: [{ role: 'user', content: nested(2_000) }] }],
    ['structured_outputs', CHAT, { messages: MESSAGES, structured_outputs: { json: JSON.stringify(nested(2_000)) } }],
  ])('is refused by its %s, or one caller could take the memory or the time of all: %#', async (param, path, body) => {
    const pod = await startPod({ maxModelLen: 32_768 })
    const startedAtMs = performance.now()
    const answer = await post(pod, path, body)
    expect([answer.status, await answer.json()]).toMatchObject([400, { error: { param, code: 400 } }])
    expect(performance.now() - startedAtMs).toBeLessThan(2_000)
    expect(pod.stats()).toMatchObject({ running: 0, waiting: 0 })
  })

  it('tells a body too deep apart from one that is only deep', async () => {
    const pod = await startPod()
    const answer = await post(pod, CHAT, { messages: MESSAGES, max_tokens: 2, metadata: nested(100) })
    expect(answer.status).toBe(200)
  })
})

describe('the example of a schema', () => {
  const sizeOf = (schema: unknown) => JSON.stringify(exampleOf(schema)).length
  const long = 'x'.repeat(50_000)

  it('stays small however lists, names, literals and references multiply, or the event loop would stand still', () => {
    let lists: unknown = { type: 'string', minLength: 1e300 }
    for (let level = 0; level < 7; level++) lists = { type: 'array', minItems: 1e300, items: lists }
    expect(sizeOf(lists)).toBeLessThan(300_000)
    const repeated = { type: 'array', minItems: 64, items: { $ref: '#/$defs/long' } }
    expect(sizeOf({ ...repeated, $defs: { long: { const: long } } })).toBeLessThan(100_000)
    expect(sizeOf({ ...repeated, $defs: { long: { enum: [long] } } })).toBeLessThan(100_000)
    expect(sizeOf({ ...repeated, $defs: { long: { required: [long] } } })).toBeLessThan(150_000)
    expect(sizeOf({ $ref: '#' })).toBe(4)
    const members = Array.from({ length: 100_000 }, (_, index) => `member-${index}`)
    expect(Object.keys(exampleOf({ type: 'object', required: members }) as object).length).toBeLessThanOrEqual(256)
  })

  it.each<[unknown, unknown]>([
    [{ type: 'integer', minimum: 3, multipleOf: 5 }, 5],
    [{ type: 'integer', maximum: -5, multipleOf: 2 }, -6],
    [{ type: 'number', exclusiveMinimum: 3 }, 3.5],
    [{ type: 'number', minimum: Number.POSITIVE_INFINITY }, Number.MAX_VALUE],
    [{ type: 'string', maxLength: 3 }, 'exa'],
    [{ type: 'string', maxLength: -3 }, ''],
    [{ type: 'array', items: { type: 'boolean' }, minItems: 2 }, [true, true]],
    [{ type: 'array', items: { type: 'boolean' }, maxItems: 0 }, []],
    [{ anyOf: [{ type: 'null' }, { type: 'string' }] }, null],
  ])('%j is %j, or those who check their answers against it would fail', (schema, example) => {
    expect(exampleOf(schema)).toEqual(example)
  })
})

describe('a fault of the simulator itself', () => {
  const request = { messages: MESSAGES, max_tokens: 4 }
  const failures: readonly [string, () => void][] = [
    ['while a request is taken in', () => vi.spyOn(Engine.prototype, 'add').mockImplementationOnce(fault)],
    [
      'while an answer is written',
      () => vi.spyOn(RankMetrics.prototype, 'recordRequest').mockImplementationOnce(fault),
    ],
    ['while a token is said', () => vi.spyOn(TextDecoder.prototype, 'decode').mockImplementationOnce(fault)],
  ]
  const fault = (): never => {
    throw new TypeError('a fault')
  }

  it.each(failures)('%s costs that request a 500, and nobody else theirs', async (_, fail) => {
    const pod = await startPod()
    const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
    const body = JSON.stringify(request)
    fail()
    const answer = await post(pod, CHAT, JSON.parse(body))
    expect([answer.status, await answer.json()]).toEqual([500, { error: INTERNAL }])
    expect(warn).toHaveBeenCalledTimes(1)
    vi.restoreAllMocks()
    expect((await post(pod, CHAT, request)).status).toBe(200)
    expect(pod.stats()).toMatchObject({ running: 0, waiting: 0, kvCacheUsage: 0 })
  })

  it.each(failures)('%s ends a stream with an error event, or its reader would wait for ever', async (_, fail) => {
    const pod = await startPod()
    vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
    fail()
    const answer = await post(pod, CHAT, { ...request, stream: true })
    const events = eventsOf(await answer.text())
    vi.restoreAllMocks()
    expect(events.at(-1)).toBe('[DONE]')
    expect(JSON.parse(events.at(-2) ?? '')).toEqual({ error: INTERNAL })
    expect((await post(pod, CHAT, request)).status).toBe(200)
  })
})

describe('a request for more tokens than there is room for', () => {
  const ids = (length: number) => ({ prompt: new Array(length).fill(5), max_tokens: 9, ignore_eos: true })
  const ask = async (length: number) => {
    const pod = await startPod({ maxModelLen: 64 })
    const answer = await post(pod, COMPLETION, ids(length))
    return (await answer.json()) as { usage?: { completion_tokens: number }; error?: { message: string } }
  }

  it('gets those that there is room for, or callers that ask for much would get nothing', async () => {
    expect((await ask(60)).usage?.completion_tokens).toBe(4)
  })

  it.each([
    [64, 'max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)'],
    [65, 'contains at least 65 input tokens'],
    [66, 'contains 66 input tokens'],
  ])('is refused where a prompt of %i tokens leaves none', async (length, words) => {
    expect((await ask(length)).error?.message).toContain(words)
  })
})

it('a message that is wrong a million times is told so a few hundred times', async () => {
  const pod = await startPod()
  const wrong = new Array(1e6).fill(5)
  for (const messages of [wrong, [{ role: 'user', content: wrong }]]) {
    const answer = await post(pod, '/v1/messages', { model: 'sim-8b', max_tokens: 1, messages })
    expect(answer.status).toBe(400)
    expect((await answer.text()).length).toBeLessThan(100_000)
  }
})
