// A chat as vLLM's `POST /tokenize` takes it, and as a chat template does, for dialects whose requests vLLM itself turns
// into chats first.
import type { Dialect } from '../../shared/dialect.ts'
import type { EngineBody, JsonObject, PromptWords, TextPrompt } from '../tokens/tokenizer.ts'
import { type BodyMember, findMember } from './body.ts'
import { findLongStrings, type ShortBody, withStandIns } from './long-strings.ts'
import { parseExactly } from './parse-exactly.ts'

export type { JsonObject } from '../tokens/tokenizer.ts'

/** Undefined members are left out. */
export type ChatPrompt = {
  readonly model: unknown
  readonly messages: readonly JsonObject[]
  readonly tools: readonly JsonObject[] | undefined
  readonly chat_template_kwargs: JsonObject | undefined
  readonly add_special_tokens?: boolean
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

/** Runs a conversion of a body's members, for an engine or for a template; what it gives up on has no prompt. */
export function convertChat(request: RequestInDialect, convert: (read: ReadMember) => ChatPrompt): TextPrompt {
  return textPrompt(
    request,
    (whole) => Buffer.from(JSON.stringify(convert(readerOf(whole.body, whole.members)))),
    (short) => {
      const { messages, tools, chat_template_kwargs, add_special_tokens } = convert(readerOf(short.body, short.members))
      const chat = {
        messages,
        tools,
        templateArguments: chat_template_kwargs,
        addGenerationPrompt: true,
        continueFinalMessage: false,
      }
      return { ok: true, chat, addSpecialTokens: add_special_tokens === true }
    },
  )
}

/** A request in its dialect, and where its members stand. */
export type RequestInDialect = ShortBody & { readonly dialect: Dialect }

/** A prompt whose conversions may give up. */
export function textPrompt(
  request: RequestInDialect,
  forEngine: (whole: ShortBody) => Buffer,
  read: (short: ShortBody) => PromptWords,
): TextPrompt {
  const { dialect, body, members } = request
  return {
    kind: 'text',
    source: { dialect, body },
    forEngine: () => orUnknown((): EngineBody => ({ ok: true, body: forEngine(request) })),
    get reading() {
      const { spans, parts } = findLongStrings(body, members)
      return {
        longStrings: spans.map(({ start, end }) => body.subarray(start, end)),
        parts,
        read: (standIns: readonly (string | undefined)[]) =>
          orUnknown(() => read(withStandIns(request, spans, standIns) ?? unknown('the prompt is no JSON'))),
      }
    },
  }
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

function orUnknown<Made>(make: () => Made): Made | { readonly ok: false; readonly because: string } {
  try {
    return make()
  } catch (error) {
    if (error instanceof Unknown) return { ok: false, because: error.message }
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
