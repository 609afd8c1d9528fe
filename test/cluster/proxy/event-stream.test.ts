import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { EventStream, isErrorEvent, usageOfAnswer } from '../../../cluster/proxy/event-stream.ts'

const token = (text: string) =>
  `data: ${JSON.stringify({ id: 'chatcmpl-1', choices: [{ index: 0, delta: { content: text } }] })}\n\n`
const USAGE = `data: ${JSON.stringify({
  id: 'chatcmpl-1',
  choices: [],
  usage: { prompt_tokens: 12, total_tokens: 20, completion_tokens: 8, prompt_tokens_details: { cached_tokens: 4 } },
})}\n\n`
const DONE = 'data: [DONE]\n\n'
const named = (event: string, members: object) =>
  `event: ${event}\ndata: ${JSON.stringify({ type: event, ...members })}\n\n`
const ERROR = 'data: {"error":{"message":"EngineCore died","type":"InternalServerError","param":null,"code":500}}\n\n'

function read(pieces: readonly Buffer[], withholdUsage: boolean) {
  const events = new EventStream(withholdUsage)
  const out = pieces.map((piece) => events.push(piece))
  const text = Buffer.concat([...out, events.rest()]).toString()
  return { text, done: events.done, failed: events.failed, usage: events.usage }
}

const whole = (text: string) => [Buffer.from(text)]

describe('a streamed answer', () => {
  const answer = `${token('warm')}${token(' cache')}${USAGE}${DONE}`
  const expected = { done: true, failed: false, usage: { promptTokens: 12, completionTokens: 8, cachedTokens: 4 } }

  it('passes untouched to a caller that asked for usage', () => {
    expect(read(whole(answer), false)).toEqual({ text: answer, ...expected })
  })
  it('loses exactly the usage event for one that did not', () => {
    expect(read(whole(answer), true)).toEqual({ text: answer.replace(USAGE, ''), ...expected })
  })
  it('reads the same however the network cuts it', () => {
    const bytes = Buffer.from(`${token('wärm 🔥')}${USAGE}${DONE}`)
    const cuts = fc
      .array(fc.nat(bytes.length), { maxLength: 12 })
      .map((at) => [0, ...at.sort((a, b) => a - b), bytes.length])
    fc.assert(
      fc.property(cuts, fc.boolean(), (at, withhold) => {
        const pieces = at.slice(1).map((end, index) => bytes.subarray(at[index], end))
        expect(read(pieces, withhold)).toEqual({
          text: withhold ? bytes.toString().replace(USAGE, '') : bytes.toString(),
          ...expected,
        })
      }),
    )
  })
  it('of an engine that writes CRLF is understood too', () => {
    const crlf = answer.replaceAll('\n', '\r\n')
    expect(read([Buffer.from(crlf.slice(0, 70)), Buffer.from(crlf.slice(70))], true)).toEqual({
      text: answer.replace(USAGE, '').replaceAll('\n', '\r\n'),
      ...expected,
    })
  })
  it('that stops short is not taken for whole', () => {
    expect(read(whole(token('half')), true)).toMatchObject({ done: false, failed: false, usage: undefined })
    expect(read([Buffer.from('data: {"cut')], false).text).toBe('data: {"cut')
  })
  it('with an error event is known as failed', () => {
    expect(read(whole(`${token('a')}${ERROR}${DONE}`), true)).toMatchObject({ failed: true, done: true })
  })
  it('in which the model writes the words of the protocol is not fooled', () => {
    const sly = token('data: [DONE]\n\ndata: {"error": "choices":[],"usage":{"prompt_tokens":1}')
    expect(read(whole(sly), true)).toEqual({ text: sly, done: false, failed: false, usage: undefined })
  })
  it('with an event beyond a megabyte passes unread instead of filling memory', () => {
    const huge = Buffer.alloc(3 * 1024 * 1024, 'x')
    const events = new EventStream(true)
    expect(events.push(huge).length + events.push(Buffer.from(DONE)).length).toBe(huge.length + DONE.length)
  })
})

describe('usage of an unstreamed answer', () => {
  it('is read without parsing the answer', () => {
    const answer = {
      choices: [{ message: { content: 'say "usage":{"prompt_tokens":9}' } }],
      usage: { prompt_tokens: 3, completion_tokens: 2, prompt_tokens_details: null },
      kv_transfer_params: null,
    }
    expect(usageOfAnswer(Buffer.from(JSON.stringify(answer)))).toEqual({
      promptTokens: 3,
      completionTokens: 2,
      cachedTokens: undefined,
    })
  })
  it.each(['', '{}', '{"usage":{', '{"usage":{"prompt_tokens":"x"}}'])('is not invented from %j', (text) => {
    expect(usageOfAnswer(Buffer.from(text))).toBeUndefined()
  })
})

describe('a streamed response', () => {
  const file = new URL('../../fixtures/vllm/responses.json', import.meta.url)
  const { stream: answer } = JSON.parse(readFileSync(file, 'utf8')) as { stream: string }
  const withoutLast = answer.slice(0, answer.trimEnd().lastIndexOf('\n\n') + 2)

  it('is whole when it has said so: it has no [DONE], and its usage stands in its last event', () => {
    const stream = new EventStream(false, 'responses')
    const text = Buffer.concat([stream.push(Buffer.from(answer)), stream.rest()]).toString()
    expect(text).toBe(answer)
    expect(stream).toMatchObject({ done: true, failed: false, usage: { promptTokens: 10, cachedTokens: 0 } })
  })
  it('that stops before that is not taken for whole', () => {
    const stream = new EventStream(false, 'responses')
    stream.push(Buffer.from(withoutLast))
    expect(stream).toMatchObject({ done: false, usage: undefined })
  })
  it('cannot be ended by words of the model', () => {
    const stream = new EventStream(false, 'responses')
    stream.push(Buffer.from(`event: response.output_text.delta\ndata: {"delta":"event: response.completed\\n"}\n\n`))
    expect(stream.done).toBe(false)
  })
})

describe('a streamed message', () => {
  const started = named('message_start', { message: { id: 'm', usage: { input_tokens: 40, output_tokens: 0 } } })
  const delta = named('content_block_delta', { delta: { type: 'text_delta', text: 'wärm' }, index: 0 })
  const counted = named('message_delta', {
    delta: { stop_reason: 'end_turn' },
    usage: { input_tokens: 8, output_tokens: 3, cache_read_input_tokens: 32, cache_creation_input_tokens: 0 },
  })
  const stopped = named('message_stop', {})
  const error = named('error', { error: { type: 'internal_error', message: 'EngineCore died' } })
  const answer = started + delta + counted + stopped

  function readMessage(pieces: readonly Buffer[]) {
    const events = new EventStream(false, 'anthropic')
    const out = pieces.map((piece) => events.push(piece))
    const text = Buffer.concat([...out, events.rest()]).toString()
    return { text, done: events.done, failed: events.failed, usage: events.usage }
  }

  it('passes untouched however the network cuts it; it ends with message_stop, and its last usage counts', () => {
    const bytes = Buffer.from(answer)
    const cuts = fc
      .array(fc.nat(bytes.length), { maxLength: 12 })
      .map((at) => [0, ...at.sort((a, b) => a - b), bytes.length])
    fc.assert(
      fc.property(cuts, (at) => {
        const pieces = at.slice(1).map((end, index) => bytes.subarray(at[index], end))
        const usage = { promptTokens: 40, completionTokens: 3, cachedTokens: 32 }
        expect(readMessage(pieces)).toEqual({ text: answer, done: true, failed: false, usage })
      }),
    )
  })
  it('of an engine that writes CRLF is understood too', () => {
    const read = readMessage(whole(answer.replaceAll('\n', '\r\n')))
    expect(read).toMatchObject({ done: true, usage: { promptTokens: 40, cachedTokens: 32 } })
  })
  it.each([
    ['that stops short', started + delta + counted],
    ['that ends as a chat does', started + delta + DONE],
    [
      'in which the model writes the words of the protocol',
      started + named('content_block_delta', { delta: { text: '\nevent: message_stop\ndata: {}\n\nevent: error' } }),
    ],
  ])('%s is not taken for whole', (_, text) => {
    expect(readMessage(whole(text))).toMatchObject({ done: false, failed: false, usage: { promptTokens: 40 } })
  })
  it('with an error event is known as failed', () => {
    expect(readMessage(whole(started + delta + error))).toMatchObject({ failed: true, done: false })
    expect([isErrorEvent(Buffer.from(error)), isErrorEvent(Buffer.from(started))]).toEqual([true, false])
  })
})
