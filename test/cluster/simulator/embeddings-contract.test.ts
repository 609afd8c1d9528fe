// The recorded exchanges of a real vLLM 0.32 that serves embeddings, asked of a pooling pod again.
import { describe, expect, it } from 'vitest'
import { ask, expectHead, isError, recordedExchanges, shapeOf } from './exchanges.ts'

const exchanges = recordedExchanges('embeddings.json')
const POOLING = { models: ['tiny-embed'], runner: 'pooling', kvEventsPort: 'off' } as const

type ErrorBody = { readonly error?: { readonly message: string; readonly type: string; readonly param: string | null } }

describe('a pooling pod', () => {
  it.each(exchanges.filter(isError))('refuses $name in the same words', async (exchange) => {
    const { request, response } = exchange
    // The number is an id of the built-in vocabulary: the largest 32-bit one is not.
    const isUnknownId = exchange.name === 'err_id_out_of_vocab'
    const answer = await ask(
      isUnknownId ? { ...request, body: { ...(request.body as object), input: [4294967295] } } : request,
      POOLING,
    )
    await expectHead(answer, exchange)
    const seen = (await answer.json()) as ErrorBody
    const recorded: ErrorBody = JSON.parse(
      JSON.stringify(response.json).replaceAll('999999999', isUnknownId ? '4294967295' : '999999999'),
    )
    const [count, ...findings] = recorded.error?.message.split('\n') ?? []
    if (!count?.endsWith('validation errors:')) return expect(seen).toEqual(recorded)
    // vLLM tries five kinds of request and tells the findings of each: ours are among them, and about the same member.
    expect({ ...seen.error, message: '' }).toEqual({ ...recorded.error, message: '', param: seen.error?.param })
    expect(seen.error?.param?.replace(/\.\d+$/, '')).toBe(recorded.error?.param?.replace(/\.\d+$/, ''))
    for (const finding of seen.error?.message.split('\n').slice(1) ?? []) expect(findings).toContain(finding)
  })

  it.each(exchanges.filter((exchange) => !isError(exchange)))(
    'answers $name with the same members in the same order',
    async (exchange) => {
      const { response, request } = exchange
      const answer = await ask(request, POOLING)
      await expectHead(answer, exchange)
      if (response.json === undefined) return expect(await answer.text()).toBe(response.text)
      const seen = await answer.json()
      expect(shapeOf(seen)).toEqual(shapeOf(response.json))
      const lengths = (body: unknown) =>
        (body as { data?: readonly { embedding?: string }[] }).data?.map(({ embedding }) => embedding?.length)
      expect(lengths(seen)).toEqual(lengths(response.json))
    },
  )
})
