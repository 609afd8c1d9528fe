// The comparison itself: it has to see what would break a client, and nothing that is only another model's words.
import { describe, expect, it } from 'vitest'
import { expectSame } from './compare.ts'
import type { Answer } from './exchange.ts'
import type { ExchangeRow } from './exchanges.ts'

const HEADERS = { server: 'uvicorn', 'content-type': 'application/json', 'x-request-id': '0123456789abcdef'.repeat(2) }
const row = (more: Partial<ExchangeRow> = {}) =>
  ({ request: { headers: {} }, events: 'each', isOfUnion: false, isCutByWords: false, ...more }) as ExchangeRow
const answer = (json: unknown, more: Partial<Answer> = {}): Answer => ({ status: 200, headers: HEADERS, json, ...more })
const stream = (...bodies: readonly object[]): Answer => {
  const text = bodies.map((body) => `data: ${JSON.stringify(body)}\n\n`).join('')
  return { status: 200, headers: HEADERS, stream: `${text}data: [DONE]\n\n` }
}

const BODY = { id: 'a', object: 'list', text: 'words', usage: { prompt_tokens: 3, cached_tokens: 0 }, stop: null }

describe('two answers', () => {
  it('are the same where only words and ids differ', () => {
    expectSame(answer({ ...BODY, id: 'b', text: 'others' }), answer(BODY), row(), { counts: true })
  })

  it.each<[string, Answer, Answer]>([
    ['a member is missing', answer({ id: 'a', object: 'list' }), answer(BODY)],
    ['a member is more', answer({ ...BODY, more: 1 }), answer(BODY)],
    ['members are in another order', answer({ b: 1, a: 1 }), answer({ a: 1, b: 1 })],
    ['a null became a value', answer({ ...BODY, stop: 'x' }), answer(BODY)],
    ['a telling value differs', answer({ ...BODY, object: 'model' }), answer(BODY)],
    ['a count differs', answer({ ...BODY, usage: { prompt_tokens: 3, cached_tokens: 2 } }), answer(BODY)],
    ['the status differs', answer(BODY, { status: 201 }), answer(BODY)],
    ['a header is missing', answer(BODY, { headers: { 'x-request-id': HEADERS['x-request-id'] } }), answer(BODY)],
    ['the request id is no id', answer(BODY, { headers: { ...HEADERS, 'x-request-id': 'x' } }), answer(BODY)],
    ['an error has other words', answer({ error: 'a' }, { status: 400 }), answer({ error: 'b' }, { status: 400 })],
    ['events are in another order', stream({ a: 1 }, { b: 1 }), stream({ b: 1 }, { a: 1 })],
    ['an event is missing', stream({ a: 1 }), stream({ a: 1 }, { a: 1 })],
  ])('differ where %s', (_, seen, real) => {
    expect(() => expectSame(seen, real, row(), { counts: true })).toThrow()
  })

  it('differ where an event is named otherwise than its data', () => {
    const named = { status: 200, headers: HEADERS, stream: 'event: one\ndata: {"type":"two"}\n\n' }
    expect(() => expectSame(named, named, row())).toThrow()
  })
})
