// What an answer says of the tokens it took.

export type Usage = {
  readonly promptTokens: number
  readonly completionTokens: number
  /** Of the prompt's, those that the engine had in its prefix cache; undefined when it does not say. */
  readonly cachedTokens: number | undefined
}

/** Reads OpenAI's `usage` member as vLLM writes it; undefined when it is none. */
export function readUsage(usage: unknown): Usage | undefined {
  if (typeof usage !== 'object' || usage === null) return undefined
  const { prompt_tokens, completion_tokens, prompt_tokens_details } = usage as {
    prompt_tokens?: unknown
    completion_tokens?: unknown
    prompt_tokens_details?: { cached_tokens?: unknown } | null
  }
  if (typeof prompt_tokens !== 'number') return undefined
  const cached = prompt_tokens_details?.cached_tokens
  return {
    promptTokens: prompt_tokens,
    completionTokens: typeof completion_tokens === 'number' ? completion_tokens : 0,
    cachedTokens: typeof cached === 'number' ? cached : undefined,
  }
}
