// The recorded exchanges of a real vLLM 0.32, asked of the simulator again: status, error bodies, member names, their
// order and their nulls must be the same, for answers and for every kind of chunk.
import { describe, expect, it } from 'vitest'
import { ask, expectHead, isError, isStream, recordedExchanges, shapeOf, withoutRepeats } from './exchanges.ts'
import { eventsOf } from './pod.ts'

const exchanges = recordedExchanges('http-surface.json')

describe('like the real vLLM', () => {
  it.each(exchanges.filter((exchange) => isError(exchange)))('it refuses $name in the same words', async (exchange) => {
    const { request, response } = exchange
    // The number is an id of the built-in vocabulary: the largest 32-bit one is not.
    const known = exchange.name === 'err_token_id_out_of_vocab'
    const sent = known ? { ...request, body: { ...(request.body as object), prompt: [4294967295] } } : request
    const answer = await ask(sent)
    await expectHead(answer, exchange)
    const expected = JSON.stringify(response.json).replaceAll('999999999', '4294967295')
    expect(JSON.stringify(await answer.json())).toBe(expected)
  })

  const answered = exchanges.filter((exchange) => !isError(exchange) && !isStream(exchange))
  it.each(answered)('it answers $name with the same members in the same order', async (exchange) => {
    const { request, response } = exchange
    const answer = await ask(request)
    await expectHead(answer, exchange)
    if (response.json === undefined) expect(await answer.text()).toBe(response.text)
    else expect(shapeOf(await answer.json())).toEqual(shapeOf(response.json))
  })

  it.each(exchanges.filter(isStream))('it streams $name in the same chunks', async (exchange) => {
    const { request, response } = exchange
    const answer = await ask(request)
    await expectHead(answer, exchange)
    const shapes = (stream: string) =>
      eventsOf(stream).map((data) => (data === '[DONE]' ? data : shapeOf(JSON.parse(data))))
    const [seen, recorded] = [shapes(await answer.text()), shapes(response.stream ?? '')]
    switch (request.path) {
      case '/v1/completions':
        // The recorded one was read slowly: vLLM put all its tokens into the last chunk.
        return expect(seen.slice(-recorded.length)).toEqual(recorded)
      case '/v1/responses':
        // Tokens that end in the middle of a character have no delta.
        return expect(withoutRepeats(seen)).toEqual(withoutRepeats(recorded))
      default:
        return expect(seen).toEqual(recorded)
    }
  })
})
