// How a refusal reads to clients, above all to the SDK that most of them are.
import OpenAI, { APIError } from 'openai'
import { describe, expect, it } from 'vitest'
import { errorEvent, rejectionToHttp } from '../../shared/rejection.ts'

/** The SDK in front of a server that answers every request with this stream. */
function clientOf(stream: string): OpenAI {
  const fetch = async () => new Response(stream, { headers: { 'content-type': 'text/event-stream' } })
  return new OpenAI({ apiKey: 'none', baseURL: 'http://127.0.0.1/v1', maxRetries: 0, fetch })
}

async function failureOf(stream: Promise<AsyncIterable<unknown>>): Promise<unknown> {
  try {
    for await (const _ of await stream);
  } catch (error) {
    return error
  }
  return undefined
}

describe('an error frame makes the OpenAI SDK throw', () => {
  it('in a chat', async () => {
    const client = clientOf(`data: {"choices":[]}\n\n${errorEvent('openai', 'upstream_lost', 'gone')}`)
    const failure = await failureOf(client.chat.completions.create({ model: 'm', messages: [], stream: true }))
    expect(failure).toBeInstanceOf(APIError)
    expect(failure).toMatchObject({ code: 'upstream_lost', error: { message: 'gone' } })
  })

  it('in a response, made or retrieved', async () => {
    const created = 'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1"}}\n\n'
    const client = clientOf(created + errorEvent('responses', 'upstream_lost', 'gone'))
    for (const stream of [
      client.responses.create({ model: 'm', input: 'hi', stream: true }),
      client.responses.retrieve('resp_1', { stream: true }),
    ]) {
      const failure = await failureOf(stream)
      expect(failure).toBeInstanceOf(APIError)
      expect(failure).toMatchObject({ code: 'upstream_lost', error: { message: 'gone' } })
    }
  })
})

it('a response that is not found is told as OpenAI tells it', () => {
  const { status, headers, body } = rejectionToHttp({ reason: 'response-not-found', message: 'gone' }, 'responses')
  expect(status).toBe(404)
  expect(headers).toMatchObject({ 'x-should-retry': 'false', 'x-warmpath-reason': 'response-not-found' })
  expect(JSON.parse(body)).toEqual({
    error: { message: 'gone', type: 'invalid_request_error', param: null, code: 'response_not_found' },
  })
})
