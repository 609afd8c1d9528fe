// Which answers may be read from a cache and kept in one. The same for both halves, and pure: a request's members and its
// Cache-Control header in, a wish out.
import type { Dialect } from '../dialect.ts'
import { readDirectives } from './directives.ts'
import { ageSeconds, type CacheEntry } from './entry.ts'
import type { CacheableDialect } from './key.ts'

export type CachePolicy = {
  /**
   * `deterministic`: requests that ask for one answer, by temperature 0 or a seed, and embeddings. `all`: every request
   * whose answer can be kept. `asked`: only those that send `cache-control: max-age`.
   */
  readonly keep: 'deterministic' | 'all' | 'asked'
  /** Also answers that call tools: agents ask again in order to get another. */
  readonly toolCalls: boolean
  readonly ttlSeconds: number
}

export const KEEP = ['deterministic', 'all', 'asked'] as const satisfies readonly CachePolicy['keep'][]
export const TTL_SECONDS_DEFAULT = 3_600
export const TTL_SECONDS_MAX = 7 * 24 * 3_600

/** Why a request has nothing to do with the cache: tokens for Cache-Status. */
export type Bypass =
  | 'off'
  | 'no-store'
  | 'dialect'
  | 'scope'
  | 'sampled'
  | 'several-answers'
  | 'server-state'
  | 'server-tools'
  | 'linked-media'
  | 'stream-options'
  | 'not-canonical'
  | 'model-version'

export type CacheWish =
  | { readonly uses: false; readonly because: Bypass; readonly onlyIfCached: boolean }
  | {
      readonly uses: true
      readonly dialect: CacheableDialect
      /** Whether a stored answer will do. */
      readonly reads: boolean
      /** An older one will not. */
      readonly maxAgeSeconds: number | undefined
      readonly onlyIfCached: boolean
      /** Whether answers that call tools are kept and read. */
      readonly toolCalls: boolean
    }

/** The JSON text of a member of the request's body; undefined when it has none of that name. */
export type MemberText = (name: string) => string | undefined

/** What a request may have of the cache. `member` is asked for few members; the long ones come last. */
export function cacheWishOf(
  dialect: Dialect,
  member: MemberText,
  cacheControl: string | null | undefined,
  policy: CachePolicy,
): CacheWish {
  const { noStore, noCache, maxAgeSeconds, onlyIfCached } = readDirectives(cacheControl)
  const bypass = (because: Bypass): CacheWish => ({ uses: false, because, onlyIfCached })
  if (noStore) return bypass('no-store')
  if (dialect === 'count-tokens') return bypass('dialect')
  // What browsers send when they reload is no wish to keep anything.
  const asked = maxAgeSeconds !== undefined && maxAgeSeconds > 0
  if (!asked && (policy.keep === 'asked' || (policy.keep === 'deterministic' && !isDeterministic(dialect, member)))) {
    return bypass('sampled')
  }
  if (!asked && policy.keep !== 'all' && wantsSeveral(member)) return bypass('several-answers')
  if (hasServerState(dialect, member)) return bypass('server-state')
  if (changesStream(member)) return bypass('stream-options')
  if (hasServerTools(dialect, member)) return bypass('server-tools')
  if (PROMPT_MEMBERS.some((name) => linksMedia(member(name)))) return bypass('linked-media')
  const reads = !noCache && maxAgeSeconds !== 0
  return { uses: true, dialect, reads, maxAgeSeconds, onlyIfCached, toolCalls: asked || policy.toolCalls }
}

/** Why a stored answer will not do for this request; undefined when it will. */
export function objectionTo(
  entry: CacheEntry,
  wish: Extract<CacheWish, { uses: true }>,
  nowMs: number,
): 'stale' | 'miss' | undefined {
  const age = ageSeconds(entry, nowMs)
  if (age >= entry.ttlSeconds || age > (wish.maxAgeSeconds ?? Number.POSITIVE_INFINITY)) return 'stale'
  return entry.callsTools && !wish.toolCalls ? 'miss' : undefined
}

/** Share of the time to live by which entries differ, so that what was stored together does not expire together. */
const TTL_JITTER = 0.1

/** For how long a new entry is good: the policy's time, a tenth more or less. `random` gives numbers in [0, 1). */
export function drawTtlSeconds({ ttlSeconds }: CachePolicy, random: () => number): number {
  const drawn = Math.round(ttlSeconds * (1 - TTL_JITTER + 2 * TTL_JITTER * random()))
  return Math.min(TTL_SECONDS_MAX, Math.max(1, drawn))
}

const ZERO = /^-?0(?:\.0+)?(?:[eE][+-]?[0-9]+)?$/

function isDeterministic(dialect: CacheableDialect, member: MemberText): boolean {
  if (dialect === 'embeddings' || ZERO.test(member('temperature') ?? '')) return true
  // Anthropic's has no such member.
  if (dialect === 'messages') return false
  const seed = member('seed')
  // vLLM's word for none.
  return isGiven(seed) && seed !== '-1'
}

/** Large, and mostly asked for in order to get variety. */
function wantsSeveral(member: MemberText): boolean {
  if (isAboveOne(member('n')) || isAboveOne(member('best_of'))) return true
  const logprobs = member('logprobs')
  return (isGiven(logprobs) && logprobs !== 'false') || isGiven(member('prompt_logprobs'))
}

/** The engine remembers the request or its answer: a stored answer would be one that the engine does not know. */
function hasServerState(dialect: CacheableDialect, member: MemberText): boolean {
  // In /v1/responses it is on unless it is switched off.
  if (dialect === 'responses' ? member('store') !== 'false' : member('store') === 'true') return true
  if (dialect !== 'responses') return false
  const background = member('background')
  if (isGiven(background) && background !== 'false') return true
  return ['previous_response_id', 'conversation', 'prompt'].some((name) => isGiven(member(name)))
}

/** The one option that both forms of an answer can be given for. The doors ask for usage themselves. */
const USAGE_ONLY = /^\s*\{\s*(?:"include_usage"\s*:\s*(?:true|false|null)\s*)?\}\s*$/

function changesStream(member: MemberText): boolean {
  const options = member('stream_options')
  // Without a stream it is a mistake that the engine tells of.
  return isGiven(options) && !(member('stream') === 'true' && USAGE_ONLY.test(options))
}

/** Tools that run on a server answer differently each time: searches, code, remote tools. */
function hasServerTools(dialect: CacheableDialect, member: MemberText): boolean {
  if (isGiven(member('web_search_options')) || isGiven(member('mcp_servers'))) return true
  if (dialect !== 'responses' && dialect !== 'messages') return false
  const tools = member('tools')
  if (!isGiven(tools)) return false
  try {
    const list: unknown = JSON.parse(tools)
    return !Array.isArray(list) || !list.every((tool) => CLIENT_TOOLS.includes(tool?.type ?? 'custom'))
  } catch {
    return true
  }
}

const CLIENT_TOOLS: readonly unknown[] = ['function', 'custom']

const PROMPT_MEMBERS = ['messages', 'input', 'prompt', 'system'] as const

/**
 * What stands behind an URL may change. In a text that a person wrote these names have escaped quotes and are not found; in
 * the arguments of an earlier tool call they may be, which costs a hit and nothing else.
 */
const MEDIA_LINK = /"(?:url|image_url|video_url|audio_url|file_url)"\s*:\s*"(?!data:)|"file_id"\s*:\s*"/

function linksMedia(json: string | undefined): boolean {
  return json !== undefined && !json.startsWith('"') && MEDIA_LINK.test(json)
}

function isGiven(json: string | undefined): json is string {
  return json !== undefined && json !== 'null'
}

function isAboveOne(json: string | undefined): boolean {
  return isGiven(json) && json !== '1'
}
