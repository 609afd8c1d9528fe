// The router answers from its cache what it may, and nothing else; what comes from there cannot be told from an engine's.
import { describe, expect, it } from 'vitest'
import { scanBody } from '../../../cluster/prompts/body.ts'
import { keyedBody } from '../../../cluster/proxy/cache-step.ts'
import { isInKey } from '../../../shared/cache/key.ts'
import { canonicaliseBody, serialiseBody } from '../../../shared/canonical-body.ts'
import { chat, decisionOf, type Generation, parse, startEngine, startRig, until } from './rig.ts'

const ACME = { authorization: 'Bearer acme' }
const BODY = { model: 'm', temperature: 0, messages: [{ role: 'user', content: 'hi' }] }
const STREAMED = { ...BODY, stream: true, stream_options: { include_usage: true } }
const USAGE = { prompt_tokens: 5, total_tokens: 7, completion_tokens: 2 }

let answers = 0

/** A chat as vLLM answers it, each with a text and an id of its own. */
function answerWhole({ res, body }: Generation): void {
  answers++
  const head = { id: `chatcmpl-${answers}`, created: 1_700_000_000 + answers, model: 'm' }
  if (!/"stream":\s*true/.test(body)) {
    const message = { role: 'assistant', content: `answer ${answers}` }
    const choices = [{ index: 0, message, logprobs: null, finish_reason: 'stop', stop_reason: null }]
    res.writeHead(200, { 'content-type': 'application/json' })
    res.end(JSON.stringify({ ...head, object: 'chat.completion', choices, usage: USAGE }))
    return
  }
  res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
  res.end(`${eventsOf(head, `answer ${answers}`).join('')}data: [DONE]\n\n`)
}

function eventsOf(head: object, text: string): string[] {
  const chunk = (delta: object, finish: string | null = null) => ({
    ...head,
    object: 'chat.completion.chunk',
    choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }],
  })
  const chunks = [
    chunk({ role: 'assistant', content: '' }),
    ...[...text].map((content) => chunk({ content })),
    chunk({}, 'stop'),
    { ...head, object: 'chat.completion.chunk', choices: [], usage: USAGE },
  ]
  return chunks.map((one) => `data: ${JSON.stringify(one)}\n\n`)
}

function textOf(answer: string): string {
  if (answer.startsWith('{')) return JSON.parse(answer).choices[0].message.content
  const deltas = answer.matchAll(/"content":"([^"]*)"/g)
  return [...deltas].map(([, text]) => text).join('')
}

function idOf(answer: string): string {
  return /"id":"([^"]*)"/.exec(answer)?.[1] ?? ''
}

describe('an answer that was given before', () => {
  it.each([
    ['whole, then whole', BODY, BODY],
    ['whole, then as a stream', BODY, STREAMED],
    ['as a stream, then whole', STREAMED, BODY],
    ['as a stream, then as a stream', STREAMED, STREAMED],
  ])('%s', async (_, first, second) => {
    const engine = await startEngine(answerWhole)
    const rig = await startRig([engine])
    const one = await chat(rig.url, first, ACME).answer
    const two = await chat(rig.url, second, ACME).answer
    expect(engine.seen.length).toBe(1)
    expect([one.status, two.status]).toEqual([200, 200])
    expect(textOf(two.text)).toBe(textOf(one.text))
    expect(idOf(two.text)).not.toBe(idOf(one.text))
    expect(idOf(two.text)).toBe(`chatcmpl-${two.headers['x-warmpath-decision']}`)
    expect(two.headers['content-type']).toBe(
      second === STREAMED ? 'text/event-stream; charset=utf-8' : 'application/json',
    )
    expect(one.headers['cache-status']).toBe('warmpath-router; fwd=miss')
    expect(two.headers['cache-status']).toMatch(/^warmpath-router; hit; ttl=\d+; detail=memory$/)
    expect(two.headers.age).toMatch(/^[01]$/)
    expect(two.text).toContain('"total_tokens":7')
    expect(two.text.endsWith('data: [DONE]\n\n')).toBe(second === STREAMED)
  })

  it('tells its usage in a stream to those alone who asked', async () => {
    const engine = await startEngine(answerWhole)
    const rig = await startRig([engine])
    await chat(rig.url, { ...BODY, stream: true }, ACME).answer
    const [without, withIt] = [
      await chat(rig.url, { ...BODY, stream: true }, ACME).answer,
      await chat(rig.url, STREAMED, ACME).answer,
    ]
    expect(engine.seen.length).toBe(1)
    expect(without.text).not.toContain('"usage":{')
    expect(withIt.text).toContain('"usage":{')
  })

  it('is explained: where it came from, and that no engine was asked', async () => {
    const engine = await startEngine(answerWhole)
    const rig = await startRig([engine])
    const first = await chat(rig.url, BODY, ACME).answer
    const { headers } = await chat(rig.url, BODY, ACME).answer
    expect((await decisionOf(rig, first.headers['x-warmpath-decision'])).words).toContain('cache    no answer stored')
    const { words } = await decisionOf(rig, headers['x-warmpath-decision'])
    expect(words).toMatch(/cache {4}answered from this router’s memory, [01] s after it was stored/)
    expect(words).not.toContain('sent to')
    const metrics = await (await fetch(`${rig.adminUrl}/metrics`)).text()
    expect(metrics).toContain('warmpath_response_cache_requests_total{outcome="memory"} 1')
    expect(metrics).toContain('warmpath_response_cache_entries 1')
  })

  it('counts for the same question in other words of JSON, and for no other question', async () => {
    const engine = await startEngine(answerWhole)
    const rig = await startRig([engine])
    await chat(rig.url, BODY, ACME).answer
    const spelled = '{ "messages":[{"role":"user", "content":"h\\u0069"}],"user":"u", "temperature":0, "model":"m" }'
    await chat(rig.url, spelled, ACME).answer
    expect(engine.seen.length).toBe(1)
    const others = [
      { ...BODY, temperature: 0.0001, seed: 1 },
      { ...BODY, max_tokens: 5 },
      { ...BODY, a_parameter_that_is_new: true },
      { ...BODY, messages: [{ content: 'hi', role: 'user' }] },
    ]
    for (const other of others) await chat(rig.url, other, ACME).answer
    expect(engine.seen.length).toBe(1 + others.length)
  })

  it('belongs to those who send the same credentials, and to nobody else', async () => {
    const engine = await startEngine(answerWhole)
    const rig = await startRig([engine])
    await chat(rig.url, BODY, ACME).answer
    await chat(rig.url, BODY, { authorization: 'Bearer other' }).answer
    await chat(rig.url, BODY, { 'x-api-key': 'Bearer other' }).answer
    expect(engine.seen.length).toBe(3)
    for (let turn = 0; turn < 2; turn++) {
      const { headers } = await chat(rig.url, BODY).answer
      expect(headers['cache-status']).toBe('warmpath-router; fwd=bypass; detail=scope')
    }
    expect(engine.seen.length).toBe(5)
  })
})

describe('what a caller says of caches', () => {
  it('no-store, no-cache, max-age and only-if-cached are obeyed', async () => {
    const engine = await startEngine(answerWhole)
    const rig = await startRig([engine])
    const ask = (cacheControl: string, body: object = BODY) =>
      chat(rig.url, body, { ...ACME, 'cache-control': cacheControl }).answer

    const refused = await ask('only-if-cached')
    expect(refused.status).toBe(504)
    expect(refused.headers).toMatchObject({ 'x-warmpath-reason': 'not-cached', 'x-should-retry': 'false' })
    expect(parse(refused.text).error.code).toBe('not_cached')
    expect(engine.seen.length).toBe(0)

    expect((await ask('no-store')).headers['cache-status']).toBe('warmpath-router; fwd=bypass; detail=no-store')
    expect((await ask('only-if-cached')).status).toBe(504)
    const first = await ask('')
    const renewed = await ask('no-cache')
    expect(renewed.headers['cache-status']).toBe('warmpath-router; fwd=request')
    expect(textOf(renewed.text)).not.toBe(textOf(first.text))
    expect(textOf((await ask('only-if-cached')).text)).toBe(textOf(renewed.text))

    const sampled = { ...BODY, temperature: 1 }
    expect((await ask('', sampled)).headers['cache-status']).toContain('detail=sampled')
    const kept = await ask('max-age=60', sampled)
    expect(textOf((await ask('max-age=60', sampled)).text)).toBe(textOf(kept.text))
  })

  it('a cache that is off says so, and keeps nothing', async () => {
    const engine = await startEngine(answerWhole)
    const rig = await startRig([engine], { cache: undefined })
    for (let turn = 0; turn < 2; turn++) {
      const { headers } = await chat(rig.url, BODY, ACME).answer
      expect(headers['cache-status']).toBe('warmpath-router; fwd=bypass; detail=off')
    }
    expect(engine.seen.length).toBe(2)
    const refused = await chat(rig.url, BODY, { ...ACME, 'cache-control': 'only-if-cached' }).answer
    expect([refused.status, engine.seen.length]).toEqual([504, 2])
  })
})

describe('what is not whole is not kept', () => {
  const head = { id: 'chatcmpl-1', created: 1, model: 'm' }
  const stream = ({ res }: Generation, events: readonly string[], end: () => void) => {
    res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
    for (const event of events) res.write(event)
    end()
  }
  it.each<[string, (generation: Generation) => void]>([
    ['a stream without [DONE]', (g) => stream(g, eventsOf(head, 'cut'), () => g.res.end())],
    ['a stream that breaks', (g) => stream(g, eventsOf(head, 'cut'), () => setImmediate(() => g.socket.destroy()))],
    [
      'a stream that ends before its finish reason',
      (g) => stream(g, [...eventsOf(head, 'cut').slice(0, 3), 'data: [DONE]\n\n'], () => g.res.end()),
    ],
    [
      'a stream with an error in it',
      (g) =>
        stream(
          g,
          [...eventsOf(head, 'cut').slice(0, 3), 'data: {"error":{"message":"no"}}\n\n', 'data: [DONE]\n\n'],
          () => g.res.end(),
        ),
    ],
    ['an error', (g) => g.res.writeHead(400, { 'content-type': 'application/json' }).end('{"error":{"message":"no"}}')],
    ['an empty object', (g) => g.res.writeHead(200, { 'content-type': 'application/json' }).end('{}')],
    ['no JSON', (g) => g.res.writeHead(200, { 'content-type': 'application/json' }).end('{"id":"chatcmpl-1"')],
  ])('%s', async (_, broken) => {
    const engine = await startEngine(broken)
    const rig = await startRig([engine])
    await chat(rig.url, STREAMED, ACME).answer
    engine.script = answerWhole
    const { headers, text } = await chat(rig.url, STREAMED, ACME).answer
    expect(headers['cache-status']).toBe('warmpath-router; fwd=miss')
    expect(textOf(text)).toMatch(/^answer/)
  })

  it('an answer whose caller left in the middle', async () => {
    const begun: Generation[] = []
    const engine = await startEngine((generation) => {
      begun.push(generation)
      stream(generation, eventsOf(head, 'cut').slice(0, 3), () => {})
    })
    const rig = await startRig([engine])
    const leaving = chat(rig.url, STREAMED, ACME)
    await leaving.head
    leaving.req.destroy()
    await until(() => begun[0]?.res.destroyed ?? false)
    engine.script = answerWhole
    const { headers } = await chat(rig.url, STREAMED, ACME).answer
    expect(headers['cache-status']).toBe('warmpath-router; fwd=miss')
  })
})

describe('equal questions at once', () => {
  it('are computed once', async () => {
    const held: Generation[] = []
    const engine = await startEngine((generation) => void held.push(generation))
    const rig = await startRig([engine])
    const calls = Array.from({ length: 8 }, (_, index) => chat(rig.url, index % 2 ? BODY : STREAMED, ACME))
    await until(() => held.length > 0)
    answerWhole(held[0] as Generation)
    const given = await Promise.all(calls.map(({ answer }) => answer))
    expect(engine.seen.length).toBe(1)
    expect(new Set(given.map(({ text }) => textOf(text))).size).toBe(1)
    expect(new Set(given.map(({ text }) => idOf(text))).size).toBe(given.length)
    const collapsed = given.filter(({ headers }) => headers['cache-status'] === 'warmpath-router; fwd=miss; collapsed')
    expect(collapsed.length).toBeGreaterThan(0)
  })

  it('go on when the first one leaves', async () => {
    const held: Generation[] = []
    const engine = await startEngine((generation) => void held.push(generation))
    const rig = await startRig([engine])
    const leaving = chat(rig.url, BODY, ACME)
    await until(() => held.length === 1)
    const staying = [chat(rig.url, BODY, ACME), chat(rig.url, BODY, ACME)]
    leaving.req.destroy()
    await until(() => held.length === 2)
    answerWhole(held[1] as Generation)
    for (const { answer } of staying) expect((await answer).status).toBe(200)
    expect(engine.seen.length).toBe(2)
  })
})

it.each([
  ['small', 'hi'],
  ['large', 'hi '.repeat(100_000)],
])('the edge’s bodies and a stranger’s have one key for one question: %s', (_, prompt) => {
  const spelled = `{"temperature":0, "stream":true, "messages":[ {"role":"user","content":"${prompt}"} ], "user":"u", "cache_salt":"s", "model":"m"}`
  const canonical = canonicaliseBody(spelled)
  if (!canonical.ok) throw new Error('not canonical')
  const keyed = (text: string, trusted: boolean) => {
    const source = Buffer.from(text)
    const scan = scanBody(source)
    return scan.ok && keyedBody('chat', source, scan.members, trusted)?.join('')
  }
  const atEdge = serialiseBody(new Map([...canonical.members].filter(([name]) => isInKey('chat', name))))
  expect(keyed(serialiseBody(canonical.members), true)).toBe(atEdge)
  expect(keyed(spelled, false)).toBe(atEdge)
})
