import { describe, expect, it } from 'vitest'
import { prepareEngineRequest } from '../../../cluster/proxy/engine-request.ts'
import { DIALECTS, type Dialect } from '../../../shared/dialect.ts'

function prepare(body: string, trusted = false, dialect: Dialect = 'chat') {
  const prepared = prepareEngineRequest(dialect, Buffer.from(body), trusted)
  if (!prepared.ok) throw new Error(prepared.rejection.message)
  return { ...prepared.request, body: prepared.request.body.toString() }
}

describe('what reaches an engine', () => {
  const controls =
    '"kv_transfer_params":{"do_remote_prefill":true},"ec_transfer_params":{},"cache_salt":"s","priority":-1,"vllm_xargs":{}'

  it('holds no engine control of a stranger: one incomplete kv_transfer_params would kill a pod', () => {
    expect(prepare(`{"model":"m",${controls},"n":1}`).body).toBe('{"model":"m","n":1}')
  })
  it('holds what the edge put there, but never transfer parameters', () => {
    const { body } = prepare(`{"model":"m",${controls},"n":1}`, true)
    expect(JSON.parse(body)).toEqual({ model: 'm', cache_salt: 's', priority: -1, vllm_xargs: {}, n: 1 })
  })
  it.each(Object.keys(DIALECTS) as Dialect[])('in %s too', (dialect) => {
    expect(prepare(`{"model":"m",${controls},"metadata":{"user_id":"u"}}`, false, dialect).body).toBe(
      '{"model":"m","metadata":{"user_id":"u"}}',
    )
  })
  it('finds controls however they are spelled', () => {
    expect(prepare('{"model":"m","\\u006bv_transfer_params":{"a":[{"b":"}"}]}}').body).toBe('{"model":"m"}')
  })
  it('keeps the rest to the byte: 64-bit seeds and the order of a schema survive', () => {
    const body = '{ "seed":9223372036854775807, "model":"m", "tools":[{"b":1,"a":1.0}] }'
    expect(prepare(body).body).toBe(body)
  })
})

describe('usage is always asked for, and withheld from who did not ask', () => {
  const rows: readonly [string, string, { include_usage?: boolean }, boolean][] = [
    ['no options', '{"model":"m","stream":true}', { include_usage: true }, true],
    ['null options', '{"model":"m","stream":true,"stream_options":null}', { include_usage: true }, true],
    [
      'other options',
      '{"model":"m","stream":true,"stream_options":{"x":1}}',
      { x: 1, include_usage: true } as object,
      true,
    ],
    ['asked', '{"model":"m","stream":true,"stream_options":{"include_usage":true}}', { include_usage: true }, false],
    ['declined', '{"model":"m","stream":true,"stream_options":{"include_usage":false}}', { include_usage: true }, true],
  ]
  it.each(rows)('%s', (_, body, options, withheld) => {
    const prepared = prepare(body)
    expect(JSON.parse(prepared.body).stream_options).toEqual(options)
    expect(prepared.withholdUsage).toBe(withheld)
  })
  it('not on an unstreamed request: vLLM refuses stream_options there', () => {
    expect(prepare('{"model":"m","stream":false}')).toMatchObject({
      body: '{"model":"m","stream":false}',
      withholdUsage: false,
    })
  })
})

describe('usage is told unasked elsewhere', () => {
  it.each<[Dialect, string, boolean]>([
    ['responses', '{"model":"m","stream":true}', true],
    ['messages', '{"model":"m","stream":true,"stream_options":"stray"}', true],
    ['embeddings', '{"model":"m","stream":"on","stream_options":{"a":1}}', false],
    ['count-tokens', '{"model":"m","stream":true}', false],
  ])('%s', (dialect, body, stream) => {
    expect(prepare(body, true, dialect)).toMatchObject({ body, stream, withholdUsage: false })
  })
})

describe('a wish that an engine may read otherwise is refused, or its stream would pass without usage', () => {
  const refused: readonly [string, string][] = [
    ['"stream":1', 'stream'],
    ['"stream":"true"', 'stream'],
    ['"stream":"on"', 'stream'],
    ['"stream":true,"stream_options":"x"', 'stream_options'],
    ['"stream":true,"stream_options":[]', 'stream_options'],
    ['"stream":true,"stream_options":{"include_usage":true,"include_usage":0}', 'stream_options'],
    ['"stream":true,"stream_options":{"include_usage":0}', 'stream_options.include_usage'],
    ['"stream":true,"stream_options":{"include_usage":"false"}', 'stream_options.include_usage'],
  ]
  it.each(refused)('%s', (members, param) => {
    for (const dialect of ['chat', 'completions', 'responses', 'messages'] as const) {
      if (param !== 'stream' && (dialect === 'responses' || dialect === 'messages')) continue
      for (const trusted of [true, false]) {
        expect(prepareEngineRequest(dialect, Buffer.from(`{"model":"m",${members}}`), trusted)).toMatchObject({
          ok: false,
          rejection: { reason: 'invalid-body', param },
        })
      }
    }
  })
})

describe('a body that cannot be routed is a clear 400', () => {
  it.each(['', '[]', '"x"', '{"model":"m"', '{"model":"a","model":"b"}', '{}', '{"model":7}', '{"model":""}'])(
    '%s',
    (body) => {
      const prepared = prepareEngineRequest('chat', Buffer.from(body), false)
      expect(prepared).toMatchObject({ ok: false, rejection: { reason: 'invalid-body' } })
    },
  )
})
