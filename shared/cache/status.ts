// What a cache says of its part in an answer (RFC 9211).

/** `fwd` values as the RFC has them. */
export type CacheOutcome =
  | { readonly hit: true; readonly ttlSeconds: number; readonly detail?: string }
  | {
      readonly hit: false
      /** `request`: the caller did not want a stored one. Undefined: it went nowhere. */
      readonly forwarded: 'bypass' | 'miss' | 'stale' | 'request' | undefined
      /** It waited for an equal request's answer and got that. */
      readonly collapsed?: boolean
      readonly detail?: string
    }

/**
 * One member of a Cache-Status header; `before` is what caches nearer to the engine said. Names and details are tokens of
 * ours, never a caller's words.
 */
export function cacheStatus(cache: string, outcome: CacheOutcome, before?: string | null): string {
  const parts = outcome.hit
    ? [cache, 'hit', `ttl=${outcome.ttlSeconds}`]
    : [cache, ...(outcome.forwarded ? [`fwd=${outcome.forwarded}`] : []), ...(outcome.collapsed ? ['collapsed'] : [])]
  if (outcome.detail !== undefined) parts.push(`detail=${outcome.detail}`)
  const member = parts.join('; ')
  return before ? `${before}, ${member}` : member
}
