// The whole Worker in workerd, with the real key store and a router that is played.
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { HEADER, SESSION_ID_HEADERS } from '../../shared/headers.ts'
import { hmacSha256, toBase64url, toHex } from '../../shared/hmac.ts'
import { parseKeyRing, parseSignature, signingInput } from '../../shared/signature.ts'
import { CHAT, call, chat, fakeRouter, sse, storedKey, streamed } from './support.ts'

const BODY = { model: 'tiny', messages: [{ role: 'user', content: 'hi' }] }
const USAGE =
  '{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":8}}}'
const TEXT = '{"choices":[{"index":0,"delta":{"content":"hé"}}]}'

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

describe('what reaches the router', () => {
  it('is canonical, salted for the tenant and free of engine controls', async () => {
    const arrived = fakeRouter(() => Response.json({}))
    const key = await storedKey()
    const sent = `{ "seed": 9007199254740993, "model": "t\\u0069ny", "messages": [ {"role":"user","content":"a\\/b"} ],
      "kv_transfer_params": {"do_remote_decode": true}, "ec_transfer_params": {}, "cache_salt": "theirs", "priority": -5, "vllm_xargs": {} }`
    const answer = await chat(key, sent)
    expect(answer.status).toBe(200)
    const salt = toBase64url(await hmacSha256(env.KEY_PEPPER, 'cache-salt\nacme')).slice(0, 22)
    expect(arrived[0]?.body).toBe(
      `{"cache_salt":"${salt}","messages":[{"role":"user","content":"a/b"}],"model":"tiny","seed":9007199254740993}`,
    )
    expect(arrived[0]?.url).toBe('http://127.0.0.1:8000/v1/chat/completions')
  })

  it('carries the headers of the allow-list and the edge’s own, nothing else', async () => {
    const arrived = fakeRouter(() => Response.json({}))
    const hostile = [
      'x-prefiller-host-port',
      'x-gateway-destination-endpoint',
      'x-gateway-destination-endpoint-subset',
      'x-gateway-inference-objective',
      'x-gateway-model-name-rewrite',
      'x-llm-d-inference-fairness-id',
      'x-session-token',
      'x-data-parallel-host-port',
      'x-encoder-hosts-ports',
      'x-envoy-original-path',
      'x-forwarded-for',
      'forwarded',
      'x-real-ip',
      'x-http-method-override',
      'x-api-key-hint',
      'x-warmpath-decision',
      'x-warmpath-pin',
      'x-warmpath-profile',
      'cookie',
      'cloudflare-workers-version-key',
      'proxy-authorization',
      'te',
    ]
    const key = await storedKey()
    await chat(key, BODY, {
      ...Object.fromEntries(hostile.map((name) => [name, 'evil'])),
      'x-api-key': key,
      'x-warmpath-tenant': 'victim',
      'x-warmpath-signature': 'v1;kid=new;ts=1;nonce=AAAAAAAAAAAAAAAA;mac=x',
      traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
      accept: 'application/json',
      'x-stainless-retry-count': '1',
    })
    const headers = arrived[0]?.request.headers ?? new Headers()
    expect([...headers.keys()].sort()).toEqual([
      'accept',
      'accept-encoding',
      'content-type',
      'traceparent',
      'x-request-id',
      'x-stainless-retry-count',
      'x-warmpath-signature',
      'x-warmpath-tenant',
    ])
    expect(headers.get(HEADER.tenant)).toBe('acme')
    expect([...headers.values()].join()).not.toContain('evil')
  })

  it('names the caller’s session as its client names it', async () => {
    const arrived = fakeRouter(() => Response.json({}))
    await chat(await storedKey(), BODY, Object.fromEntries(SESSION_ID_HEADERS.map((name) => [name, `by ${name}`])))
    for (const name of SESSION_ID_HEADERS) expect(arrived[0]?.request.headers.get(name)).toBe(`by ${name}`)
  })

  it('is signed over method, path, tenant and the bytes sent', async () => {
    const arrived = fakeRouter(() => Response.json({}))
    await chat(await storedKey({ tenant: 'globex' }), BODY)
    await call('/v1/models?x=1', { headers: { 'x-api-key': await storedKey() } })
    for (const [method, path, tenant, at] of [
      ['POST', CHAT, 'globex', 0],
      ['GET', '/v1/models', 'acme', 1],
    ] as const) {
      const one = arrived[at]
      const signature = parseSignature(one?.request.headers.get(HEADER.signature) ?? '')
      if (!one || !signature) throw new Error('not signed')
      expect(signature.keyId).toBe('new')
      expect(Math.abs(signature.timestampSeconds - Date.now() / 1000)).toBeLessThan(5)
      const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(one.body))
      const bodyDigest = toHex(new Uint8Array(digest))
      const input = signingInput({ ...signature, method, path, tenant, pin: '', bodyDigest })
      const secret = parseKeyRing(env.EDGE_SIGNING_KEYS).secrets.get('new') ?? ''
      expect(signature.mac).toBe(toBase64url(await hmacSha256(secret, input)))
    }
  })

  it('keeps an acceptable request id and replaces any other', async () => {
    const arrived = fakeRouter(() => Response.json({}))
    const key = await storedKey()
    const kept = await chat(key, BODY, { 'x-request-id': 'trace-7.a' })
    const replaced = await chat(key, BODY, { 'x-request-id': 'no spaces, please' })
    expect(kept.headers.get('x-request-id')).toBe('trace-7.a')
    expect(replaced.headers.get('x-request-id')).toMatch(/^req_[0-9a-f]{32}$/)
    expect(arrived[1]?.request.headers.get('x-request-id')).toBe(replaced.headers.get('x-request-id'))
  })

  it.each([
    ['absent', undefined, '{"include_usage":true}'],
    ['null', null, '{"include_usage":true}'],
    ['declined', { include_usage: false, other: 1 }, '{"include_usage":true,"other":1}'],
    ['asked for', { include_usage: true }, '{"include_usage":true}'],
  ])('asks a stream for usage: stream_options %s', async (_, stream_options, expected) => {
    const arrived = fakeRouter(() => streamed([sse('[DONE]')]))
    await (await chat(await storedKey(), { ...BODY, stream: true, stream_options })).text()
    expect(arrived[0]?.body).toContain(`"stream_options":${expected}`)
  })

  it('does not ask where nothing streams', async () => {
    const arrived = fakeRouter(() => Response.json({}))
    await chat(await storedKey(), BODY)
    expect(arrived[0]?.body).not.toContain('stream_options')
  })
})

describe('answers', () => {
  it('shows the caller the allow-listed headers only', async () => {
    fakeRouter(
      () =>
        new Response('{}', {
          headers: {
            'content-type': 'application/json',
            'x-warmpath-decision': 'd1',
            'set-cookie': 'a=b',
            server: 'x',
            'x-prefiller-host-port': '10.0.0.1:8000',
            'x-session-token': 'not the edges',
          },
        }),
    )
    const answer = await chat(await storedKey(), BODY)
    expect([...answer.headers.keys()].sort()).toEqual([
      'cache-status',
      'content-type',
      'x-request-id',
      'x-warmpath-decision',
    ])
  })

  it('passes refusals of the router unchanged', async () => {
    const refusal = '{"error":{"message":"full","type":"rate_limit_error","param":null,"code":"overloaded"}}'
    fakeRouter(
      () =>
        new Response(refusal, {
          status: 429,
          headers: { 'content-type': 'application/json', 'retry-after': '7', 'x-warmpath-reason': 'overloaded' },
        }),
    )
    const answer = await chat(await storedKey(), { ...BODY, stream: true })
    expect(answer.status).toBe(429)
    expect(answer.headers.get('retry-after')).toBe('7')
    expect(await answer.text()).toBe(refusal)
  })

  it('never tells a caller with a good key that the router refused the edge’s signature', async () => {
    const headers = { 'x-warmpath-reason': 'invalid-signature', 'x-should-retry': 'false' }
    fakeRouter(() => new Response('{"error":{"message":"not yours"}}', { status: 401, headers }))
    const answer = await chat(await storedKey(), BODY)
    expect(answer.status).toBe(500)
    expect(await answer.text()).toContain('EDGE_SIGNING_KEYS')
  })

  it('reads the usage of an answer that does not stream', async () => {
    fakeRouter(() => Response.json({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 4 } }))
    await (await chat(await storedKey(), BODY)).text()
    expect(lastLogged()).toMatchObject({ outcome: 'complete', promptTokens: 3, completionTokens: 4 })
    expect(lastLogged()).not.toHaveProperty('cachedTokens')
  })

  it('reads the usage of an answer of any size: a caller’s logprobs must not keep it out of the log', async () => {
    const choices = [{ message: { content: 'x' }, logprobs: { content: 'usage'.repeat(400_000) } }]
    fakeRouter(() => Response.json({ choices, usage: { prompt_tokens: 3, completion_tokens: 4 } }))
    const answer = await chat(await storedKey(), { ...BODY, logprobs: true })
    expect(await answer.json()).toMatchObject({ choices })
    expect(lastLogged()).toMatchObject({ outcome: 'complete', promptTokens: 3, completionTokens: 4 })
  })

  it('withholds the usage event from a caller who did not ask for it', async () => {
    const whole = sse(TEXT, USAGE, '[DONE]')
    // Cut inside the usage event and inside a character.
    fakeRouter(() => streamed([whole.slice(0, 20), whole.slice(20, 80), whole.slice(80)]))
    const answer = await chat(await storedKey(), { ...BODY, stream: true })
    expect(answer.headers.get('cache-control')).toBe('no-cache, no-transform')
    expect(await answer.text()).toBe(sse(TEXT, '[DONE]'))
    expect(lastLogged()).toMatchObject({ promptTokens: 9, completionTokens: 2, cachedTokens: 8, outcome: 'complete' })
  })

  it('leaves the usage event to a caller who asked for it', async () => {
    fakeRouter(() => streamed([sse(TEXT, USAGE, '[DONE]')]))
    const answer = await chat(await storedKey(), { ...BODY, stream: true, stream_options: { include_usage: true } })
    expect(await answer.text()).toBe(sse(TEXT, USAGE, '[DONE]'))
  })

  it.each([
    ['breaks', 'break', 'upstream_lost'],
    ['ends without [DONE]', 'close', 'upstream_truncated'],
  ] as const)('tells of a stream that %s by an error frame', async (_, end, code) => {
    fakeRouter(() => streamed([sse(TEXT), 'data: {"choi'], end))
    const text = await (await chat(await storedKey(), { ...BODY, stream: true })).text()
    const [first, last, rest] = text.split('\n\n')
    expect(first).toBe(`data: ${TEXT}`)
    expect(JSON.parse(last?.slice('data: '.length) ?? '').error.code).toBe(code)
    expect(rest).toBe('')
    expect(lastLogged()).toMatchObject({ status: 200, outcome: code })
  })

  it('adds nothing to an error that the router told in the stream', async () => {
    const told = sse(TEXT, '{"error":{"message":"gone","type":"server_error","param":null,"code":"engine_lost"}}')
    fakeRouter(() => streamed([told]))
    expect(await (await chat(await storedKey(), { ...BODY, stream: true })).text()).toBe(told)
    expect(lastLogged()).toMatchObject({ outcome: 'upstream_error' })
  })

  it('lists the models that a limited key may use', async () => {
    fakeRouter(() => Response.json({ object: 'list', data: [{ id: 'tiny', owned_by: 'vllm' }, { id: 'huge' }] }))
    const limited = await storedKey({ models: ['tiny', 'org/other'] })
    const answer = await call('/v1/models', { headers: { 'x-api-key': limited } })
    expect(await answer.json()).toEqual({ object: 'list', data: [{ id: 'tiny', owned_by: 'vllm' }] })
    expect((await call('/v1/models/huge', { headers: { 'x-api-key': limited } })).status).toBe(404)
  })

  it('asks for a model by its whole name', async () => {
    const arrived = fakeRouter(() => Response.json({ id: 'org/other' }))
    const headers = { 'x-api-key': await storedKey({ models: ['org/other'] }) }
    expect((await call('/v1/models/org%2Fother', { headers })).status).toBe(200)
    expect((await call('/v1/models/org/other', { headers })).status).toBe(200)
    expect(arrived.map(({ url }) => new URL(url).pathname)).toEqual(Array(2).fill('/v1/models/org%2Fother'))
  })

  it('says what it is and that it is well without a key', async () => {
    const answer = await call('/', { headers: { 'x-request-id': 'one' } })
    expect(answer.headers.get('x-request-id')).toBe('one')
    expect(await answer.json()).toMatchObject({ name: 'warmpath' })
    expect(await (await call('/healthz')).json()).toEqual({ status: 'ok' })
  })
})

describe('refusals', () => {
  const JSON_TYPE = { 'content-type': 'application/json' }

  it.each([
    ['an unknown route', '/v1/nothing', 'GET', 404, 'unknown_url', null],
    ['the wrong method', CHAT, 'GET', 405, 'method_not_allowed', 'POST'],
    ['the wrong method', '/v1/models', 'POST', 405, 'method_not_allowed', 'GET, HEAD'],
  ])('%s (%s %s)', async (_, path, method, status, code, allow) => {
    const answer = await call(path, { method })
    expect(answer.status).toBe(status)
    expect(answer.headers.get('allow')).toBe(allow)
    expect(answer.headers.get('x-request-id')).toMatch(/^req_/)
    expect(await answer.json()).toMatchObject({ error: { code } })
  })

  it('speaks Anthropic’s shape below /v1/messages', async () => {
    const answer = await call('/v1/messages/batches', { method: 'POST' })
    expect(answer.status).toBe(404)
    expect(await answer.json()).toMatchObject({ type: 'error', error: { type: 'not_found_error' } })
  })

  it.each([
    ['no content type', '{}', { 'content-type': '' }, 415, null],
    ['another content type', '{}', { 'content-type': 'text/plain' }, 415, null],
    ['a compressed body', '{}', { 'content-encoding': 'gzip' }, 415, null],
    ['no JSON', '{"model":', {}, 400, null],
    ['a duplicate member', '{"model":"a","model":"b"}', {}, 400, null],
    ['no model', '{"messages":[]}', {}, 400, 'model'],
    ['an empty model', '{"model":""}', {}, 400, 'model'],
    ['a model that is no text', '{"model":5}', {}, 400, 'model'],
    ['a stream that only some read as one', '{"model":"a","stream":1}', {}, 400, 'stream'],
    ['the same as text', '{"model":"a","stream":"true"}', {}, 400, 'stream'],
    ['options that are no object', '{"model":"a","stream":true,"stream_options":"yes"}', {}, 400, 'stream_options'],
    [
      'a wish for usage that only some read as none',
      '{"model":"a","stream":true,"stream_options":{"include_usage":0}}',
      {},
      400,
      'stream_options.include_usage',
    ],
  ])('%s', async (_, body, headers, status, param) => {
    const arrived = fakeRouter(() => Response.json({}))
    const answer = await chat(await storedKey(), body, headers)
    expect(answer.status).toBe(status)
    expect(await answer.json()).toMatchObject({ error: { param } })
    expect(arrived).toEqual([])
  })

  it('takes parameters of the content type', async () => {
    fakeRouter(() => Response.json({}))
    const type = { 'content-type': 'Application/JSON; charset=utf-8' }
    expect((await chat(await storedKey(), BODY, type)).status).toBe(200)
  })

  it('a body that is too large, by its length and by its bytes', async () => {
    const key = await storedKey()
    const large = `{"model":"tiny","x":"${'x'.repeat(8 * 1024 * 1024)}"}`
    expect((await chat(key, large)).status).toBe(413)
    const unannounced = new Blob([large]).stream()
    const headers = { authorization: `Bearer ${key}`, ...JSON_TYPE }
    expect((await call(CHAT, { method: 'POST', headers, body: unannounced })).status).toBe(413)
  })

  it('a model that the key may not use', async () => {
    const answer = await chat(await storedKey({ models: ['other'] }), BODY)
    expect(answer.status).toBe(404)
    expect(await answer.json()).toMatchObject({ error: { code: 'model_not_found', param: 'model' } })
  })

  it.each([
    ['nobody listens', () => Promise.reject(new Error('connection refused'))],
    ['a load balancer answers in its place', () => new Response('<html>', { status: 502 })],
    ['Cloudflare answers in its place', () => new Response('', { status: 522 })],
  ])('a router that cannot be reached: %s', async (_, router) => {
    fakeRouter(router)
    const key = await storedKey()
    const first = await chat(key, BODY)
    expect(first.status).toBe(503)
    expect(Number(first.headers.get('retry-after'))).toBeGreaterThan(0)
    expect(first.headers.get('x-should-retry')).toBe('true')
    expect(await first.json()).toMatchObject({ error: { code: 'router_unreachable' } })
    const retried = await chat(key, BODY, { 'x-stainless-retry-count': '1' })
    expect(retried.headers.get('x-should-retry')).toBe('false')
  })
})

describe('the log', () => {
  it('has one line a request, without bodies and keys', async () => {
    fakeRouter(() => streamed([sse(TEXT, '[DONE]')]))
    const key = await storedKey()
    await (await chat(key, { ...BODY, messages: [{ role: 'user', content: 'a secret' }], stream: true })).text()
    await chat('wp_live_no', BODY)
    expect(logged).toHaveLength(2)
    expect(JSON.parse(logged[0] ?? '')).toEqual({
      requestId: expect.stringMatching(/^req_/),
      tenant: 'acme',
      method: 'POST',
      route: CHAT,
      model: 'tiny',
      cache: 'bypass',
      status: 200,
      outcome: 'complete',
      ms: expect.any(Number),
    })
    expect(lastLogged()).toMatchObject({ status: 401, outcome: 'invalid-api-key' })
    expect(logged.join()).not.toMatch(/wp_live|a secret/)
  })
})
