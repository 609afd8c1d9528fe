// The recorded /v1/messages of a real vLLM 0.32, asked of the simulator again: refusals in the same words, the same members
// in the same order, the same events in the same order.
import { describe, expect, it } from 'vitest'
import {
  ask,
  type Exchange,
  expectHead,
  isError,
  isStream,
  recordedExchanges,
  shapeOf,
  withoutRepeats,
} from './exchanges.ts'
import { eventsOf } from './pod.ts'

const exchanges = recordedExchanges('messages.json')

/** The real model says other things: its stop string is one that stands in every sentence of ours. */
function ours(request: Exchange['request']): Exchange['request'] {
  const body = JSON.stringify(request.body)?.replace('["=[\\""]', '["e"]')
  return body === undefined ? request : { ...request, body: JSON.parse(body) }
}

describe('the simulated /v1/messages', () => {
  it.each(exchanges.filter(isError))('refuses $name in the same words', async (exchange) => {
    const answer = await ask(exchange.request)
    await expectHead(answer, exchange)
    expect(await answer.json()).toEqual(exchange.response.json)
  })

  const answered = exchanges.filter((exchange) => !isError(exchange) && !isStream(exchange))
  it.each(answered)('answers $name with the same members in the same order', async (exchange) => {
    const answer = await ask(ours(exchange.request))
    await expectHead(answer, exchange)
    expect(shapeOf(await answer.json())).toEqual(shapeOf(exchange.response.json))
  })

  it.each(exchanges.filter(isStream))('streams $name in the same events', async (exchange) => {
    const answer = await ask(ours(exchange.request))
    await expectHead(answer, exchange)
    const stream = await answer.text()
    const shapes = (text: string) => withoutRepeats(eventsOf(text).map((data) => shapeOf(JSON.parse(data))))
    expect(shapes(stream)).toEqual(shapes(exchange.response.stream ?? ''))
    for (const event of stream.trimEnd().split('\n\n')) {
      const [, name, type] = /^event: (\w+)\ndata: \{"type":"(\w+)"/.exec(event) ?? []
      expect(name).toBe(type)
    }
  })
})
