// What makes two requests the same to a response cache. Each half computes the MAC over it with its own platform's
// crypto, under a secret: who can read a store must not be able to test guesses of prompts.
import type { Dialect } from '../dialect.ts'

declare const cacheScope: unique symbol
/**
 * Whose answers a cache entry holds. Only authentication makes one (edge/authenticate.ts, cluster/proxy/caller.ts): a key
 * without a scope, or with one from a request's own words, does not type-check.
 */
export type CacheScope = string & { readonly [cacheScope]: true }

/** The scope of a tenant that was authenticated. */
export function tenantScope(tenant: string): CacheScope {
  return `tenant:${tenant}` as CacheScope
}

/** The scope of those who send the same Authorization header; `digest` is a cryptographic one of it. */
export function authorizationScope(digest: string): CacheScope {
  return `authorization:${digest}` as CacheScope
}

/** Dialects whose answers can be kept. Counting tokens costs less than a look-up. */
export type CacheableDialect = Exclude<Dialect, 'count-tokens'>

export type CacheKeyParts = {
  readonly scope: CacheScope
  readonly dialect: CacheableDialect
  /** What the model's name stands for now, see {@link modelVersionOf}. */
  readonly modelVersion: string
  /** An operator counts it up to make every stored answer unknown at once. */
  readonly epoch: string
}

/** The text under the MAC that comes before the body. Its first line keeps a MAC made for this purpose from any other. */
export function cacheKeyHead({ scope, dialect, modelVersion, epoch }: CacheKeyParts): string {
  return ['warmpath-response-v1', scope, dialect, modelVersion, epoch, ''].join('\n')
}

/** Members that no engine lets change an answer. All others are in the key: so is a parameter that is yet to be invented. */
const WITHOUT_EFFECT = new Set(['stream', 'stream_options', 'cache_salt', 'priority', 'prompt_cache_key'])
/** Besides, in dialects whose answers do not repeat them. Answers of /v1/responses do. */
const UNREPEATED = new Set(['user', 'safety_identifier', 'metadata', 'service_tier', 'store', 'request_id'])

/** Whether this member of a request's body belongs to the key. */
export function isInKey(dialect: CacheableDialect, member: string): boolean {
  if (WITHOUT_EFFECT.has(member)) return false
  return dialect === 'responses' || !UNREPEATED.has(member)
}

/** As engines list it under /v1/models, as far as it says what answers. */
export type ModelCard = {
  readonly id: string
  readonly root?: unknown
  readonly parent?: unknown
  readonly max_model_len?: unknown
}

/**
 * What a model's name stands for: the weights, adapters and context lengths that the engines tell for it, in an order of
 * its own. While engines disagree, as in the middle of a deployment, it is another than before and after.
 */
export function modelVersionOf(cards: readonly ModelCard[]): string {
  const told = cards.map(({ id, root, parent, max_model_len }) => JSON.stringify([id, root, parent, max_model_len]))
  return [...new Set(told)].sort().join(' ')
}
