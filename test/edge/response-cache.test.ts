// The edge's cache in workerd, over the real Cache API: who asks again is answered here, and nobody else is.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { ANSWER_HEADERS } from '../../shared/headers.ts'
import { call, chat, fakeRouter, post, sse, storedKey, streamed } from './support.ts'

const USAGE = { prompt_tokens: 5, total_tokens: 7, completion_tokens: 2 }
let asked = 0

beforeEach(() => {
  vi.spyOn(console, 'log').mockImplementation(() => {})
})
afterEach(() => {
  vi.restoreAllMocks()
})

/** Each test asks another question: the store outlives them. */
function question(more: object = {}): object {
  return { model: 'tiny', temperature: 0, messages: [{ role: 'user', content: `question ${++asked}` }], ...more }
}

function whole(text: string, headers: Record<string, string> = {}): Response {
  const message = { role: 'assistant', content: text }
  const choices = [{ index: 0, message, logprobs: null, finish_reason: 'stop', stop_reason: null }]
  const answer = { id: 'chatcmpl-1', object: 'chat.completion', created: 1, model: 'tiny', choices, usage: USAGE }
  return Response.json(answer, { headers: { 'x-warmpath-model-version': 'v1', ...headers } })
}

function events(text: string, end = '[DONE]'): Response {
  const head = { id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1, model: 'tiny' }
  const chunk = (delta: object, finish_reason: string | null = null) =>
    JSON.stringify({ ...head, choices: [{ index: 0, delta, logprobs: null, finish_reason }] })
  const usage = JSON.stringify({ ...head, choices: [], usage: USAGE })
  const answer = streamed([
    sse(chunk({ role: 'assistant', content: '' }), chunk({ content: text })),
    sse(chunk({}, 'stop'), usage, ...(end === '' ? [] : [end])),
  ])
  answer.headers.set('x-warmpath-model-version', 'v1')
  return answer
}

/** What is stored is stored after the answer: asks until it is there. */
async function untilHit(ask: () => Promise<Response>): Promise<{ response: Response; text: string }> {
  for (let turn = 0; turn < 50; turn++) {
    const response = await ask()
    const text = await response.text()
    if (response.headers.get('cache-status')?.includes('warmpath-edge; hit')) return { response, text }
  }
  throw new Error('never answered from the cache')
}

describe('an answer that was given before', () => {
  it.each([
    ['whole, then whole', false, false],
    ['whole, then streamed', false, true],
    ['streamed, then whole', true, false],
    ['streamed, then streamed', true, true],
  ])('%s', async (_, first, second) => {
    const arrived = fakeRouter(({ body }) => (body.includes('"stream":true') ? events('hello') : whole('hello')))
    const key = await storedKey()
    const body = question()
    const one = await chat(key, { ...body, stream: first })
    await one.text()
    expect(one.headers.get('cache-status')).toContain('warmpath-edge; fwd=miss')
    const { response, text } = await untilHit(() => chat(key, { ...body, stream: second }))
    const before = arrived.length
    await (await chat(key, { ...body, stream: second })).text()
    expect(arrived.length).toBe(before)
    expect(text).toContain('hello')
    expect(text).not.toContain('chatcmpl-1"')
    expect(response.headers.get('age')).toMatch(/^\d+$/)
    expect(response.headers.get('content-type')).toContain(second ? 'text/event-stream' : 'application/json')
    // The caller did not ask for the usage event.
    expect(text.includes('"usage":{')).toBe(!second)
    expect(text.endsWith('data: [DONE]\n\n')).toBe(second)
  })

  it('is the tenant’s alone', async () => {
    const arrived = fakeRouter(() => whole('acme’s secret'))
    const [acme, acmeToo, other] = [
      await storedKey({ tenant: 'acme' }),
      await storedKey({ tenant: 'acme' }),
      await storedKey({ tenant: 'other' }),
    ]
    const body = question()
    await (await chat(acme, body)).text()
    await untilHit(() => chat(acmeToo, body))
    const before = arrived.length
    const answer = await chat(other, body)
    expect(answer.headers.get('cache-status')).toBe('warmpath-edge; fwd=miss')
    expect(arrived.length).toBe(before + 1)
  })

  it('is not read by a key that may not use the model', async () => {
    fakeRouter(() => whole('hello'))
    const [all, limited] = [await storedKey(), await storedKey({ models: ['another'] })]
    const body = question()
    await (await chat(all, body)).text()
    await untilHit(() => chat(all, body))
    expect((await chat(limited, body)).status).toBe(404)
  })

  it('ends with the model that gave it', async () => {
    let version = 'v1'
    const arrived = fakeRouter(() => whole('hello', { 'x-warmpath-model-version': version }))
    const key = await storedKey()
    const body = question({ model: 'changing' })
    await (await chat(key, body)).text()
    await untilHit(() => chat(key, body))
    version = 'v2'
    // Any answer tells the edge of the new one.
    await (await chat(key, question({ model: 'changing', temperature: 1 }))).text()
    const before = arrived.length
    const answer = await chat(key, body)
    expect(answer.headers.get('cache-status')).toBe('warmpath-edge; fwd=miss')
    expect(arrived.length).toBe(before + 1)
  })

  it('counts its age from when the router stored it', async () => {
    fakeRouter(() => whole('hello', { age: '100', 'cache-status': 'warmpath-router; hit; ttl=9; detail=redis' }))
    const key = await storedKey()
    const body = question()
    const first = await chat(key, body)
    await first.text()
    expect(first.headers.get('cache-status')).toMatch(
      /^warmpath-router; hit; ttl=9; detail=redis, warmpath-edge; fwd=miss/,
    )
    expect(first.headers.get('age')).toBe('100')
    const { response } = await untilHit(() => chat(key, body))
    expect(Number(response.headers.get('age'))).toBeGreaterThanOrEqual(100)
  })
})

describe('what is not kept', () => {
  it.each<[string, () => Response]>([
    ['a stream without its end', () => events('cut', '')],
    [
      'a stream that breaks',
      () => {
        const answer = streamed([sse('{"choices":[]}')], 'break')
        answer.headers.set('x-warmpath-model-version', 'v1')
        return answer
      },
    ],
    [
      'an answer of a router that does not name the model’s version',
      () => Response.json({ object: 'chat.completion' }),
    ],
    ['an error', () => Response.json({ error: { message: 'no' } }, { status: 400 })],
  ])('%s', async (_, broken) => {
    const key = await storedKey()
    const body = question()
    fakeRouter(() => whole('other'))
    await (await chat(key, question())).text()
    const arrived = fakeRouter(broken)
    for (let turn = 0; turn < 3; turn++) await (await chat(key, { ...body, stream: true })).text().catch(() => '')
    expect(arrived.length).toBe(3)
  })

  it('requests that sample, and those of callers who say no-store', async () => {
    const arrived = fakeRouter(() => whole('hello'))
    const key = await storedKey()
    const sampled = question({ temperature: 1 })
    const plain = question()
    for (let turn = 0; turn < 3; turn++) {
      const one = await chat(key, sampled)
      expect(one.headers.get('cache-status')).toBe('warmpath-edge; fwd=bypass; detail=sampled')
      const two = await chat(key, plain, { 'cache-control': 'no-store' })
      expect(two.headers.get('cache-status')).toBe('warmpath-edge; fwd=bypass; detail=no-store')
      await Promise.all([one.text(), two.text()])
    }
    expect(arrived.length).toBe(6)
    expect(arrived.at(-1)?.request.headers.get('cache-control')).toBe('no-store')
  })

  it('nothing is reached by the URL under which it is kept', async () => {
    const answer = await call('/__cache/v1/anything')
    expect(answer.status).toBe(404)
  })
})

it('embeddings are kept unasked', async () => {
  const arrived = fakeRouter(() =>
    Response.json(
      {
        id: 'embd-1',
        object: 'list',
        created: 1,
        model: 'tiny',
        data: [{ index: 0, object: 'embedding', embedding: [0.5, -0.25] }],
        usage: { prompt_tokens: 2, total_tokens: 2, completion_tokens: 0, prompt_tokens_details: null },
      },
      { headers: { 'x-warmpath-model-version': 'v1' } },
    ),
  )
  const key = await storedKey()
  const body = { model: 'tiny', input: `text ${++asked}` }
  await (await post('/v1/embeddings', key, body)).text()
  const { text } = await untilHit(() => post('/v1/embeddings', key, body))
  expect(JSON.parse(text).data).toEqual([{ index: 0, object: 'embedding', embedding: [0.5, -0.25] }])
  expect(arrived.length).toBeGreaterThan(0)
})

it('a caller sees what caches did, and not what the two halves tell each other', () => {
  expect(ANSWER_HEADERS).toContain('cache-status')
  expect(ANSWER_HEADERS).not.toContain('x-warmpath-model-version')
})
