// What of an answer must be the same whatever the model said: names in their order, nulls, types, the values that clients
// branch on, and the numbers that follow from the prompt.
import { type Answer, streamedBodies } from './exchange.ts'

/** Members whose values clients branch on. */
const TELLING = new Set([
  ...['object', 'role', 'type', 'finish_reason', 'stop_reason', 'index', 'owned_by', 'version', 'status', 'name'],
  ...['tool_choice', 'reason'],
])
/** What the prompt, the tokenizer and the cache decide, not the model. */
const COUNTED = new Set([
  ...['prompt_tokens', 'input_tokens', 'cached_tokens', 'created_cache_tokens', 'cache_write_tokens'],
  ...['cache_read_input_tokens', 'cache_creation_input_tokens', 'original_input_tokens', 'count', 'max_model_len'],
  ...['tokens', 'prompt_token_ids', 'prompt'],
])

/** Names, nulls, types and the telling values of a body; of a vector, its length. */
export function shapeOf(value: unknown, name = ''): unknown {
  if (name === 'embedding') return `${typeof value} of ${(value as string | readonly number[]).length}`
  // Of a token: a sampled one may have no text of its own.
  if (name === 'bytes') return value === null ? null : 'bytes'
  if (Array.isArray(value))
    return value.length > 0 && typeof value[0] !== 'object' ? ['…'] : value.map((one) => shapeOf(one))
  if (typeof value === 'object' && value !== null) {
    return Object.entries(value).map(([member, inner]) => [member, shapeOf(inner, member)])
  }
  return value === null || TELLING.has(name) ? value : typeof value
}

/** All of them in a body, in its order. */
export function countsOf(value: unknown): readonly string[] {
  if (typeof value !== 'object' || value === null) return []
  // What the model said, token by token.
  const { output_messages: _, ...others } = value as { readonly output_messages?: unknown }
  return Object.entries(others).flatMap(([name, inner]) =>
    COUNTED.has(name) && (typeof inner !== 'object' || typeof (inner as readonly unknown[] | null)?.[0] === 'number')
      ? [`${name}=${inner}`]
      : countsOf(inner),
  )
}

/** The counts of a whole answer; those of a stream's last event, where it has any. */
export function countsIn({ json, stream }: Answer): readonly string[] {
  if (stream === undefined) return countsOf(json)
  return (
    streamedBodies(stream)
      .map(countsOf)
      .findLast((counts) => counts.length > 0) ?? []
  )
}

/** The shapes of a stream's events, as many as there are. */
export function streamShapes({ stream = '' }: Answer): unknown[] {
  return streamedBodies(stream).map((body) => (body === '[DONE]' ? body : shapeOf(body)))
}

/** How many events of one shape follow each other is the model's matter. */
export function withoutRepeats(shapes: readonly unknown[]): unknown[] {
  return shapes.filter((shape, index) => JSON.stringify(shape) !== JSON.stringify(shapes[index - 1]))
}
