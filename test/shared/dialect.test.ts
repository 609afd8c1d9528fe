import { describe, expect, it } from 'vitest'
import { DIALECT_OF_PATH, errorShapeOf, requestIdHeaders, responseRouteOf } from '../../shared/dialect.ts'

describe('the route of a stored response', () => {
  it.each([
    ['/v1/responses/resp_b722cd9a14a90514', { id: 'resp_b722cd9a14a90514', action: 'retrieve' }],
    ['/v1/responses/resp_a-b_C/cancel', { id: 'resp_a-b_C', action: 'cancel' }],
    [`/v1/responses/resp_${'x'.repeat(128)}`, { id: `resp_${'x'.repeat(128)}`, action: 'retrieve' }],
  ])('%s', (path, route) => expect(responseRouteOf(path)).toEqual(route))

  it.each([
    '/v1/responses',
    '/v1/responses/',
    '/v1/responses/resp_',
    '/v1/responses/chatcmpl-1',
    '/v1/responses/resp_a/',
    '/v1/responses/resp_a/input_items',
    '/v1/responses/resp_a/cancel/',
    '/v1/responses/resp_a%2Fcancel',
    '/v1/responses/resp_../models',
    '/v1/responses/resp_a?stream=true',
    '/v1/responses/resp_a\n',
    '/v2/v1/responses/resp_a',
    `/v1/responses/resp_${'x'.repeat(129)}`,
  ])('is not %j', (path) => expect(responseRouteOf(path)).toBeUndefined())
})

it.each([
  ['/v1/chat/completions', 'openai'],
  ['/v1/responses', 'responses'],
  ['/v1/responses/resp_a', 'responses'],
  ['/v1/responsesx', 'openai'],
  ['/v1/messages', 'anthropic'],
  ['/v1/messages/count_tokens', 'anthropic'],
  ['/v1/messagesx', 'openai'],
  ['/v1/embeddings', 'openai'],
])('errors of %s are told in the shape of %s', (path, shape) => expect(errorShapeOf(path)).toBe(shape))

it('every dialect has the path that its clients call', () => {
  expect(DIALECT_OF_PATH).toEqual({
    '/v1/chat/completions': 'chat',
    '/v1/completions': 'completions',
    '/v1/responses': 'responses',
    '/v1/messages': 'messages',
    '/v1/messages/count_tokens': 'count-tokens',
    '/v1/embeddings': 'embeddings',
  })
})

it("Anthropic's clients find the id of their request, which they read from a header of their own", () => {
  expect(requestIdHeaders('anthropic')).toEqual(['x-request-id', 'request-id'])
  expect(requestIdHeaders('responses')).toEqual(['x-request-id'])
})
