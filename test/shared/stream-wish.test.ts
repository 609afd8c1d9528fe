import { describe, expect, it } from 'vitest'
import { readStreamWish } from '../../shared/stream-wish.ts'

const ASKING = '{"include_usage":true}'

describe('a wish with one reading', () => {
  it.each([
    ['nothing said', undefined, undefined, { stream: false }],
    ['null for both', 'null', 'null', { stream: false }],
    ['no stream', 'false', undefined, { stream: false }],
    ['no stream, with options', 'false', '{"x":1}', { stream: false }],
    ['a stream', 'true', undefined, { stream: true, askUsageBy: ASKING }],
    ['usage asked for', 'true', '{"include_usage":true}', { stream: true }],
    ['usage declined', 'true', '{"include_usage":false}', { stream: true, askUsageBy: ASKING }],
    ['usage null', 'true', '{"include_usage":null}', { stream: true, askUsageBy: ASKING }],
    [
      'other options, kept as written',
      'true',
      '{ "x" : [1.0, 9007199254740993], "include_\\u0075sage": false }',
      { stream: true, askUsageBy: '{"include_usage":true,"x":[1.0,9007199254740993]}' },
    ],
  ])('%s', (_, stream, options, expected) => {
    for (const dialect of ['chat', 'completions'] as const) {
      expect(readStreamWish(dialect, stream, options)).toEqual({ ok: true, ...expected })
    }
  })

  it('needs no options where the usage is told unasked: a stray member is left to the engine', () => {
    for (const dialect of ['responses', 'messages'] as const) {
      expect(readStreamWish(dialect, 'true', '"x"')).toEqual({ ok: true, stream: true })
    }
  })

  it('is none where nothing streams', () => {
    for (const dialect of ['embeddings', 'count-tokens'] as const) {
      expect(readStreamWish(dialect, '"on"', '{}')).toEqual({ ok: true, stream: false })
    }
  })
})

describe('what an engine may read otherwise is refused by its name', () => {
  // All but the last three are true to an engine's lax booleans, or false.
  const lax = ['1', '0', '1.0', '"true"', '"on"', '"yes"', '"t"', '"1"', '"false"', '""', '{}', '[]']

  it.each(lax)('stream: %s', (stream) => {
    for (const dialect of ['chat', 'completions', 'responses', 'messages'] as const) {
      expect(readStreamWish(dialect, stream)).toEqual({
        ok: false,
        rejection: { reason: 'invalid-body', message: 'stream must be true or false', param: 'stream' },
      })
    }
  })

  it.each(lax)('include_usage: %s, whether it streams or not', (value) => {
    for (const stream of ['true', 'false', undefined]) {
      expect(readStreamWish('chat', stream, `{"x":1,"include_usage":${value}}`)).toMatchObject({
        ok: false,
        rejection: { reason: 'invalid-body', param: 'stream_options.include_usage' },
      })
    }
  })

  it.each([
    '"yes"',
    '[]',
    '1',
    'true',
    '{"include_usage":true,"include_usage":0}',
    '{"include_usage":true,"include_\\u0075sage":false}',
    '{"include_usage":',
  ])('stream_options: %s', (options) => {
    expect(readStreamWish('chat', 'true', options)).toMatchObject({
      ok: false,
      rejection: { reason: 'invalid-body', param: 'stream_options' },
    })
  })
})
