// Engines that refuse, die, fall silent or lie: what the caller gets, and where the request goes next.
import { once } from 'node:events'
import { describe, expect, it } from 'vitest'
import { loadRouterConfig } from '../../../cluster/config.ts'
import {
  answerChat,
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
  until,
} from './rig.ts'

const ERROR =
  'data: {"error":{"message":"EngineCore encountered an issue.","type":"InternalServerError","param":null,"code":500}}\n\n'
const { timeouts: TIMEOUTS } = loadRouterConfig(undefined, { endpoints: ['http://127.0.0.1:1'] })

/** An engine that decisions avoid while another is available: its queue is long. */
async function secondBest(script = answerChat) {
  const engine = await startEngine(script)
  engine.metrics = 'vllm:num_requests_running{engine="0"} 0\nvllm:num_requests_waiting{engine="0"} 50\n'
  return engine
}

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

  it('is noticed by what the engine sends, even where the caller asked for no stream', async () => {
    const engine = await startEngine((generation) => {
      startStream(generation)
      generation.res.end()
    })
    const { text } = await chat((await startRig([engine])).url, { ...streamed, stream: false }).answer
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
