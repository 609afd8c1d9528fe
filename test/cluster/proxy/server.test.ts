import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import { describe, expect, it } from 'vitest'
import { loadRouterConfig } from '../../../cluster/config.ts'
import { endpointIdOf } from '../../../cluster/endpoints/endpoint.ts'
import {
  answerChat,
  call,
  chat,
  DONE,
  decisionOf,
  type Generation,
  startEngine,
  startRig,
  startStream,
  streamed,
  TOKEN,
  USAGE,
  until,
} from './rig.ts'

const ERROR =
  'data: {"error":{"message":"EngineCore encountered an issue.","type":"InternalServerError","param":null,"code":500}}\n\n'
const { timeouts: TIMEOUTS, limits: LIMITS } = loadRouterConfig(undefined, { endpoints: ['http://127.0.0.1:1'] })

/** An engine that decisions avoid while another is available: its queue is long. */
async function secondBest(script = answerChat) {
  const engine = await startEngine(script)
  engine.metrics = 'vllm:num_requests_running{engine="0"} 0\nvllm:num_requests_waiting{engine="0"} 50\n'
  return engine
}

const parse = (text: string) =>
  JSON.parse(text) as { error: { message: string; type: string; param: unknown; code: unknown } }

describe('a chat through the router', () => {
  it('comes back to the byte, with the id that explains it', async () => {
    const rig = await startRig([await startEngine()])
    const asked = await chat(rig.url, { ...streamed, stream_options: { include_usage: true } }).answer
    expect(asked).toMatchObject({ status: 200, text: `${TOKEN}${USAGE}${DONE}`, whole: true })
    expect(asked.headers['content-type']).toBe('text/event-stream; charset=utf-8')
    const { words, usage } = await decisionOf(rig, asked.headers['x-warmpath-decision'])
    expect(words).toMatch(/chosen {3}127\.0\.0\.1:\d+, by max-score among 1 of 1/)
    expect(words).toMatch(/ended {4}completed after/)
    expect(usage).toEqual({ promptTokens: 5, completionTokens: 1 })
  })

  it('without having asked for usage gets no usage event, though the router reads it', async () => {
    const engine = await startEngine()
    const rig = await startRig([engine])
    const { text, headers } = await chat(rig.url, streamed).answer
    expect(text).toBe(`${TOKEN}${DONE}`)
    expect(JSON.parse(engine.seen[0]?.body ?? '').stream_options).toEqual({ include_usage: true })
    expect((await decisionOf(rig, headers['x-warmpath-decision'])).usage).toMatchObject({ promptTokens: 5 })
  })

  it('unstreamed works too', async () => {
    const rig = await startRig([await startEngine()])
    const { status, text, headers } = await chat(rig.url).answer
    expect([status, JSON.parse(text).object]).toEqual([200, 'chat.completion'])
    expect((await decisionOf(rig, headers['x-warmpath-decision'])).usage).toMatchObject({ promptTokens: 5 })
  })

  it('carries nothing to the engine that could steer it', async () => {
    const engine = await startEngine()
    const rig = await startRig([engine])
    const hostile = {
      'x-gateway-destination-endpoint': '10.0.0.1:80',
      'x-prefiller-host-port': '169.254.169.254:80',
      'x-data-parallel-rank': '7',
      'x-session-token': 'bmFtZXNwYWNlL3BvZA==',
      'x-vllm-priority': '-9',
      'x-warmpath-tenant': 'globex',
      authorization: 'Bearer caller-key',
      cookie: 'a=b',
    }
    const traced = { traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' }
    const { headers } = await chat(
      rig.url,
      { ...streamed, kv_transfer_params: {}, priority: 1 },
      { ...hostile, ...traced },
    ).answer
    const [generation] = engine.seen
    expect(Object.keys(generation?.req.headers ?? {}).sort()).toEqual(
      ['connection', 'content-length', 'content-type', 'host', 'traceparent', 'x-request-id'].sort(),
    )
    // The engine's own logs and answer ids lead back to the decision.
    expect(generation?.req.headers['x-request-id']).toBe(headers['x-warmpath-decision'])
    expect(JSON.parse(generation?.body ?? '')).not.toHaveProperty('kv_transfer_params')
    expect(JSON.parse(generation?.body ?? '')).not.toHaveProperty('priority')
  })

  it('reaches HTTPS engines with their own authority and API key', async () => {
    const dir = new URL('../../fixtures/tls/', import.meta.url)
    const [key, cert] = ['engine.key', 'engine.crt'].map((file) => readFileSync(new URL(file, dir), 'utf8')) as [
      string,
      string,
    ]
    const engine = await startEngine(answerChat, { key, cert, apiKey: 'sk-engine' })
    const endpoint = { id: endpointIdOf(new URL(engine.url)), origin: engine.url, role: 'both', labels: {} } as const
    const trusted = await startRig([engine], { endpoints: [{ ...endpoint, ca: cert, apiKey: 'sk-engine' }] })
    expect((await chat(trusted.url).answer).status).toBe(200)
    const untrusted = await startRig([engine], { endpoints: [{ ...endpoint, apiKey: 'sk-engine' }] })
    expect((await chat(untrusted.url).answer).status).toBe(503)
  })
})

describe('who leaves is not computed for', () => {
  it('in mid-stream: the engine’s connection is closed within 200 ms', async () => {
    const engine = await startEngine(startStream)
    const rig = await startRig([engine])
    const { req, head } = chat(rig.url, streamed)
    const { headers } = await head
    const { socket } = engine.seen[0] as Generation
    const leftAtMs = performance.now()
    req.destroy()
    await once(socket, 'close')
    expect(performance.now() - leftAtMs).toBeLessThan(200)
    await until(async () => (await decisionOf(rig, headers['x-warmpath-decision'])).outcome === 'the caller left')
  })

  it('before the first byte: the router notices while the engine still prefills', async () => {
    const engine = await startEngine(() => undefined)
    const rig = await startRig([engine])
    const { req } = chat(rig.url, streamed)
    await until(() => engine.seen.length === 1)
    const { socket } = engine.seen[0] as Generation
    const leftAtMs = performance.now()
    req.destroy()
    await once(socket, 'close')
    expect(performance.now() - leftAtMs).toBeLessThan(200)
  })

  it('a caller that reads slowly holds the engine back, not our memory', async () => {
    const piece = `data: {"x":"${'y'.repeat(64 * 1024)}"}\n\n`
    let written = 0
    const engine = await startEngine(({ res }) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' })
      const more = (): void => {
        while (written < 64 * 1024 * 1024) {
          written += piece.length
          if (!res.write(piece)) break
        }
      }
      res.on('drain', more)
      more()
    })
    const rig = await startRig([engine])
    const socket = net.connect(rig.port, '127.0.0.1')
    const body = JSON.stringify(streamed)
    socket.write(
      `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    )
    await once(socket, 'readable')
    let before = -1
    await until(async () => {
      const same = written === before
      before = written
      await new Promise((resolve) => setTimeout(resolve, 100))
      return same
    })
    expect(written).toBeLessThan(24 * 1024 * 1024)
    socket.destroy()
  })
})

describe('an engine that fails before it answers', () => {
  it('refused connection: the next best endpoint takes the request', async () => {
    const dying = await startEngine()
    const rig = await startRig([dying, await secondBest()])
    await dying.close()
    const { status, headers } = await chat(rig.url).answer
    expect(status).toBe(200)
    expect((await decisionOf(rig, headers['x-warmpath-decision'])).words).toMatch(
      /sent to .*could not be reached .*\nthen to .*answered/,
    )
  })

  it('503: the next best endpoint, once; when that says 503 too, the caller is told to retry', async () => {
    const full = ({ res }: Generation) =>
      void res.writeHead(503).end('{"error":{"message":"queue is full","code":503}}')
    const engines = [await startEngine(full), await startEngine(full), await secondBest()]
    const rig = await startRig(engines)
    const { status, headers, text } = await chat(rig.url).answer
    expect(status).toBe(503)
    expect(headers).toMatchObject({ 'retry-after': '1', 'x-should-retry': 'true' })
    expect(parse(text).error).toMatchObject({
      message: 'The engine took no request: queue is full',
      code: 'engine_unreachable',
    })
    expect(engines.map(({ seen }) => seen.length)).toEqual([1, 1, 0])
  })

  it('a kept connection that the engine closed under the request: the next best, and nobody is blamed', async () => {
    const closing = await startEngine()
    const rig = await startRig([closing, await secondBest()])
    expect((await chat(rig.url).answer).status).toBe(200)
    closing.script = ({ socket }) => socket.resetAndDestroy()
    const { status, headers } = await chat(rig.url).answer
    expect(status).toBe(200)
    expect((await decisionOf(rig, headers['x-warmpath-decision'])).words).toContain('had closed the connection')
  })

  it('a kept connection that the only engine closed: the same engine is asked again', async () => {
    const only = await startEngine()
    const rig = await startRig([only])
    expect((await chat(rig.url).answer).status).toBe(200)
    only.script = (generation) => {
      only.script = answerChat
      generation.socket.resetAndDestroy()
    }
    expect((await chat(rig.url).answer).status).toBe(200)
  })

  it('a stream that ends without a single event is a 502, not an empty 200', async () => {
    const engine = await startEngine(
      ({ res }) => void res.writeHead(200, { 'content-type': 'text/event-stream' }).end('data: {"cu'),
    )
    const { status, text } = await chat((await startRig([engine])).url, streamed).answer
    expect([status, parse(text).error.code]).toEqual([502, 'engine_failed'])
  })

  it('a reset of a fresh connection is not tried elsewhere: the request may be what killed it', async () => {
    const killed = await startEngine(({ socket }) => socket.resetAndDestroy())
    const other = await secondBest()
    const rig = await startRig([killed, other])
    // The scrape has left one connection that was used before: of several requests at once all but one get a fresh one.
    const answers = await Promise.all([chat(rig.url).answer, chat(rig.url).answer, chat(rig.url).answer])
    const fresh = answers.filter(({ status }) => status === 502)
    expect(fresh.length).toBeGreaterThanOrEqual(1)
    expect(parse(fresh[0]?.text ?? '').error.code).toBe('engine_failed')
    expect(other.seen.length).toBe(answers.length - fresh.length)
  })

  it('one that worked on the request before it reset a kept connection is not followed by another victim', async () => {
    const killed = await startEngine()
    const other = await secondBest()
    const rig = await startRig([killed, other])
    expect((await chat(rig.url).answer).status).toBe(200)
    killed.script = ({ socket }) => setTimeout(() => socket.resetAndDestroy(), 600)
    const { status, headers } = await chat(rig.url).answer
    expect([status, headers['x-should-retry'], other.seen.length]).toEqual([502, 'false', 0])
  })

  it('an error that never ends is not read for ever', async () => {
    const engine = await startEngine(({ res }) => {
      res.writeHead(500, { 'content-type': 'text/plain' })
      const more = () => {
        while (!res.destroyed && res.write('x'.repeat(64 * 1024)));
      }
      res.on('drain', more)
      more()
    })
    const { status, text } = await chat((await startRig([engine])).url).answer
    expect([status, parse(text).error.message]).toEqual([500, 'The engine answered 500.'])
  })

  it('a redirect is not an answer', async () => {
    const engine = await startEngine(({ res }) => void res.writeHead(302, { location: 'http://elsewhere/' }).end())
    expect((await chat((await startRig([engine])).url).answer).status).toBe(502)
  })

  it('an error as the first event becomes the status it should have been', async () => {
    const engine = await startEngine(({ res }) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' })
      res.end(`${ERROR}${DONE}`)
    })
    const { status, text } = await chat((await startRig([engine])).url, streamed).answer
    expect(status).toBe(500)
    expect(parse(text).error.message).toBe('EngineCore encountered an issue.')
  })

  it('its own refusal of our key is not the caller’s 401', async () => {
    const engine = await startEngine(({ res }) => void res.writeHead(401).end('{"error":"Unauthorized"}'))
    const { status, text } = await chat((await startRig([engine])).url).answer
    expect([status, parse(text).error.code]).toEqual([502, 'engine_failed'])
  })

  it('its 400 passes in its own words', async () => {
    const words =
      '{"error":{"message":"max_tokens is too large","type":"BadRequestError","param":"max_tokens","code":400}}'
    const engine = await startEngine(
      ({ res }) => void res.writeHead(400, { 'content-type': 'application/json' }).end(words),
    )
    const { status, text } = await chat((await startRig([engine])).url).answer
    expect([status, text]).toEqual([400, words])
  })

  it('FastAPI’s 404 is told in the caller’s shape', async () => {
    const engine = await startEngine(({ res }) => void res.writeHead(404).end('{"detail":"Not Found"}'))
    const { status, text } = await chat((await startRig([engine])).url).answer
    expect([status, parse(text).error.message]).toEqual([404, 'Not Found'])
  })

  it('no first byte in time is a 504 that clients do not repeat: the prefill may still run', async () => {
    const engine = await startEngine(() => undefined)
    const rig = await startRig([engine], { timeouts: { ...TIMEOUTS, firstByteMs: 50 } })
    const { status, headers } = await chat(rig.url, streamed).answer
    expect([status, headers['x-should-retry']]).toEqual([504, 'false'])
    await once((engine.seen[0] as Generation).socket, 'close')
  })
})

describe('an engine that fails in mid-answer', () => {
  const broken: readonly [string, (generation: Generation) => void, string][] = [
    [
      'dies',
      (generation) => {
        startStream(generation)
        setImmediate(() => generation.socket.resetAndDestroy())
      },
      'upstream_lost',
    ],
    [
      'ends without the terminal event',
      (generation) => {
        startStream(generation)
        generation.res.end()
      },
      'upstream_truncated',
    ],
    [
      'ends inside an event',
      (generation) => {
        startStream(generation)
        generation.res.end('data: {"cut')
      },
      'upstream_truncated',
    ],
    ['falls silent', startStream, 'upstream_timeout'],
  ]
  it.each(broken)('%s: an error event, and no [DONE]', async (_, script, code) => {
    const rig = await startRig([await startEngine(script)], { timeouts: { ...TIMEOUTS, idleMs: 200 } })
    const { status, text, whole } = await chat(rig.url, streamed).answer
    expect([status, whole]).toEqual([200, true])
    expect(text.startsWith(TOKEN)).toBe(true)
    expect(parse(text.slice(TOKEN.length + 'data: '.length)).error.code).toBe(code)
    expect(text).not.toContain('[DONE]')
  })

  it('is noticed by what the engine sends, however the caller spelled "stream": vLLM takes 1 for true', async () => {
    const engine = await startEngine((generation) => {
      startStream(generation)
      generation.res.end()
    })
    const { text } = await chat((await startRig([engine])).url, { ...streamed, stream: 1 }).answer
    expect(text).toContain('upstream_truncated')
  })

  it('an unstreamed answer that is cut does not look whole', async () => {
    const engine = await startEngine(({ res, socket }) => {
      res.writeHead(200, { 'content-type': 'application/json', 'content-length': '1000' })
      res.write('{"id":')
      setImmediate(() => socket.resetAndDestroy())
    })
    expect((await chat((await startRig([engine])).url).answer).whole).toBe(false)
  })

  it('a total longer than allowed is cut, with an error event', async () => {
    const engine = await startEngine((generation) => {
      startStream(generation)
      const timer = setInterval(() => generation.res.write(TOKEN), 10)
      generation.socket.on('close', () => clearInterval(timer))
    })
    const rig = await startRig([engine], { timeouts: { ...TIMEOUTS, totalMs: 150 } })
    expect((await chat(rig.url, streamed).answer).text).toContain('upstream_timeout')
  })
})

describe('a pod that fails again and again', () => {
  it('gets no new request after three failures in a row, until a probe succeeds', async () => {
    const bad = await startEngine(({ socket }) => socket.resetAndDestroy())
    const good = await secondBest()
    const rig = await startRig([bad, good])
    const available = async () => {
      const [first] = (await (await fetch(`${rig.adminUrl}/endpoints`)).json()) as { availability: { state: string } }[]
      return first?.availability.state === 'available'
    }
    await until(async () => {
      await chat(rig.url).answer
      return !(await available())
    })
    const before = good.seen.length
    const { status, headers } = await chat(rig.url).answer
    expect([status, good.seen.length]).toEqual([200, before + 1])
    expect((await decisionOf(rig, headers['x-warmpath-decision'])).words).toMatch(
      /filtered by available: 3 failures in a row/,
    )
    bad.script = answerChat
    await until(available)
    expect(JSON.parse(bad.seen.at(-1)?.body ?? '{}')).toMatchObject({ max_tokens: 1 })
  })
})

describe('a router that is full', () => {
  it('answers 429 with Retry-After, in a shape that the OpenAI client retries', async () => {
    const engine = await startEngine(startStream)
    const rig = await startRig([engine], { limits: { ...LIMITS, inFlight: 1, waiting: 0 } })
    const first = chat(rig.url, streamed)
    await first.head
    const { status, headers, text } = await chat(rig.url).answer
    expect(status).toBe(429)
    expect(headers).toMatchObject({ 'retry-after': '1', 'x-should-retry': 'true', 'x-warmpath-reason': 'overloaded' })
    expect(parse(text).error).toMatchObject({ type: 'rate_limit_error', code: 'overloaded' })
    expect((await decisionOf(rig, headers['x-warmpath-decision'])).words).toContain('refused  overloaded')
    // Nobody has checked yet that the model exists: its name must not become a label.
    expect(await (await fetch(`${rig.adminUrl}/metrics`)).text()).toContain('model="unknown",status="429"} 1')
    first.req.destroy()
  })

  it('counts bodies that are still being sent: slow callers cannot fill the memory before admission sees them', async () => {
    const rig = await startRig([await startEngine()], { limits: { ...LIMITS, bodiesBytes: 1_000 } })
    const slow = net.connect(rig.port, '127.0.0.1')
    slow.write(
      'POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 990\r\n\r\n{',
    )
    await until(async () => (await chat(rig.url).answer).status === 429)
    slow.destroy()
    await until(async () => (await chat(rig.url).answer).status === 200)
  })

  it('lets a caller wait for a place', async () => {
    const engine = await startEngine(startStream)
    const rig = await startRig([engine], { limits: { ...LIMITS, inFlight: 1, waiting: 1 } })
    const first = chat(rig.url, streamed)
    await first.head
    const second = chat(rig.url)
    await until(async () =>
      (await (await fetch(`${rig.adminUrl}/metrics`)).text()).includes('warmpath_requests_waiting 1'),
    )
    engine.script = answerChat
    first.req.destroy()
    expect((await second.answer).status).toBe(200)
  })
})

describe('bad input gets a clear answer in the caller’s shape', () => {
  it.each([
    [
      'an unknown model',
      'POST',
      '/v1/chat/completions',
      '{"model":"nope"}',
      'application/json',
      404,
      'model_not_found',
    ],
    ['no JSON', 'POST', '/v1/chat/completions', '{', 'application/json', 400, null],
    ['another content type', 'POST', '/v1/chat/completions', '{}', 'text/plain', 415, 'unsupported_media_type'],
    ['too much', 'POST', '/v1/chat/completions', 'x'.repeat(2_000), 'application/json', 413, 'request_too_large'],
    [
      'a name that would forge the log',
      'POST',
      '/v1/completions',
      '{"model":"m\\nchosen"}',
      'application/json',
      400,
      null,
    ],
    ['a name without end', 'POST', '/v1/completions', `{"model":"${'m'.repeat(300)}"}`, 'application/json', 400, null],
    ['an unknown route', 'POST', '/v1/chat', '{}', 'application/json', 404, 'unknown_url'],
    ['a wrong method', 'PUT', '/v1/completions', '{}', 'application/json', 405, 'method_not_allowed'],
    ['an unknown model asked for', 'GET', '/v1/models/nope', undefined, '', 404, 'model_not_found'],
  ] as const)('%s', async (_, method, path, body, contentType, status, code) => {
    const rig = await startRig([await startEngine()], { limits: { ...LIMITS, bodyBytes: 1_000 } })
    const answer = await call(rig.url + path, method, body, contentType === '' ? {} : { 'content-type': contentType })
      .answer
    expect([answer.status, parse(answer.text).error.code, answer.headers['x-should-retry']]).toEqual([
      status,
      code,
      'false',
    ])
    expect(answer.headers['x-request-id']).toMatch(/^req_/)
  })

  it('and an id under which why tells it, though nothing was decided', async () => {
    const rig = await startRig([await startEngine()])
    const { headers } = await chat(rig.url, '{').answer
    const { words } = await decisionOf(rig, headers['x-warmpath-decision'])
    expect(words).toMatch(/refused {2}invalid-body: The request body is not a JSON object/)
  })

  it('a head that does not arrive in time is told so, and closed', async () => {
    const rig = await startRig([await startEngine()], { timeouts: { ...TIMEOUTS, headerMs: 100 } })
    const socket = net.connect(rig.port, '127.0.0.1').setEncoding('utf8')
    socket.write('POST /v1/chat/completions HTTP/1.1\r\nhost:')
    const [text] = (await once(socket, 'data')) as [string]
    expect(text).toMatch(/^HTTP\/1\.1 408 Request Timeout\r\n/)
    await once(socket, 'close')
  })

  it('Anthropic’s clients read errors in Anthropic’s shape', async () => {
    const rig = await startRig([await startEngine()])
    const { text } = await call(`${rig.url}/v1/messages`, 'POST', '{}', { 'content-type': 'application/json' }).answer
    expect(JSON.parse(text)).toMatchObject({ type: 'error', error: { type: 'not_found_error' } })
  })

  it('what is not HTTP', async () => {
    const rig = await startRig([await startEngine()])
    const socket = net.connect(rig.port, '127.0.0.1').setEncoding('utf8')
    socket.write('BLAH\r\n\r\n')
    const [text] = (await once(socket, 'data')) as [string]
    expect(text).toMatch(/^HTTP\/1\.1 400 Bad Request\r\n/)
    expect(text).toContain('"type":"invalid_request_error"')
  })
})

describe('what is no request', () => {
  it('never stands in the middle of somebody’s answer', async () => {
    const engine = await startEngine(startStream)
    const rig = await startRig([engine])
    const socket = net.connect(rig.port, '127.0.0.1').setEncoding('utf8')
    const body = JSON.stringify(streamed)
    socket.write(
      `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    )
    let text = ''
    socket.on('data', (piece: string) => {
      text += piece
    })
    await until(() => text.includes(TOKEN.trim()))
    socket.write('GARBAGE\r\n\r\n')
    await once(socket, 'close')
    expect(text).not.toContain('400 Bad Request')
  })

  it('is told off and closed, though its caller never closes', async () => {
    const rig = await startRig([await startEngine()])
    const socket = net.connect({ port: rig.port, host: '127.0.0.1', allowHalfOpen: true })
    socket.on('data', () => undefined)
    socket.write('BLAH\r\n\r\n')
    // The router sees its own half closed by the peer's reset: writing on shows it here.
    const poke = setInterval(() => socket.write('x'), 50)
    const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException]
    clearInterval(poke)
    expect(['ECONNRESET', 'EPIPE']).toContain(error.code)
  })

  it('cannot end the admin door, and with it the router', async () => {
    const rig = await startRig([await startEngine()])
    const socket = net.connect(rig.adminPort, '127.0.0.1').setEncoding('utf8')
    socket.write('GET // HTTP/1.1\r\nhost: x\r\n\r\n')
    const [text] = (await once(socket, 'data')) as [string]
    expect(text).toMatch(/^HTTP\/1\.1 400 /)
    socket.destroy()
    expect((await chat(rig.url).answer).status).toBe(200)
  })
})

describe('operation', () => {
  it('lists the models that the engines serve', async () => {
    const rig = await startRig([await startEngine(), await startEngine()])
    const { text } = await call(`${rig.url}/v1/models`, 'GET').answer
    expect(JSON.parse(text)).toEqual({ object: 'list', data: [{ id: 'm', object: 'model', owned_by: 'vllm' }] })
  })

  it('drains: what is in flight finishes, what is new is refused, then the port is free', async () => {
    const engine = await startEngine(startStream)
    const rig = await startRig([engine])
    expect((await call(`${rig.url}/readyz`, 'GET').answer).status).toBe(200)
    const running = chat(rig.url, streamed)
    await running.head
    const closed = rig.close({ drainNoticeMs: 0, drainMs: 10_000 })
    await expect(chat(rig.url).head).rejects.toThrow(/ECONNRE(FUSED|SET)/)
    ;(engine.seen[0] as Generation).res.end(DONE)
    expect((await running.answer).text).toBe(`${TOKEN}${DONE}`)
    await closed
  })

  it('drains at once when nothing is in flight, whatever spare connections a load balancer keeps', async () => {
    const rig = await startRig([await startEngine()])
    const spare = net.connect(rig.port, '127.0.0.1')
    await once(spare, 'connect')
    await chat(rig.url).answer
    const closed = once(spare, 'close')
    await rig.close({ drainNoticeMs: 0, drainMs: 60_000 })
    await closed
  })

  it('its metrics name routes, models and statuses, and never what a caller made up', async () => {
    const rig = await startRig([await startEngine()])
    await chat(rig.url, streamed).answer
    await chat(rig.url, { model: 'made-up-by-a-caller' }).answer
    await chat(rig.url).answer
    const page = await (await fetch(`${rig.adminUrl}/metrics`)).text()
    expect(page).toContain('warmpath_requests_total{route="/v1/chat/completions",model="m",status="200"} 2')
    expect(page).toContain('warmpath_time_to_first_token_seconds_count 1')
    expect(page).toContain('warmpath_decision_seconds_count 3')
    expect(page).toMatch(/warmpath_scrape_age_seconds\{endpoint="127\.0\.0\.1:\d+"\}/)
    expect(page).toContain('warmpath_inter_token_latency_seconds_count 0')
    expect(page).not.toContain('made-up-by-a-caller')
  })

  it('keeps idle connections to engines under the 5 s after which vLLM closes them', async () => {
    const engine = await startEngine()
    const rig = await startRig([engine])
    // Two at once need two connections; the monitor's scrapes keep only one of them busy.
    await Promise.all([chat(rig.url).answer, chat(rig.url).answer, chat(rig.url).answer])
    const doneAtMs = performance.now()
    await Promise.race(engine.seen.map(({ socket }) => once(socket, 'close')))
    expect(performance.now() - doneAtMs).toBeLessThan(5_000)
  })
})
