// Recorded calls of functions through a real vLLM 0.32's /v1/responses and chats: demanded, cut in the middle, streamed, and
// with what they gave in the conversation.
import { describe, expect, it } from 'vitest'
import { ask, expectHead, isError, isStream, recordedExchanges, shapeOf, withoutRepeats } from './exchanges.ts'
import { eventsOf } from './pod.ts'

const exchanges = recordedExchanges('tool-calls.json')

/** As many tokens as bring the real model there; ours needs another number of them. */
const CUT_LATER = /cut_later/

describe('calls of functions', () => {
  it.each(exchanges.filter(isError))('are refused for $name', async (exchange) => {
    const answer = await ask(exchange.request)
    await expectHead(answer, exchange)
    const seen = (await answer.json()) as { error: { message: string; param: string | null } }
    const recorded = exchange.response.json as typeof seen
    if (!/^\d+ validation errors:/.test(recorded.error.message)) return expect(seen).toEqual(recorded)
    expect({ ...seen.error, message: '' }).toEqual({ ...recorded.error, message: '' })
    for (const finding of seen.error.message.split('\n').slice(1)) expect(recorded.error.message).toContain(finding)
  })

  const answered = exchanges.filter((exchange) => !isError(exchange) && !isStream(exchange))
  it.each(answered)('$name: the same members in the same order', async (exchange) => {
    const answer = await ask(exchange.request)
    await expectHead(answer, exchange)
    expect(shapeOf(await answer.json())).toEqual(shapeOf(exchange.response.json))
  })

  it.each(exchanges.filter(isStream))('$name: the same events', async (exchange) => {
    const { name, request } = exchange
    const cut = request.path.endsWith('responses') ? { max_output_tokens: 20 } : { max_tokens: 20 }
    const sent = CUT_LATER.test(name) ? { ...request, body: { ...(request.body as object), ...cut } } : request
    const answer = await ask(sent)
    await expectHead(answer, exchange)
    const shapes = (stream: string) => {
      const seen = eventsOf(stream).map((data) => (data === '[DONE]' ? data : shapeOf(JSON.parse(data))))
      // What the last token adds stands in a chat's last chunk: the real one's added nothing yet.
      return withoutRepeats(CUT_LATER.test(name) && seen.at(-1) === '[DONE]' ? seen.slice(0, -2) : seen)
    }
    expect(shapes(await answer.text())).toEqual(shapes(exchange.response.stream ?? ''))
  })
})
