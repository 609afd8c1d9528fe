// Which data-parallel rank of an endpoint a request is meant for. The ranks of one server share a port and balance what
// comes among themselves; a request that names a rank takes that from them, so it has to be worth it.
import type { EndpointPrefix } from '../kv/prefix-match.ts'

/**
 * Prompt tokens that one rank must have beyond another before it is named: what a template or a short system prompt fills
 * is soon in all of them.
 */
const RANK_GAIN_TOKENS = 512
/** A rank is overloaded beyond twice its share of the endpoint's requests and these. */
const RANK_OVERLOAD = 8

export type RankChoice = {
  /** Undefined: the server chooses. */
  readonly rank: number | undefined
  /** Tokens of the prompt that will be found there; where the server chooses, the least that any rank has. */
  readonly cachedTokens: number
}

/**
 * @param sentTo requests in flight that named this rank.
 * @param activeRequests of the endpoint, all its ranks together.
 */
export function chooseRank(
  { ranks, matchedTokens }: EndpointPrefix,
  sentTo: (rank: number) => number,
  activeRequests: number,
): RankChoice {
  const cachedTokens = Math.min(...ranks.map((match) => match.matchedTokens))
  const server = { rank: undefined, cachedTokens }
  if (matchedTokens - cachedTokens < RANK_GAIN_TOKENS) return server
  const near = ranks.filter((match) => matchedTokens - match.matchedTokens < RANK_GAIN_TOKENS)
  const best = near.reduce((a, b) => (sentTo(b.rank) < sentTo(a.rank) ? b : a))
  // Beyond that the others get it, and hold it from then on too.
  if (sentTo(best.rank) > (2 * activeRequests) / ranks.length + RANK_OVERLOAD) return server
  return { rank: best.rank, cachedTokens: best.matchedTokens }
}
