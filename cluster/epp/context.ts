// What a decision is made from, gathered: the prompt's token ids, what each endpoint holds of them, where the session was.
// Nothing here fails a request: what cannot be known is missing, and says why.
import { setImmediate as othersTurn } from 'node:timers/promises'
import type { EndpointId, EndpointView } from '../endpoints/endpoint.ts'
import { bestByEndpoint, type EndpointPrefix, type FindPrefixes } from '../kv/prefix-match.ts'
import { chainOfBytes, chainOfTokens, type PromptChain } from '../kv/prompt-chain.ts'
import type { Prompt, Tokenize } from '../tokens/tokenizer.ts'
import type { Guesses } from './guesses.ts'

export type PromptFacts = {
  readonly promptTokens: number
  /** In words, where token ids are not known; undefined where they are. */
  readonly tokensUnknown: string | undefined
  readonly prefixes: ReadonlyMap<EndpointId, EndpointPrefix>
  /** Who told the prefixes; see {@link FindPrefixes}. */
  readonly lookedUpBy?: string | undefined
  /** What the guesses beside the index go by; undefined for a prompt that is not even bytes. */
  readonly chain?: PromptChain | undefined
}

export type GatherDeps = {
  readonly tokenize: Tokenize
  readonly findPrefixes: FindPrefixes
  /** Whether anybody's KV cache is known: without that, token ids would be asked for in vain. */
  readonly knowsCaches: () => boolean
  readonly guesses: Pick<Guesses, 'fill'>
  /** In [0, 1]: how far what is known of an endpoint's cache is believed. */
  readonly confidence: (endpoint: EndpointId) => number
}

export type PromptRequest = {
  readonly model: string
  readonly cacheSalt: string | undefined
  readonly prompt: () => Prompt
  /** The conversation as it stands in the body, in parts; undefined when the prompt is none that can be shared. */
  readonly promptBytes: () => readonly Buffer[] | undefined
  /** From the body's size. */
  readonly promptTokensEstimate: number
}

const NO_PREFIXES: ReadonlyMap<EndpointId, EndpointPrefix> = new Map()

/** Never rejects. */
export async function gatherPrompt(
  deps: GatherDeps,
  request: PromptRequest,
  endpoints: readonly EndpointView[],
): Promise<PromptFacts> {
  const { model, cacheSalt, promptTokensEstimate } = request
  const serving = endpoints.filter(({ models }) => models?.includes(model))
  const lora = serving.some(({ adapters }) => adapters.includes(model)) ? model : undefined
  // Engines may list the same weights under different first names; nearly always there is one.
  const baseModels = [...new Set(serving.map(({ baseModel }) => baseModel).filter((name) => name !== undefined))]
  const names = { model: baseModels[0] ?? model, lora, cacheSalt }

  function guessed(chain: PromptChain | undefined, known: ReadonlyMap<EndpointId, EndpointPrefix>) {
    return chain === undefined ? known : deps.guesses.fill(chain, known, serving)
  }

  const tokens = deps.knowsCaches() ? await deps.tokenize(model, request.prompt()) : UNASKED
  if (!tokens.ok) {
    const parts = request.promptBytes()
    const chain = parts && chainOfBytes(parts, names)
    const prefixes = guessed(chain, NO_PREFIXES)
    return { promptTokens: promptTokensEstimate, tokensUnknown: tokens.because, prefixes, chain }
  }
  const tokenIds = tokens.ids
  const isLong = tokenIds.length > AT_ONCE_TOKENS
  if (isLong) await othersTurn()
  const queries = baseModels.map((base) => deps.findPrefixes({ tokenIds, model: base, lora, cacheSalt }))
  const found = await Promise.all(queries)
  const best = bestByEndpoint(found.flatMap(({ matches }) => matches))
  const known = new Map([...best].map(([id, prefix]) => [id, believed(prefix, deps.confidence(id))]))
  // Where nearly all of it is known to lie somewhere, nothing is left to guess.
  const most = Math.max(0, ...[...known.values()].map(({ matchedTokens }) => matchedTokens))
  const isKnown = tokenIds.length - most < GUESSED_TOKENS_MIN && serving.every(({ endpoint }) => known.has(endpoint.id))
  if (isLong && !isKnown) await othersTurn()
  const chain = isKnown ? undefined : chainOfTokens({ ...names, tokenIds })
  const prefixes = guessed(chain, known)
  return { promptTokens: tokenIds.length, tokensUnknown: undefined, prefixes, lookedUpBy: found[0]?.by, chain }
}

/** To look up more, and to hash them again for guesses, takes a millisecond each: others have their turn in between. */
const AT_ONCE_TOKENS = 128 * 1024
/** Fewer are computed sooner than anybody could have followed. */
const GUESSED_TOKENS_MIN = 2_048

/** Without anybody's events the ids of a prompt would be asked for in vain. */
const UNASKED = { ok: false, because: 'no endpoint publishes KV events' } as const

function believed(prefix: EndpointPrefix, confidence: number): EndpointPrefix {
  return confidence === 1 ? prefix : { ...prefix, confidence }
}
