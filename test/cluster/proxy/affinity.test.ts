import { createHash, createHmac } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { loadRouterConfig } from '../../../cluster/config.ts'
import { HEADER } from '../../../shared/headers.ts'
import { formatSignature, parseKeyRing, signingInput } from '../../../shared/signature.ts'
import {
  call,
  chat,
  decisionOf,
  type Generation,
  parse,
  type ScriptedEngine,
  startEngine,
  startRig,
  until,
} from './rig.ts'

const { limits: LIMITS } = loadRouterConfig(undefined, { endpoints: ['http://127.0.0.1:1'] })
const SECRET = 's'.repeat(32)
const edgeKeys = parseKeyRing(`k1:${SECRET}`)
let nonces = 0

/** What the edge would send. */
function signed(tenant: string, body: string, pin = '', method = 'POST', path = '/v1/chat/completions') {
  const timestampSeconds = Math.floor(Date.now() / 1_000)
  const nonce = `nonce-${String(nonces++).padStart(16, '0')}`
  const bodyDigest = createHash('sha256').update(body).digest('hex')
  const input = signingInput({ method, path, timestampSeconds, nonce, tenant, pin, bodyDigest })
  const mac = createHmac('sha256', SECRET).update(input).digest('base64url')
  return {
    [HEADER.tenant]: tenant,
    [HEADER.signature]: formatSignature({ keyId: 'k1', timestampSeconds, nonce, mac }),
    ...(pin === '' ? {} : { [HEADER.pin]: pin }),
  }
}

const CHAT = JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'hi' }] })

function servedBy(engines: readonly ScriptedEngine[]): number {
  const index = engines.findIndex(({ seen }) => seen.length > 0)
  for (const { seen } of engines) seen.length = 0
  return index
}

describe('a session without the edge', () => {
  it('stays on its pod by x-session-id, where the next turn’s prefix is', async () => {
    const engines = [await startEngine(), await startEngine(), await startEngine()]
    const rig = await startRig(engines)
    await chat(rig.url, CHAT, { 'x-session-id': 's1' }).answer
    const first = servedBy(engines)
    for (let turn = 0; turn < 8; turn++) {
      await chat(rig.url, CHAT, { 'x-session-id': 's1' }).answer
      expect(servedBy(engines)).toBe(first)
    }
  })
  it('is found by prompt_cache_key too, and why tells what named it', async () => {
    const engines = [await startEngine(), await startEngine(), await startEngine()]
    const rig = await startRig(engines)
    const body = { model: 'm', messages: [], prompt_cache_key: 'k' }
    await chat(rig.url, body).answer
    const first = servedBy(engines)
    const { headers } = await chat(rig.url, body).answer
    expect(servedBy(engines)).toBe(first)
    const { words } = await decisionOf(rig, headers[HEADER.decision])
    expect(words).toContain('session  by prompt_cache_key: stays with its endpoint')
  })
  it('of one caller is not another’s: equal ids under two Authorization headers are two sessions', async () => {
    const engines = [await startEngine()]
    const rig = await startRig(engines)
    await chat(rig.url, CHAT, { 'x-session-id': 's1', authorization: 'Bearer a' }).answer
    const { headers } = await chat(rig.url, CHAT, { 'x-session-id': 's1', authorization: 'Bearer b' }).answer
    const { words } = await decisionOf(rig, headers[HEADER.decision])
    expect(words).toContain('not seen before')
  })
  it('moves to the next pod when its own is gone, without an error, and stays there', async () => {
    const engines = [await startEngine(), await startEngine()]
    const rig = await startRig(engines)
    await chat(rig.url, CHAT, { 'x-session-id': 's1' }).answer
    const first = servedBy(engines)
    await (engines[first] as ScriptedEngine).close()
    for (let turn = 0; turn < 4; turn++) {
      const { status } = await chat(rig.url, CHAT, { 'x-session-id': 's1' }).answer
      expect(status).toBe(200)
      expect(servedBy(engines)).toBe(1 - first)
    }
  })
})

describe('a session of the edge', () => {
  it('gets a pin with the answer’s head and goes where it points; strangers get none', async () => {
    const engines = [await startEngine(), await startEngine(), await startEngine()]
    const rig = await startRig(engines, { edgeKeys, allowUnsigned: true })
    const { headers } = await chat(rig.url, CHAT, signed('acme', CHAT)).answer
    const first = servedBy(engines)
    const pin = String(headers[HEADER.pin])
    expect(pin).toMatch(/^[A-Za-z0-9_-]{16}$/)
    for (let turn = 0; turn < 8; turn++) {
      const again = await chat(rig.url, CHAT, signed('acme', CHAT, pin)).answer
      expect(again.headers[HEADER.pin]).toBe(pin)
      expect(servedBy(engines)).toBe(first)
    }
    const stranger = await chat(rig.url, CHAT, { [HEADER.pin]: pin }).answer
    expect(stranger.headers[HEADER.pin]).toBeUndefined()
    const { words } = await decisionOf(rig, stranger.headers[HEADER.decision])
    expect(words).not.toContain('session')
  })
  it('with a pin of nobody is placed like a new one', async () => {
    const rig = await startRig([await startEngine()], { edgeKeys })
    const { status } = await chat(rig.url, CHAT, signed('acme', CHAT, 'AAAAAAAAAAAAAAAA')).answer
    expect(status).toBe(200)
  })
})

describe('a stored response', () => {
  const path = '/v1/responses'
  const json = { 'content-type': 'application/json' }

  /** An engine that stores a response under the id it was told. */
  async function startStoring(): Promise<ScriptedEngine> {
    const stored = new Map<string, string>()
    return startEngine(({ req, res, body }) => {
      if (req.method === 'GET') {
        const found = stored.get(String(req.url).split('/').at(-1) as string)
        res.writeHead(found ? 200 : 404, json).end(found ?? '{"error":{"message":"no","code":404}}')
        return
      }
      const { request_id } = JSON.parse(body) as { request_id: string }
      const usage = { input_tokens: 5, output_tokens: 1, input_tokens_details: { cached_tokens: 0 } }
      const answer = JSON.stringify({ id: request_id, object: 'response', usage })
      stored.set(request_id, answer)
      res.writeHead(200, json).end(answer)
    })
  }

  async function respond(url: string, more: object = {}, headers = {}) {
    const body = JSON.stringify({ model: 'm', input: 'hi', request_id: 'resp_mine', ...more })
    return call(`${url}${path}`, 'POST', body, { ...json, ...headers }).answer
  }

  it('is continued and fetched at the engine that made it, and nowhere else', async () => {
    const engines = [await startStoring(), await startStoring(), await startStoring()]
    const rig = await startRig(engines)
    for (let round = 0; round < 4; round++) {
      const { id } = JSON.parse((await respond(rig.url)).text) as { id: string }
      expect(id).toMatch(/^resp_/)
      expect(id).not.toBe('resp_mine')
      const first = servedBy(engines)
      expect((await respond(rig.url, { previous_response_id: id })).status).toBe(200)
      expect(servedBy(engines)).toBe(first)
      const fetched = await call(`${rig.url}${path}/${id}`, 'GET').answer
      expect(JSON.parse(fetched.text)).toMatchObject({ id })
      expect(servedBy(engines)).toBe(first)
    }
  })
  it('is a clear 404 for another tenant, for an id of nobody, and when its engine is gone', async () => {
    const engines = [await startStoring(), await startEngine()]
    const rig = await startRig([engines[0] as ScriptedEngine], {})
    const { id } = JSON.parse((await respond(rig.url, {}, { authorization: 'Bearer a' })).text) as { id: string }
    const foreign = await respond(rig.url, { previous_response_id: id }, { authorization: 'Bearer b' })
    expect(foreign.status).toBe(404)
    expect(parse(foreign.text).error).toMatchObject({ code: 'response_not_found', param: 'previous_response_id' })
    expect((await call(`${rig.url}${path}/${id}`, 'GET').answer).status).toBe(404)
    expect((await call(`${rig.url}${path}/resp_${'x'.repeat(38)}`, 'GET').answer).status).toBe(404)
    expect((await respond(rig.url, { previous_response_id: 'resp_nobody' })).status).toBe(404)
  })
  it('answers 404 at once when its engine has ended, and the words say what to send instead', async () => {
    const { rig, engine, id } = await storedAmongTwo()
    await engine.close()
    const continued = await respond(rig.url, { previous_response_id: id })
    expect(continued.status).toBe(404)
    expect(parse(continued.text).error.message).toContain('send the whole conversation')
    const fetched = await call(`${rig.url}${path}/${id}`, 'GET').answer
    expect(parse(fetched.text).error).toMatchObject({ code: 'response_not_found', param: 'response_id' })
  })
  it('is not said to be lost while its engine is only ejected: clients try again', async () => {
    const { rig, engine, id } = await storedAmongTwo()
    const serve = engine.script
    engine.script = ({ res }) => void res.writeHead(503, json).end('{"error":{"message":"busy"}}')
    for (let failures = 0; failures < 3; failures++) await respond(rig.url, { previous_response_id: id })
    const asked = () => [respond(rig.url, { previous_response_id: id }), call(`${rig.url}${path}/${id}`, 'GET').answer]
    for (const { status, headers } of await Promise.all(asked())) {
      expect(status).toBe(503)
      expect(headers['retry-after']).toBeDefined()
    }
    engine.script = serve
    await until(async () => (await Promise.all(asked())).every(({ status }) => status === 200))
  })
  it('is fetched within the limits of admission, and counts among the requests in flight', async () => {
    const engine = await startStoring()
    const rig = await startRig([engine], { limits: { ...LIMITS, inFlight: 1, waiting: 0 } })
    const { id } = JSON.parse((await respond(rig.url)).text) as { id: string }
    const held: Generation[] = []
    engine.script = (generation) => void held.push(generation)
    const first = call(`${rig.url}${path}/${id}`, 'GET')
    await until(() => held.length === 1)
    expect((await call(`${rig.url}${path}/${id}`, 'GET').answer).status).toBe(429)
    held[0]?.res.writeHead(200, json).end('{}')
    expect((await first.answer).status).toBe(200)
    const [{ lastColdAtMs }] = (await (await fetch(`${rig.adminUrl}/endpoints`)).json()) as [{ lastColdAtMs: number }]
    held.length = 0
    const again = call(`${rig.url}${path}/${id}`, 'GET')
    await until(() => held.length === 1)
    held[0]?.res.writeHead(200, json).end('{}')
    expect((await again.answer).status).toBe(200)
    const [after] = (await (await fetch(`${rig.adminUrl}/endpoints`)).json()) as [{ lastColdAtMs: number }]
    expect(after.lastColdAtMs, 'no cold prompt was sent').toBe(lastColdAtMs)
  })

  /** A response that lies at the first of two engines. */
  async function storedAmongTwo() {
    const engine = await startStoring()
    const rig = await startRig([engine, await startEngine()])
    for (;;) {
      const { text } = await respond(rig.url)
      if (engine.seen.length > 0) return { rig, engine, id: (JSON.parse(text) as { id: string }).id }
    }
  }
})
