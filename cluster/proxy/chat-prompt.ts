// A chat as vLLM's `POST /tokenize` takes it, for dialects whose requests vLLM itself turns into chats first.
import type { Prompt } from '../tokens/tokenizer.ts'
import { type BodyMember, findMember } from './body.ts'
import { parseExactly } from './parse-exactly.ts'

export type JsonObject = Readonly<Record<string, unknown>>

/** Undefined members are left out. */
export type ChatPrompt = {
  readonly model: unknown
  readonly messages: readonly JsonObject[]
  readonly tools: readonly JsonObject[] | undefined
  readonly chat_template_kwargs: JsonObject | undefined
  readonly media_io_kwargs?: unknown
}

/** Unwinds a conversion whose result is not known; it never leaves {@link orUnknown}. */
class Unknown extends Error {}

/** Gives up on a prompt, in words for `why`. */
export function unknown(because: string): never {
  throw new Unknown(because)
}

/** Reads a member of the body: undefined when it is absent or null. */
export type ReadMember = (name: string) => unknown

/** Runs a conversion of a body's members; what it gives up on is an unknown prompt. */
export function convertChat(
  body: Buffer,
  members: readonly BodyMember[],
  convert: (read: ReadMember) => ChatPrompt,
): Prompt {
  const read = readerOf(body, members)
  return orUnknown(() => ({ kind: 'text', body: Buffer.from(JSON.stringify(convert(read))) }))
}

/** It gives up on what cannot be read exactly. */
export function readerOf(body: Buffer, members: readonly BodyMember[]): ReadMember {
  return (name) => {
    const member = findMember(members, name)
    if (!member) return undefined
    const parsed = parseExactly(body, member.valueStart, member.valueEnd)
    return parsed.ok ? (parsed.value ?? undefined) : unknown(parsed.because)
  }
}

export function orUnknown(make: () => Prompt): Prompt {
  try {
    return make()
  } catch (error) {
    if (error instanceof Unknown) return { kind: 'unknown', because: error.message }
    throw error
  }
}

/**
 * The template's arguments: a request's own members stand above equal ones among the arguments that it names, but for
 * `enable_thinking`, which follows from the effort only where it is not named. (`build_chat_params`, 0.32)
 */
export function templateArguments(given: unknown, effort: unknown, documents?: unknown): JsonObject | undefined {
  const named = isObject(given) ? given : undefined
  if (effort === undefined && documents === undefined) return named
  return {
    ...(effort === undefined ? {} : { enable_thinking: effort !== 'none' }),
    ...named,
    ...(effort === undefined || effort === 'auto' ? {} : { reasoning_effort: effort }),
    ...(documents === undefined ? {} : { documents }),
  }
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The value as an object, or no prompt. */
export function objectOf(value: unknown, what: string): JsonObject {
  return isObject(value) ? value : unknown(`${what} is not an object`)
}

export function listOf(value: unknown, what: string): readonly unknown[] {
  return Array.isArray(value) ? value : unknown(`${what} is not a list`)
}

export function textOf(value: unknown, what: string): string {
  return typeof value === 'string' ? value : unknown(`${what} is not text`)
}
