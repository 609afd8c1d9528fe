// Which session a request belongs to by its own words, where no token of the edge tells it.
import { createHash } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { SESSION_ID_HEADERS } from '../../shared/headers.ts'
import type { Caller } from './caller.ts'

/** A longer id is no id: cutting it could make two sessions one. */
const SESSION_ID_CHARS_MAX = 255

export type SessionId = {
  /** What said it, for `why`: a header's name, or `prompt_cache_key`. */
  readonly source: string
  /** Unique among sources and scopes. */
  readonly key: string
}

/** @param scope whose session it is: an equal id of somebody else is another session. */
export function sessionIdOf(
  headers: IncomingHttpHeaders,
  promptCacheKey: string | undefined,
  scope: Scope,
): SessionId | undefined {
  for (const name of SESSION_ID_HEADERS) {
    const value = headers[name]
    if (typeof value === 'string' && isSessionId(value)) return { source: name, key: `${scope()}\n${name}\n${value}` }
  }
  if (promptCacheKey === undefined || !isSessionId(promptCacheKey)) return undefined
  return { source: 'prompt_cache_key', key: `${scope()}\nprompt_cache_key\n${promptCacheKey}` }
}

function isSessionId(value: string): boolean {
  return value.length > 0 && value.length <= SESSION_ID_CHARS_MAX
}

/**
 * Whose sessions and responses these are: the tenant's, or of those who send the same Authorization header. Computed when
 * it is asked for: most requests name neither.
 */
export type Scope = () => string

export function scopeOf({ tenant }: Caller, { authorization = '' }: IncomingHttpHeaders): Scope {
  let scope: string | undefined
  return () => {
    scope ??= tenant === undefined ? `authorization:${digestOf(authorization)}` : `tenant:${tenant}`
    return scope
  }
}

function digestOf(text: string): string {
  return createHash('sha256').update(text).digest('base64url')
}
