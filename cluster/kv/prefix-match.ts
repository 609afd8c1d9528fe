// What is asked of a KV index, and what it answers.
import type { EndpointId } from '../endpoints/endpoint.ts'

export type PromptQuery = {
  readonly tokenIds: Uint32Array
  /** The base model's name, as the sources were opened with. */
  readonly model: string
  /** The adapter's name, when the request is for one. */
  readonly lora: string | undefined
  readonly cacheSalt: string | undefined
}

/** What one rank of one endpoint holds of a prompt. */
export type PrefixMatch = {
  readonly endpoint: EndpointId
  readonly rank: number
  /**
   * Prompt tokens that the engine would report as cached: whole blocks from the start, and never the whole prompt,
   * because the last token is always computed.
   */
  readonly matchedTokens: number
  /** Of those, in GPU memory; the rest lies in slower tiers. */
  readonly gpuTokens: number
  /** False while events are missing (not replayed yet, a gap that replay could not fill): there may be more, or less. */
  readonly complete: boolean
}

/** An endpoint's best rank. */
export type EndpointPrefix = PrefixMatch & {
  /** In [0, 1]: how far it is believed, from how predictions for this endpoint came out lately. 1 when absent. */
  readonly confidence?: number
  /** Guessed from where prompts were sent: the endpoint tells nothing, or the prompt's token ids are not known. */
  readonly approximate?: true
  /** Tokens of the prompt that are being computed there for another one, and that it had better wait for. */
  readonly comingTokens?: number
  /** What every rank of the endpoint that is known holds, this one included. */
  readonly ranks: readonly PrefixMatch[]
}

/** What a token in slower memory is worth beside one in the GPU: it need not be computed, and has to be fetched. */
const SLOW_TIER_WEIGHT = 0.8

/** Tokens that need not be computed there, as far as it is counted on: the measure of a decision, not a prediction. */
export function countedTokens(prefix: EndpointPrefix): number {
  const { matchedTokens, gpuTokens, approximate, confidence = 1, comingTokens = 0 } = prefix
  // Of a guess nobody knows where it lies.
  const slowTokens = approximate ? 0 : matchedTokens - gpuTokens
  return Math.max((matchedTokens - slowTokens * (1 - SLOW_TIER_WEIGHT)) * confidence, comingTokens)
}

/** The best rank of each endpoint: the longest prefix, then the one that lies nearest. */
export function bestByEndpoint(matches: readonly PrefixMatch[]): ReadonlyMap<EndpointId, EndpointPrefix> {
  const best = new Map<EndpointId, EndpointPrefix>()
  for (const match of matches) {
    const before = best.get(match.endpoint)
    const ranks = before ? [...before.ranks, match] : [match]
    best.set(match.endpoint, { ...(before && !isBetter(match, before) ? before : match), ranks })
  }
  return best
}

function isBetter(match: PrefixMatch, than: PrefixMatch): boolean {
  if (match.matchedTokens !== than.matchedTokens) return match.matchedTokens > than.matchedTokens
  return match.gpuTokens > than.gpuTokens
}

/** The index in this process, as a decision uses it. */
export type MatchPrefix = (query: PromptQuery) => readonly PrefixMatch[]

/** Wherever the index is. Never throws nor rejects. */
export type FindPrefixes = (query: PromptQuery) => FoundPrefixes | Promise<FoundPrefixes>

export type FoundPrefixes = {
  readonly matches: readonly PrefixMatch[]
  /** Who told, in words for `why`; undefined when nobody but this process could have. */
  readonly by: string | undefined
}
