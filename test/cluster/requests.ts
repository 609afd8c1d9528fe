// Literals of what a decision knows of a request, for tests of pure rooms.
import type { EndpointId } from '../../cluster/endpoints/endpoint.ts'
import { bestByEndpoint } from '../../cluster/kv/prefix-match.ts'
import type { SchedulingRequest } from '../../cluster/scheduling/types.ts'

type Facts = Partial<Omit<SchedulingRequest, 'prefixes' | 'session' | 'bound'>> & {
  /** Cached tokens by endpoint. */
  readonly cached?: Readonly<Record<string, number>>
  readonly session?: string
  readonly bound?: string
}

export function request({ cached = {}, session, bound, ...more }: Facts = {}): SchedulingRequest {
  const matches = Object.entries(cached).map(([endpoint, matchedTokens]) => ({
    endpoint: endpoint as EndpointId,
    rank: 0,
    matchedTokens,
    gpuTokens: matchedTokens,
    complete: true,
  }))
  return {
    model: 'm',
    promptTokens: 100,
    prefixes: bestByEndpoint(matches),
    session: session as EndpointId | undefined,
    bound: bound as EndpointId | undefined,
    ...more,
  }
}
