// Errors as vLLM 0.32 wrote them, and what a caller of each dialect reads.
import { describe, expect, it } from 'vitest'
import { readEngineError, readErrorEvent } from '../../../cluster/proxy/engine-error.ts'

const openai = (message: string, type: string, code: number) =>
  JSON.stringify({ error: { message, type, param: null, code } })
const anthropic = (message: string, type: string) => JSON.stringify({ type: 'error', error: { type, message } })

describe('an error for a caller of messages has one of Anthropic’s types', () => {
  it.each([
    [400, anthropic('not a multimodal model', 'BadRequestError'), 'invalid_request_error', 'not a multimodal model'],
    // Of a body that it could not read, vLLM tells in OpenAI's shape.
    [400, openai('Field required', 'Bad Request', 400), 'invalid_request_error', 'Field required'],
    [404, anthropic('no such model', 'NotFoundError'), 'not_found_error', 'no such model'],
    [404, '{"detail":"Not Found"}', 'not_found_error', 'Not Found'],
    [413, '', 'request_too_large', 'The engine answered 413.'],
    [422, '[]', 'invalid_request_error', 'The engine answered 422.'],
    [429, anthropic('slow down', 'RateLimitError'), 'rate_limit_error', 'slow down'],
    [500, anthropic('died', 'InternalServerError'), 'api_error', 'died'],
    [529, '{"error":7}', 'overloaded_error', 'The engine answered 529.'],
  ])('%i %s', (status, body, type, message) => {
    const error = readEngineError(status, body, 'anthropic')
    expect(error).toEqual({ type: 'answer', status, body: JSON.stringify({ type: 'error', error: { type, message } }) })
  })

  it('also as the first event of a stream, which has no status', () => {
    const event = `event: error\ndata: ${anthropic('died', 'internal_error')}\n\n`
    expect(readErrorEvent(event, 'anthropic')).toEqual({
      type: 'answer',
      status: 500,
      body: anthropic('died', 'api_error'),
    })
  })

  it('that means the engine takes nothing is a refusal of ours: the caller may retry', () => {
    expect(readEngineError(503, anthropic('full', 'ServiceUnavailableError'), 'anthropic')).toMatchObject({
      type: 'refusal',
      rejection: { reason: 'engine-unreachable', message: 'The engine took no request: full', retryAfterSeconds: 1 },
    })
  })
})

describe('an error for a caller of OpenAI’s dialects keeps the engine’s words', () => {
  it.each([
    [openai('no such model', 'NotFoundError', 404), { message: 'no such model', type: 'NotFoundError', code: 404 }],
    ['{"detail":"Not Found"}', { message: 'Not Found', type: 'invalid_request_error', code: 404 }],
  ])('%s', (body, told) => {
    const error = readEngineError(404, body, 'openai')
    expect(error.type === 'answer' && JSON.parse(error.body)).toEqual({ error: { param: null, ...told } })
  })

  it('as the first event of a response too', () => {
    const event = 'event: error\ndata: {"type":"error","code":"server_error","message":"died","param":null}\n\n'
    const error = readErrorEvent(event, 'responses')
    expect(error.type === 'answer' && JSON.parse(error.body)).toMatchObject({ error: { message: 'died', code: 500 } })
  })
})
