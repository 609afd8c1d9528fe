// What is believed of caches beside what their events tell: prompts that are under way, and pods that tell nothing. Every
// guess is marked as one.
import type { EndpointId, EndpointView } from '../endpoints/endpoint.ts'
import type { ApproximateIndex } from '../kv/approximate-index.ts'
import { followingPays, type InFlightPrefixes, type UnderWay } from '../kv/in-flight-prefixes.ts'
import type { EndpointPrefix } from '../kv/prefix-match.ts'
import type { PromptChain } from '../kv/prompt-chain.ts'

export type Guesses = {
  /** The prefixes as they are known, with what is guessed besides. */
  readonly fill: (
    chain: PromptChain,
    known: ReadonlyMap<EndpointId, EndpointPrefix>,
    endpoints: readonly EndpointView[],
  ) => ReadonlyMap<EndpointId, EndpointPrefix>
  /**
   * Follows a placed prompt, so that others can be guessed by it.
   *
   * @param prefixes as it was placed by: of an endpoint that tells what it holds nothing is guessed.
   */
  readonly follow: (chain: PromptChain, prefixes: ReadonlyMap<EndpointId, EndpointPrefix>) => PlacedPrompt
  readonly forget: (endpoint: EndpointId) => void
}

/** What becomes of a prompt after its decision. */
export type PlacedPrompt = {
  readonly sent: (endpoint: EndpointId) => void
  readonly firstByte: () => void
  readonly over: () => void
}

export function createGuesses(approximate: ApproximateIndex, inFlight: InFlightPrefixes): Guesses {
  return {
    fill(chain, known, endpoints) {
      const untold = endpoints.map(({ endpoint }) => endpoint.id).filter((id) => !known.has(id))
      const filled = new Map(known)
      if (untold.length > 0) {
        for (const match of approximate.match(chain, untold)) {
          filled.set(match.endpoint, { ...match, ranks: [match], approximate: true })
        }
      }
      const coming = inFlight.match(chain)
      if (coming.size === 0) return filled
      const ahead = new Map(endpoints.map(({ endpoint, load }) => [endpoint.id, load.sentPromptTokens]))
      const least = Math.min(...ahead.values())
      for (const [endpoint, comingTokens] of coming) {
        const prefix = filled.get(endpoint)
        if (prefix === undefined || comingTokens <= prefix.matchedTokens) continue
        const pays = followingPays(comingTokens - prefix.matchedTokens, ahead.get(endpoint) ?? 0, least)
        if (pays) filled.set(endpoint, { ...prefix, comingTokens })
      }
      return filled
    },
    follow(chain, prefixes) {
      // Until its first byte: a long stream must not hold its prompt.
      let held: PromptChain | undefined = chain
      let at: EndpointId | undefined
      let underWay: UnderWay | undefined
      return {
        sent(endpoint) {
          underWay?.over()
          at = endpoint
          underWay = held && inFlight.sent(endpoint, held)
        },
        firstByte() {
          underWay?.computed()
          if (held && at !== undefined && prefixes.get(at)?.approximate !== undefined) approximate.computed(at, held)
          held = undefined
        },
        over() {
          underWay?.over()
          held = undefined
        },
      }
    },
    forget: approximate.forget,
  }
}
