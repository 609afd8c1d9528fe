// What an answer says of the tokens it took.

export type Usage = {
  readonly promptTokens: number
  readonly completionTokens: number
  /** Of the prompt's, those that the engine had in its prefix cache; undefined when it does not say. */
  readonly cachedTokens: number | undefined
}

type Details = { readonly cached_tokens?: unknown } | null

/**
 * Reads a `usage` member as engines write it for chats, completions and embeddings, for responses, or for messages;
 * undefined when it is none of these. Anthropic's `input_tokens` are those that no cache had a part in.
 */
export function readUsage(usage: unknown): Usage | undefined {
  if (typeof usage !== 'object' || usage === null) return undefined
  const members = usage as Readonly<Record<string, unknown>>
  const { cache_read_input_tokens: cacheRead, cache_creation_input_tokens: cacheWritten } = members
  const counted = members.prompt_tokens ?? members.input_tokens
  if (!isCount(counted)) return undefined
  const promptTokens = counted + countOf(cacheRead) + countOf(cacheWritten)
  const completionTokens = members.completion_tokens ?? members.output_tokens
  const details = (members.prompt_tokens_details ?? members.input_tokens_details) as Details | undefined
  const cachedTokens = details?.cached_tokens ?? cacheRead
  return {
    promptTokens,
    completionTokens: countOf(completionTokens),
    cachedTokens: isCount(cachedTokens) ? cachedTokens : undefined,
  }
}

/**
 * What a stream of messages has said of its usage, as it is written: it begins with the prompt's counts and ends with
 * all that have changed, and the last word on each counts.
 */
export function mergeUsage(before: UsageMembers | undefined, next: unknown): UsageMembers | undefined {
  if (typeof next !== 'object' || next === null) return before
  const told = Object.entries(next).filter(([, count]) => count !== null)
  return { ...before, ...Object.fromEntries(told) }
}

export type UsageMembers = Readonly<Record<string, unknown>>

function countOf(value: unknown): number {
  return isCount(value) ? value : 0
}

/** Sums and counters are made of these: what is no count is not told. */
function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
