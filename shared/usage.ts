// What an answer says of the tokens it took.

export type Usage = {
  readonly promptTokens: number
  readonly completionTokens: number
  /** Of the prompt's, those that the engine had in its prefix cache; undefined when it does not say. */
  readonly cachedTokens: number | undefined
}

type Details = { readonly cached_tokens?: unknown } | null

/** Reads a `usage` member as vLLM writes it for chat and completions, or for responses; undefined when it is neither. */
export function readUsage(usage: unknown): Usage | undefined {
  if (typeof usage !== 'object' || usage === null) return undefined
  const members = usage as Readonly<Record<string, unknown>>
  const promptTokens = members.prompt_tokens ?? members.input_tokens
  if (!isCount(promptTokens)) return undefined
  const completionTokens = members.completion_tokens ?? members.output_tokens
  const details = (members.prompt_tokens_details ?? members.input_tokens_details) as Details | undefined
  const cachedTokens = details?.cached_tokens
  return {
    promptTokens,
    completionTokens: isCount(completionTokens) ? completionTokens : 0,
    cachedTokens: isCount(cachedTokens) ? cachedTokens : undefined,
  }
}

/** Sums and counters are made of these: what is no count is not told. */
function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
