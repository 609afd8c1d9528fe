import { describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { type GatherDeps, gatherPrompt } from '../../../cluster/epp/context.ts'
import type { PromptQuery } from '../../../cluster/kv/prefix-match.ts'
import { view } from '../views.ts'

const A = 'a:1' as EndpointId
const IDS = Uint32Array.of(1, 2, 3)

async function gather({
  model = 'm',
  views = [view('a:1')],
  ...more
}: { model?: string; views?: ReturnType<typeof view>[] } & Partial<GatherDeps> = {}) {
  const queries: PromptQuery[] = []
  const facts = await gatherPrompt(
    {
      tokenize: async () => ({ ok: true, ids: IDS }),
      findPrefixes: (query) => {
        queries.push(query)
        const matches = [0, 1].map((rank) => ({
          endpoint: A,
          rank,
          matchedTokens: rank * 2,
          gpuTokens: 0,
          complete: true,
        }))
        return { matches, by: 'somebody' }
      },
      knowsCaches: () => true,
      guesses: { fill: (_, known) => known },
      confidence: () => 1,
      ...more,
    },
    {
      model,
      cacheSalt: 'salt',
      prompt: () => ({ kind: 'unknown', because: 'unused' }),
      promptBytes: () => [Buffer.from('hello there')],
      promptTokensEstimate: 40,
    },
    views,
  )
  return { facts, queries }
}

describe('what a decision knows of a prompt', () => {
  it('is its size and the best rank of each endpoint', async () => {
    const { facts, queries } = await gather()
    expect(facts).toMatchObject({ promptTokens: 3, tokensUnknown: undefined, lookedUpBy: 'somebody' })
    expect(facts.prefixes.get(A)).toMatchObject({ rank: 1, matchedTokens: 2, ranks: [{ rank: 0 }, { rank: 1 }] })
    expect(queries).toEqual([{ tokenIds: IDS, model: 'm', lora: undefined, cacheSalt: 'salt' }])
  })
  it('of an adapter is looked up as the adapter of its base model: its blocks are others', async () => {
    const views = [view('a:1', {}, { models: ['base', 'ada'], baseModel: 'base', adapters: ['ada'] })]
    const { queries } = await gather({ model: 'ada', views })
    expect(queries).toMatchObject([{ model: 'base', lora: 'ada' }])
  })
  it('of a model under two first names is looked up under both', async () => {
    const views = [
      view('a:1', {}, { models: ['x', 'm'], baseModel: 'x' }),
      view('b:1', {}, { models: ['m'], baseModel: 'm' }),
      view('c:1', {}, { models: ['other'], baseModel: 'other' }),
    ]
    const { queries } = await gather({ views })
    expect(queries.map(({ model }) => model)).toEqual(['x', 'm'])
  })
  it('without token ids is a guess at its size, and why says so', async () => {
    const { facts, queries } = await gather({ tokenize: async () => ({ ok: false, because: 'no answer' }) })
    expect(facts).toMatchObject({ promptTokens: 40, tokensUnknown: 'no answer' })
    expect(facts.prefixes.size).toBe(0)
    expect(queries).toEqual([])
  })
  it('of an endpoint whose predictions were wrong of late is believed less', async () => {
    const { facts } = await gather({ confidence: (endpoint) => (endpoint === A ? 0.5 : 1) })
    expect(facts.prefixes.get(A)).toMatchObject({ matchedTokens: 2, confidence: 0.5 })
  })
  it('is filled up with guesses, by its tokens where they are known and else by its bytes', async () => {
    const guess = { endpoint: A, rank: 0, matchedTokens: 64, gpuTokens: 0, complete: false }
    const guesses: GatherDeps['guesses'] = {
      fill: ({ query }, known) =>
        new Map([...known, [A, { ...guess, ranks: [guess], approximate: (query === undefined) as true }]]),
    }
    // Of the second one nothing is known.
    const views = [view('a:1'), view('b:1')]
    expect((await gather({ guesses, views })).facts.prefixes.get(A)).toMatchObject({
      matchedTokens: 64,
      approximate: false,
    })
    const unknown = await gather({ guesses, tokenize: async () => ({ ok: false, because: 'no answer' }) })
    expect(unknown.facts.prefixes.get(A)).toMatchObject({ matchedTokens: 64, approximate: true })
  })
  it('where nobody’s cache is known, no token ids are asked for', async () => {
    const { facts } = await gather({
      knowsCaches: () => false,
      tokenize: () => Promise.reject(new Error('asked in vain')),
    })
    expect(facts.tokensUnknown).toBe('no endpoint publishes KV events')
  })
})
