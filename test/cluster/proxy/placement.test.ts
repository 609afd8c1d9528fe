import type { IncomingMessage } from 'node:http'
import { describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { createPins } from '../../../cluster/epp/pins.ts'
import { bestByEndpoint } from '../../../cluster/kv/prefix-match.ts'
import type { ProxyDeps } from '../../../cluster/proxy/deps.ts'
import { prepareEngineRequest } from '../../../cluster/proxy/engine-request.ts'
import { legsOf } from '../../../cluster/proxy/placement.ts'
import type { Dialect } from '../../../shared/dialect.ts'

const A = 'a:1' as EndpointId
const B = 'b:1' as EndpointId
const pins = createPins(['s'.repeat(32)])

function legs(dialect: Dialect, body: object, matches: readonly [EndpointId, number, number][] = []) {
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
  return legsOf({ pins } as ProxyDeps, req, 'd-0123456789-1', prepared.request, 'tenant:acme', prefixes)
}

describe('what an endpoint is sent', () => {
  const chat = { model: 'm', messages: [] }

  it('names the rank that holds the prefix, where the server has several', () => {
    const to = legs('chat', chat, [
      [A, 0, 16],
      [A, 1, 64],
      [B, 0, 32],
    ])
    expect(to(A).headers['x-data-parallel-rank']).toBe('1')
    expect(to(B).headers['x-data-parallel-rank']).toBeUndefined()
  })
  it('leaves the rank to the server when none holds anything', () => {
    const to = legs('chat', chat, [
      [A, 0, 0],
      [A, 1, 0],
    ])
    expect(to(A).headers['x-data-parallel-rank']).toBeUndefined()
  })
  it('gives a response an id that leads back to this endpoint, in the place of the caller’s', () => {
    const to = legs('responses', { model: 'm', input: 'hi', request_id: 'resp_mine' })
    for (const endpoint of [A, B]) {
      const { request_id, ...rest } = JSON.parse(String(to(endpoint).body)) as { request_id: string }
      expect(rest).toEqual({ model: 'm', input: 'hi' })
      expect(pins.endpointOfResponse(request_id, 'tenant:acme', [A, B])).toBe(endpoint)
    }
  })
})
