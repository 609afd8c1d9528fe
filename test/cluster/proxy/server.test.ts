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
  parse,
  startEngine,
  startRig,
  startStream,
  streamed,
  TOKEN,
  USAGE,
  until,
} from './rig.ts'

const { timeouts: TIMEOUTS, limits: LIMITS } = loadRouterConfig(undefined, { endpoints: ['http://127.0.0.1:1'] })

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
    const { text } = await call(`${rig.url}/v1/messages/batches`, 'POST', '{}', { 'content-type': 'application/json' })
      .answer
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
    for (const id of ['resp_made-up-by-a-caller', 'resp_2']) await fetch(`${rig.url}/v1/responses/${id}`)
    const page = await (await fetch(`${rig.adminUrl}/metrics`)).text()
    expect(page).toContain('warmpath_requests_total{route="/v1/chat/completions",model="m",status="200"} 2')
    expect(page).toContain('warmpath_requests_total{route="/v1/responses/{id}",model="unknown",status="404"} 2')
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
