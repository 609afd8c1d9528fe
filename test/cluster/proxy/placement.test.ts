import type { IncomingMessage } from 'node:http'
import { describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { createEndpointSet } from '../../../cluster/endpoints/set.ts'
import { createPins } from '../../../cluster/epp/pins.ts'
import { bestByEndpoint, type EndpointPrefix } from '../../../cluster/kv/prefix-match.ts'
import { prepareEngineRequest } from '../../../cluster/proxy/engine-request.ts'
import { destinationsOf } from '../../../cluster/proxy/placement.ts'
import type { Dialect } from '../../../shared/dialect.ts'
import { endpoint } from '../views.ts'

const A = 'a:1' as EndpointId
const B = 'b:1' as EndpointId
const pins = createPins(['s'.repeat(32)])

function destinations(
  dialect: Dialect,
  body: object,
  matches: readonly [EndpointId, number, number][] = [],
  given?: ReadonlyMap<EndpointId, EndpointPrefix>,
) {
  const prepared = prepareEngineRequest(dialect, Buffer.from(JSON.stringify(body)), false)
  if (!prepared.ok) throw new Error(prepared.rejection.message)
  const prefixes = bestByEndpoint(
    matches.map(([endpoint, rank, matchedTokens]) => ({
      endpoint,
      rank,
      matchedTokens,
      gpuTokens: matchedTokens,
      complete: true,
    })),
  )
  const req = { url: '/v1/x', headers: {} } as IncomingMessage
  const facts = { promptTokens: 10_000, prefixes: given ?? prefixes }
  const endpoints = createEndpointSet([endpoint(A), endpoint(B)], () => 0)
  return destinationsOf({ pins, endpoints }, req, 'd-0123456789-1', prepared.request, () => 'tenant:acme', facts)
}

describe('what an endpoint is sent', () => {
  const chat = { model: 'm', messages: [] }

  it('names the rank that holds the prefix, where the server has several', () => {
    const to = destinations('chat', chat, [
      [A, 0, 16],
      [A, 1, 6_400],
      [B, 0, 3_200],
    ])
    expect(to(A)).toMatchObject({ rank: 1, predictedTokens: 6_400, promptTokens: 3_600, cold: false })
    expect(to(A).leg.headers['x-data-parallel-rank']).toBe('1')
    expect(to(B)).toMatchObject({ rank: undefined, predictedTokens: 3_200, promptTokens: 6_800, cold: false })
    expect(to(B).leg.headers['x-data-parallel-rank']).toBeUndefined()
  })
  it('leaves the rank to the server when none holds anything', () => {
    const to = destinations('chat', chat, [
      [A, 0, 0],
      [A, 1, 0],
    ])
    expect(to(A)).toMatchObject({ rank: undefined, predictedTokens: 0, promptTokens: 10_000, cold: true })
    expect(to(A).leg.headers['x-data-parallel-rank']).toBeUndefined()
  })
  it('predicts nothing cached where the engine will not look into its cache', () => {
    const to = destinations('chat', { ...chat, prompt_logprobs: 1 }, [[A, 0, 6_400]])
    expect(to(A)).toMatchObject({ predictedTokens: 0, promptTokens: 10_000, cold: true })
    const echoed = { model: 'm', prompt: 'x', echo: true, logprobs: 2 }
    expect(destinations('completions', echoed, [[A, 0, 6_400]])(A).predictedTokens).toBe(0)
    const answers = { model: 'm', prompt: 'x', echo: false, logprobs: 2, prompt_logprobs: null }
    expect(destinations('completions', answers, [[A, 0, 6_400]])(A).predictedTokens).toBe(6_400)
  })
  it('predicts nothing where it only guesses, and counts on the guess all the same', () => {
    const guess = { endpoint: A, rank: 0, matchedTokens: 640, gpuTokens: 0, complete: false }
    const approximate = new Map([[A, { ...guess, ranks: [guess], approximate: true as const }]])
    expect(destinations('chat', chat, [], approximate)(A)).toMatchObject({
      predictedTokens: undefined,
      promptTokens: 9_360,
    })
    const coming = new Map([[A, { ...guess, ranks: [guess], comingTokens: 8_000 }]])
    expect(destinations('chat', chat, [], coming)(A)).toMatchObject({ predictedTokens: undefined, promptTokens: 2_000 })
  })
  it('gives a response an id that leads back to this endpoint, in the place of the caller’s', () => {
    const to = destinations('responses', { model: 'm', input: 'hi', request_id: 'resp_mine' })
    for (const pod of [A, B]) {
      const { request_id, ...rest } = JSON.parse(String(to(pod).leg.body)) as { request_id: string }
      expect(rest).toEqual({ model: 'm', input: 'hi' })
      expect(pins.endpointOfResponse(request_id, 'tenant:acme', [A, B])).toBe(pod)
    }
  })
})
