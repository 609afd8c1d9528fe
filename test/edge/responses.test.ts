// The Responses API through the Worker: made, streamed, retrieved and cancelled.

import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { HEADER } from '../../shared/headers.ts'
import { hmacSha256, toBase64url, toHex } from '../../shared/hmac.ts'
import { parseKeyRing, parseSignature, signingInput } from '../../shared/signature.ts'
import recorded from '../fixtures/vllm/responses.json'
import { call, fakeRouter, post, storedKey, streamed } from './support.ts'

const RESPONSES = '/v1/responses'
const BODY = { model: 'tiny', input: 'hi' }
const ID = 'resp_b722cd9a14a90514'
const USAGE = { input_tokens: 10, output_tokens: 4, input_tokens_details: { cached_tokens: 3 } }

const created = named('response.created', { response: { id: ID, status: 'in_progress', usage: null, error: null } })
const delta = named('response.output_text.delta', { delta: 'hé' })
const completed = named('response.completed', { response: { id: ID, status: 'completed', usage: USAGE } })

function named(type: string, event: object): string {
  return `event: ${type}\ndata: ${JSON.stringify({ ...event, type })}\n\n`
}

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

async function stream(chunks: readonly string[], end: 'close' | 'break' = 'close'): Promise<string> {
  fakeRouter(() => streamed(chunks, end))
  return (await post(RESPONSES, await storedKey(), { ...BODY, stream: true })).text()
}

describe('what reaches the router', () => {
  it('is salted, without an id of the caller’s choosing, and refers to what came before', async () => {
    const arrived = fakeRouter(() => Response.json({}))
    const body = { ...BODY, request_id: 'resp_theirs', cache_salt: 'theirs', priority: 1, previous_response_id: ID }
    await (await post(RESPONSES, await storedKey(), { ...body, stream: true, store: true })).text()
    const salt = toBase64url(await hmacSha256(env.KEY_PEPPER, 'cache-salt\nacme')).slice(0, 22)
    expect(arrived[0]?.url).toBe('http://127.0.0.1:8000/v1/responses')
    expect(JSON.parse(arrived[0]?.body ?? '')).toEqual({
      ...BODY,
      cache_salt: salt,
      previous_response_id: ID,
      store: true,
      stream: true,
    })
  })

  it('has the stream options that the caller chose', async () => {
    const arrived = fakeRouter(() => streamed([completed]))
    const body = { ...BODY, stream: true, stream_options: { include_obfuscation: false } }
    await (await post(RESPONSES, await storedKey(), body)).text()
    expect(arrived[0]?.body).toContain('"stream_options":{"include_obfuscation":false}')
  })

  it.each([
    [{ stream: 1 }, 'stream'],
    [{ stream: 'on' }, 'stream'],
  ])('is not a wish for a stream that only some read so: %j', async (wish, param) => {
    const arrived = fakeRouter(() => Response.json({}))
    const answer = await post(RESPONSES, await storedKey(), { ...BODY, ...wish })
    expect(answer.status).toBe(400)
    expect(await answer.json()).toMatchObject({ error: { type: 'invalid_request_error', param } })
    expect(arrived).toEqual([])
  })

  it('leaves request_id to the other dialects, where it names nothing', async () => {
    const arrived = fakeRouter(() => Response.json({}))
    await (await post('/v1/completions', await storedKey(), { model: 'tiny', prompt: '', request_id: 'mine' })).text()
    expect(arrived[0]?.body).toContain('"request_id":"mine"')
  })

  it('keeps a session as chats do', async () => {
    const arrived = fakeRouter(() => Response.json({}, { headers: { [HEADER.pin]: 'pin-A' } }))
    const key = await storedKey()
    const first = await post(RESPONSES, key, BODY)
    await (await post(RESPONSES, key, BODY, { 'x-session-token': first.headers.get('x-session-token') ?? '' })).text()
    expect(arrived[1]?.request.headers.get(HEADER.pin)).toBe('pin-A')
  })
})

describe('an answer', () => {
  it('of a real engine passes unchanged, and its usage is read', async () => {
    fakeRouter(() => Response.json(recorded.response))
    const answer = await post(RESPONSES, await storedKey(), BODY)
    expect(await answer.json()).toEqual(recorded.response)
    expect(lastLogged()).toMatchObject({ outcome: 'complete', promptTokens: 10, completionTokens: 6, cachedTokens: 0 })
  })

  it('streamed by a real engine passes unchanged, and its usage is read', async () => {
    expect(await stream([recorded.stream])).toBe(recorded.stream)
    expect(lastLogged()).toMatchObject({ outcome: 'complete', promptTokens: 10, completionTokens: 4, cachedTokens: 0 })
  })

  it.each([
    ['response.completed', 'complete'],
    ['response.incomplete', 'complete'],
    ['response.failed', 'upstream_error'],
  ])('that ends with %s is %s, and nothing is added', async (type, outcome) => {
    const whole = created + delta + named(type, { response: { id: ID, usage: USAGE, error: null } })
    // Cut inside an event and inside a character.
    expect(
      await stream([whole.slice(0, 30), whole.slice(30, whole.indexOf('é')), whole.slice(whole.indexOf('é'))]),
    ).toBe(whole)
    expect(lastLogged()).toMatchObject({ outcome, promptTokens: 10, completionTokens: 4, cachedTokens: 3 })
  })

  it.each([
    ['a named error', named('error', { code: 'x', message: 'gone', param: null })],
    ['an error member', 'data: {"error":{"message":"gone","code":500}}\n\n'],
  ])('that ends with %s is an error already told', async (_, error) => {
    expect(await stream([created, error])).toBe(created + error)
    expect(lastLogged()).toMatchObject({ outcome: 'upstream_error' })
  })

  it.each([
    ['breaks', [created, delta], 'break', 'upstream_lost'],
    ['breaks inside its last event', [created, completed.slice(0, -2)], 'break', 'upstream_lost'],
    ['ends before its last event', [created, delta], 'close', 'upstream_truncated'],
    ['ends with another dialect’s end', [created, 'data: [DONE]\n\n'], 'close', 'upstream_truncated'],
    [
      'only talks of its end',
      [created, named('response.output_text.delta', { delta: '"type":"response.completed" "error"' })],
      'close',
      'upstream_truncated',
    ],
  ] as const)('that %s is told as cut off', async (_, chunks, end, code) => {
    const text = await stream(chunks, end)
    const last = text.slice(text.lastIndexOf('event: '))
    expect(last).toMatch(/^event: error\ndata: .*\n\n$/)
    expect(JSON.parse(last.slice(last.indexOf('{')))).toMatchObject({ type: 'error', code, error: { code } })
    expect(lastLogged()).toMatchObject({ status: 200, outcome: code })
  })

  it('that repeats long instructions passes, and its usage is read', async () => {
    const response = { id: ID, status: 'completed', instructions: 'x'.repeat(3 * 1024 * 1024), usage: USAGE }
    fakeRouter(() => Response.json(response))
    const answer = await post(RESPONSES, await storedKey(), BODY)
    expect((await answer.text()).length).toBe(JSON.stringify(response).length)
    expect(lastLogged()).toMatchObject({ responseId: ID, promptTokens: 10, completionTokens: 4, cachedTokens: 3 })
  })

  it('whose events repeat long instructions passes', async () => {
    const long = named('response.created', { response: { instructions: 'x'.repeat(3 * 1024 * 1024) } })
    expect((await stream([long, completed])).length).toBe(long.length + completed.length)
    expect(lastLogged()).toMatchObject({ outcome: 'complete' })
  })
})

describe('a stored response', () => {
  async function signedPath(request: Request | undefined, method: string, path: string): Promise<boolean> {
    const signature = parseSignature(request?.headers.get(HEADER.signature) ?? '')
    if (!signature) return false
    const bodyDigest = toHex(new Uint8Array(await crypto.subtle.digest('SHA-256', new Uint8Array())))
    const input = signingInput({ ...signature, method, path, tenant: 'acme', pin: '', bodyDigest })
    const secret = parseKeyRing(env.EDGE_SIGNING_KEYS).secrets.get('new') ?? ''
    return signature.mac === toBase64url(await hmacSha256(secret, input))
  }

  it.each([
    ['', ''],
    ['?stream=true&starting_after=7', '?stream=true&starting_after=7'],
    ['?starting_after=7&stream=true&include[]=x&x=1', '?stream=true&starting_after=7'],
    ['?stream=%26a%3Db%0a', '?stream=%26a%3Db%0A'],
  ])('is retrieved with the query %j as %j, signed', async (query, expected) => {
    const arrived = fakeRouter(() => Response.json({ id: ID, usage: USAGE }))
    const answer = await call(`${RESPONSES}/${ID}${query}`, { headers: { 'x-api-key': await storedKey() } })
    expect(await answer.json()).toEqual({ id: ID, usage: USAGE })
    const path = `${RESPONSES}/${ID}${expected}`
    expect(arrived[0]?.url).toBe(`http://127.0.0.1:8000${path}`)
    expect(arrived[0]?.request.method).toBe('GET')
    expect(await signedPath(arrived[0]?.request, 'GET', path)).toBe(true)
  })

  it('streams back', async () => {
    fakeRouter(() => streamed([delta, completed]))
    const headers = { 'x-api-key': await storedKey() }
    const answer = await call(`${RESPONSES}/${ID}?stream=true`, { headers })
    expect(answer.headers.get('cache-control')).toBe('no-cache, no-transform')
    expect(await answer.text()).toBe(delta + completed)
    fakeRouter(() => streamed([delta]))
    expect(await (await call(`${RESPONSES}/${ID}?stream=true`, { headers })).text()).toContain('upstream_truncated')
  })

  describe('tells its usage', () => {
    const response = (status: string, more: object = {}) => ({ id: ID, status, usage: USAGE, ...more })

    async function logOf(made: object, path = `${RESPONSES}/${ID}`, method = 'GET'): Promise<Record<string, unknown>> {
      const type = `response.${(made as { status: string }).status}`
      const streams = path.endsWith('stream=true')
      fakeRouter(() => (streams ? streamed([named(type, { response: made })]) : Response.json(made)))
      await (await call(path, { method, headers: { 'x-api-key': await storedKey() } })).text()
      return lastLogged()
    }

    it('when it is made, and is not counted again when it is fetched', async () => {
      fakeRouter(() => Response.json(response('completed', { background: false })))
      await (await post(RESPONSES, await storedKey(), BODY)).text()
      expect(lastLogged()).toMatchObject({ responseId: ID, promptTokens: 10 })
      for (const query of ['', '?stream=true']) {
        const line = await logOf(response('completed', { background: false }), `${RESPONSES}/${ID}${query}`)
        expect(line).toMatchObject({ outcome: 'complete', responseId: ID })
        expect(line).not.toHaveProperty('promptTokens')
      }
    })

    it('when it is fetched, where it was made in the background: its first answer came before there was any', async () => {
      fakeRouter(() => Response.json({ id: ID, status: 'queued', background: true, usage: null }))
      await (await post(RESPONSES, await storedKey(), { ...BODY, background: true })).text()
      expect(lastLogged()).toMatchObject({ model: 'tiny', responseId: ID })
      expect(lastLogged()).not.toHaveProperty('promptTokens')
      for (const query of ['', '?stream=true']) {
        for (const status of ['completed', 'incomplete', 'failed']) {
          const line = await logOf(response(status, { background: true }), `${RESPONSES}/${ID}${query}`)
          expect(line).toMatchObject({ responseId: ID, promptTokens: 10, completionTokens: 4, cachedTokens: 3 })
        }
      }
    })

    it('when it is cancelled in the background', async () => {
      const line = await logOf(response('cancelled', { background: true }), `${RESPONSES}/${ID}/cancel`, 'POST')
      expect(line).toMatchObject({ responseId: ID, promptTokens: 10 })
    })

    it.each(['queued', 'in_progress'])('only when it is over: not %s', async (status) => {
      expect(await logOf(response(status, { background: true }))).not.toHaveProperty('promptTokens')
    })

    it('with the same id in the stream of its making and when it is fetched: whoever sums up counts it once', async () => {
      const made = response('completed', { background: true })
      await stream([created, named('response.completed', { response: made })])
      const [first, again] = [lastLogged(), await logOf(made)]
      expect([first.responseId, again.responseId]).toEqual([ID, ID])
      expect([first.promptTokens, again.promptTokens]).toEqual([10, 10])
    })
  })

  it('is cancelled, whatever the body', async () => {
    const arrived = fakeRouter(() => Response.json({ id: ID, status: 'cancelled' }))
    const headers = { 'x-api-key': await storedKey() }
    const path = `${RESPONSES}/${ID}/cancel`
    for (const body of [null, '{"kv_transfer_params":{}}']) {
      const answer = await call(`${path}?a=1`, { method: 'POST', headers, body })
      expect(await answer.json()).toEqual({ id: ID, status: 'cancelled' })
    }
    expect(arrived.map(({ body }) => body)).toEqual(['', ''])
    expect(arrived.map(({ url }) => url)).toEqual(Array(2).fill(`http://127.0.0.1:8000${path}`))
    expect(await signedPath(arrived[0]?.request, 'POST', path)).toBe(true)
  })

  it('needs a key, and is looked for under its tenant', async () => {
    const arrived = fakeRouter(() => Response.json({}))
    expect((await call(`${RESPONSES}/${ID}`)).status).toBe(401)
    expect((await call(`${RESPONSES}/${ID}/cancel`, { method: 'POST' })).status).toBe(401)
    await call(`${RESPONSES}/${ID}`, { headers: { 'x-api-key': await storedKey({ tenant: 'globex' }) } })
    expect(arrived.map(({ request }) => request.headers.get(HEADER.tenant))).toEqual(['globex'])
  })

  it.each(['nonsense', 'resp_', 'resp_%2e%2e', `resp_${'x'.repeat(200)}`])('is not found as %j', async (id) => {
    const arrived = fakeRouter(() => Response.json({}))
    const answer = await call(`${RESPONSES}/${id}`, { headers: { 'x-api-key': await storedKey() } })
    expect(answer.status).toBe(404)
    expect(await answer.json()).toMatchObject({
      error: { type: 'invalid_request_error', code: 'response_not_found', param: null },
    })
    expect(arrived).toEqual([])
  })

  it('that the router does not find is told in its words', async () => {
    const body = { error: { message: 'gone', type: 'invalid_request_error', param: null, code: 'response_not_found' } }
    fakeRouter(() => Response.json(body, { status: 404, headers: { [HEADER.reason]: 'response-not-found' } }))
    const answer = await call(`${RESPONSES}/${ID}`, { headers: { 'x-api-key': await storedKey() } })
    expect(answer.status).toBe(404)
    expect(answer.headers.get(HEADER.reason)).toBe('response-not-found')
    expect(await answer.json()).toEqual(body)
  })

  it('lets the router’s answer go where only its head was asked for', async () => {
    let cancelled = false
    fakeRouter(({ request }) => {
      expect(request.method).toBe('GET')
      request.signal.addEventListener('abort', () => {
        cancelled = true
      })
      return streamed([delta, completed])
    })
    const headers = { 'x-api-key': await storedKey() }
    const answer = await call(`${RESPONSES}/${ID}?stream=true`, { method: 'HEAD', headers })
    expect(answer.status).toBe(200)
    expect(await answer.text()).toBe('')
    expect(cancelled).toBe(true)
    expect(logged).toHaveLength(1)
  })

  it.each([
    ['PUT', RESPONSES, 'POST'],
    ['DELETE', `${RESPONSES}/${ID}`, 'GET, HEAD'],
    ['GET', `${RESPONSES}/${ID}/cancel`, 'POST'],
  ])('is not touched by %s %s', async (method, path, allow) => {
    const answer = await call(path, { method })
    expect(answer.status).toBe(405)
    expect(answer.headers.get('allow')).toBe(allow)
  })
})
