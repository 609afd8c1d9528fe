import { describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { bestByEndpoint, type EndpointPrefix } from '../../../cluster/kv/prefix-match.ts'
import { chooseRank } from '../../../cluster/scheduling/rank.ts'

const A = 'a:1' as EndpointId

/** Matched tokens by rank. */
function prefix(...matched: number[]): EndpointPrefix {
  const matches = matched.map((matchedTokens, rank) => ({
    endpoint: A,
    rank,
    matchedTokens,
    gpuTokens: matchedTokens,
    complete: true,
  }))
  return bestByEndpoint(matches).get(A) as EndpointPrefix
}

/** @param sent requests in flight by the rank that they name. */
function choose(its: EndpointPrefix, sent: readonly number[] = [], activeRequests = 0) {
  return chooseRank(its, (rank) => sent[rank] ?? 0, activeRequests)
}

describe('the rank that a request names', () => {
  it.each<[string, number[], { rank: number | undefined; cachedTokens: number }]>([
    ['is the one that holds a long prefix', [0, 9_000, 0, 0], { rank: 1, cachedTokens: 9_000 }],
    ['is none where all hold the same: the server balances', [9_000, 9_000], { rank: undefined, cachedTokens: 9_000 }],
    ['is none for a template: it is soon in all of them', [48, 0, 0, 0], { rank: undefined, cachedTokens: 0 }],
    ['is none where nobody holds anything', [0, 0], { rank: undefined, cachedTokens: 0 }],
  ])('%s', (_, matched, expected) => {
    expect(choose(prefix(...matched))).toEqual(expected)
  })
  it('is of those that hold nearly as much the one that was sent least, and what that one holds is predicted', () => {
    expect(choose(prefix(9_000, 8_800, 0), [3, 1, 0])).toEqual({ rank: 1, cachedTokens: 8_800 })
  })
  it('is none when that rank has far more than its share: the others shall hold the prefix too', () => {
    expect(choose(prefix(9_000, 0, 0, 0), [12], 12)).toMatchObject({ rank: 0 })
    expect(choose(prefix(9_000, 0, 0, 0), [20], 20)).toEqual({ rank: undefined, cachedTokens: 0 })
    expect(choose(prefix(9_000, 0, 0, 0), [20], 80)).toMatchObject({ rank: 0 })
  })
})
