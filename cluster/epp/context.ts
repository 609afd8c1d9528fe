// What a decision is made from, gathered: the prompt's token ids, what each endpoint holds of them, where the session was.
// Nothing here fails a request: what cannot be known is missing, and says why.
import type { EndpointId, EndpointView } from '../endpoints/endpoint.ts'
import { bestByEndpoint, type EndpointPrefix, type FindPrefixes } from '../kv/prefix-match.ts'
import type { Prompt, Tokenize } from '../tokens/tokenizer.ts'

export type PromptFacts = {
  readonly promptTokens: number
  /** In words, where token ids are not known; undefined where they are. */
  readonly tokensUnknown: string | undefined
  readonly prefixes: ReadonlyMap<EndpointId, EndpointPrefix>
  /** Who told the prefixes; see {@link FindPrefixes}. */
  readonly lookedUpBy?: string | undefined
}

export type GatherDeps = {
  readonly tokenize: Tokenize
  readonly findPrefixes: FindPrefixes
  /** Whether anybody's KV cache is known: without that, token ids would be asked for in vain. */
  readonly knowsCaches: () => boolean
}

export type PromptRequest = {
  readonly model: string
  readonly cacheSalt: string | undefined
  readonly prompt: () => Prompt
  /** From the body's size. */
  readonly promptTokensEstimate: number
}

const NO_PREFIXES: ReadonlyMap<EndpointId, EndpointPrefix> = new Map()

/** Never rejects. */
export async function gatherPrompt(
  { tokenize, findPrefixes, knowsCaches }: GatherDeps,
  request: PromptRequest,
  endpoints: readonly EndpointView[],
): Promise<PromptFacts> {
  const { model, cacheSalt, promptTokensEstimate: promptTokens } = request
  if (!knowsCaches()) {
    return { promptTokens, tokensUnknown: 'no endpoint publishes KV events', prefixes: NO_PREFIXES }
  }
  const tokens = await tokenize(model, request.prompt())
  if (!tokens.ok) return { promptTokens, tokensUnknown: tokens.because, prefixes: NO_PREFIXES }
  const tokenIds = tokens.ids
  const serving = endpoints.filter(({ models }) => models?.includes(model))
  const lora = serving.some(({ adapters }) => adapters.includes(model)) ? model : undefined
  // Engines may list the same weights under different first names; nearly always there is one.
  const baseModels = new Set(serving.map(({ baseModel }) => baseModel).filter((name) => name !== undefined))
  const queries = [...baseModels].map((base) => findPrefixes({ tokenIds, model: base, lora, cacheSalt }))
  const found = await Promise.all(queries)
  const prefixes = bestByEndpoint(found.flatMap(({ matches }) => matches))
  return { promptTokens: tokenIds.length, tokensUnknown: undefined, prefixes, lookedUpBy: found[0]?.by }
}
