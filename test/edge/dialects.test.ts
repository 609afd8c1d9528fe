// The dialects beside OpenAI's chats and responses through the Worker: what reaches the router, and what is read of its answers.
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { hmacSha256, toBase64url } from '../../shared/hmac.ts'
import { call, fakeRouter, post, storedKey, streamed } from './support.ts'

const MESSAGES = '/v1/messages'
const COUNT_TOKENS = '/v1/messages/count_tokens'
const EMBEDDINGS = '/v1/embeddings'
const BODY = { max_tokens: 4, messages: [{ role: 'user', content: 'hi' }], metadata: { user_id: 'u' }, model: 'tiny' }

let logged: string[]

beforeEach(() => {
  logged = []
  vi.spyOn(console, 'log').mockImplementation((line) => {
    logged.push(String(line))
  })
})
afterEach(() => {
  vi.restoreAllMocks()
})

function lastLogged(): Record<string, unknown> {
  return JSON.parse(logged.at(-1) ?? 'null')
}

function named(event: string, members: object): string {
  return `event: ${event}\ndata: ${JSON.stringify({ type: event, ...members })}\n\n`
}

const started = named('message_start', { message: { usage: { input_tokens: 40, output_tokens: 0 } } })
const delta = named('content_block_delta', { delta: { type: 'text_delta', text: '"message_stop" "error"' }, index: 0 })
const counted = named('message_delta', {
  delta: { stop_reason: 'end_turn' },
  usage: { input_tokens: 8, output_tokens: 4, cache_read_input_tokens: 32 },
})
const stopped = named('message_stop', {})

describe('what reaches the router', () => {
  it.each([
    [MESSAGES, BODY, true],
    [EMBEDDINGS, { input: 'hi', model: 'tiny' }, true],
    [COUNT_TOKENS, { messages: [], model: 'tiny' }, false],
  ])('%s is salted where engines know salt, and free of engine controls', async (path, body, salted) => {
    const arrived = fakeRouter(() => Response.json({}))
    const controls = { kv_transfer_params: {}, ec_transfer_params: {}, priority: -5, vllm_xargs: {}, cache_salt: 'x' }
    const answer = await post(path, await storedKey(), { ...body, ...controls })
    expect(answer.status).toBe(200)
    const salt = toBase64url(await hmacSha256(env.KEY_PEPPER, 'cache-salt\nacme')).slice(0, 22)
    expect(arrived[0]?.body).toBe(JSON.stringify({ ...(salted && { cache_salt: salt }), ...body }))
  })

  it('says nothing of usage: a stream of messages tells it unasked', async () => {
    const arrived = fakeRouter(() => streamed([started, stopped]))
    await (await post(MESSAGES, await storedKey(), { ...BODY, stream: true })).text()
    expect(JSON.parse(arrived[0]?.body ?? '')).not.toHaveProperty('stream_options')
  })

  it('comes with Anthropic’s own headers, a key where its clients put it, and without the query that they add', async () => {
    const arrived = fakeRouter(() => Response.json({}))
    const answer = await call(`${MESSAGES}?beta=true`, {
      method: 'POST',
      headers: {
        'x-api-key': await storedKey(),
        'content-type': 'application/json',
        'anthropic-version': '2023-06-01',
        'anthropic-beta': 'tools-2024-04-04',
      },
      body: JSON.stringify(BODY),
    })
    expect(answer.status).toBe(200)
    const [sent] = arrived
    expect(sent?.url).toMatch(/:8000\/v1\/messages$/)
    expect(sent?.request.headers.get('anthropic-version')).toBe('2023-06-01')
    expect(sent?.request.headers.get('anthropic-beta')).toBe('tools-2024-04-04')
    expect(sent?.request.headers.get('x-api-key')).toBeNull()
  })
})

describe('the request’s id', () => {
  it('stands where Anthropic’s clients look for it, on answers and refusals', async () => {
    fakeRouter(() => Response.json({}))
    const answer = await post(MESSAGES, await storedKey(), BODY, { 'x-request-id': 'mine' })
    expect([answer.headers.get('request-id'), answer.headers.get('x-request-id')]).toEqual(['mine', 'mine'])
    const refused = await post(COUNT_TOKENS, 'wrong', BODY, { 'x-request-id': 'mine' })
    expect([refused.status, refused.headers.get('request-id')]).toEqual([401, 'mine'])
  })

  it('stands in one header elsewhere', async () => {
    fakeRouter(() => Response.json({}))
    const answer = await post(EMBEDDINGS, await storedKey(), { model: 'tiny', input: 'hi' })
    expect(answer.headers.has('request-id')).toBe(false)
  })
})

describe('usage', () => {
  it.each([
    [MESSAGES, { usage: { input_tokens: 8, output_tokens: 4, cache_read_input_tokens: 32 } }, [40, 4, 32]],
    [EMBEDDINGS, { data: [[0.5]], usage: { prompt_tokens: 2, total_tokens: 2 } }, [2, 0, undefined]],
    [COUNT_TOKENS, { input_tokens: 9 }, [undefined, undefined, undefined]],
  ])('of %s is read from the whole answer', async (path, answer, [promptTokens, completionTokens, cachedTokens]) => {
    fakeRouter(() => Response.json(answer))
    await (await post(path, await storedKey(), BODY)).text()
    const line = lastLogged()
    expect([line.promptTokens, line.completionTokens, line.cachedTokens]).toEqual([
      promptTokens,
      completionTokens,
      cachedTokens,
    ])
  })

  it('of streamed messages is the last word on each count', async () => {
    fakeRouter(() => streamed([started + delta, counted, stopped]))
    const answer = await post(MESSAGES, await storedKey(), { ...BODY, stream: true })
    expect(await answer.text()).toBe(started + delta + counted + stopped)
    expect(lastLogged()).toMatchObject({
      outcome: 'complete',
      promptTokens: 40,
      completionTokens: 4,
      cachedTokens: 32,
    })
  })
})

describe('a stream of messages', () => {
  it.each([
    ['ends early', [started, delta], 'close', 'upstream_truncated'],
    ['ends early with words that only the model said', [started, delta], 'close', 'upstream_truncated'],
    ['ends as a chat does', [started, 'data: [DONE]\n\n'], 'close', 'upstream_truncated'],
    ['breaks off', [started, `${delta}event: message_st`], 'break', 'upstream_lost'],
  ] as const)('that %s is told as cut off, and never ends as a whole one', async (_, chunks, end, outcome) => {
    fakeRouter(() => streamed(chunks, end))
    const text = await (await post(MESSAGES, await storedKey(), { ...BODY, stream: true })).text()
    expect(text).toMatch(/\n\nevent: error\ndata: \{"type":"error","error":\{"type":"api_error",.*\}\}\n\n$/)
    expect(text).not.toContain('event: message_stop')
    expect(lastLogged()).toMatchObject({ outcome, promptTokens: 40 })
  })

  it('that tells an error itself gets no second one', async () => {
    const error = named('error', { error: { type: 'internal_error', message: 'died' } })
    fakeRouter(() => streamed([started, error]))
    const answer = await post(MESSAGES, await storedKey(), { ...BODY, stream: true })
    expect(await answer.text()).toBe(started + error)
    expect(lastLogged()).toMatchObject({ outcome: 'upstream_error' })
  })
})
