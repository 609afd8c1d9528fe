// What of a request's body makes its prompt, taken from where it stands: a long chat is neither parsed nor rebuilt.
import type { Dialect } from '../../shared/dialect.ts'
import type { Prompt } from '../tokens/tokenizer.ts'
import { type BodyMember, findMember, memberText, rewriteBody } from './body.ts'

/**
 * Members of a chat that vLLM's `/tokenize` knows by the same names. (`vllm/entrypoints/serve/tokenize/protocol.py`, 0.32)
 */
const CHAT_MEMBERS = new Set([
  'model',
  'messages',
  'tools',
  'add_generation_prompt',
  'continue_final_message',
  'add_special_tokens',
  'chat_template',
  'chat_template_kwargs',
  'media_io_kwargs',
  'mm_processor_kwargs',
])
const COMPLETION_MEMBERS = new Set(['model', 'prompt', 'add_special_tokens'])

/** Longer than any context: not worth reading. */
const IDS_MAX = 8 * 1024 * 1024

export function promptOf(dialect: Dialect, body: Buffer, members: readonly BodyMember[]): Prompt {
  if (dialect === 'chat') return chatPrompt(body, members)
  if (dialect === 'completions') return completionPrompt(body, members)
  return { kind: 'unknown', because: `a prompt of ${dialect} is tokenised by the engine alone` }
}

function chatPrompt(body: Buffer, members: readonly BodyMember[]): Prompt {
  const kwargs = templateArguments(body, members)
  const set = new Map(kwargs === undefined ? [] : [['chat_template_kwargs', kwargs]])
  return { kind: 'text', body: rewriteBody(body, members, (name) => !CHAT_MEMBERS.has(name), set) }
}

/**
 * `reasoning_effort` and `documents` reach the template as arguments in vLLM, but are no members of `/tokenize`. Undefined
 * when there is nothing to add. (`ChatCompletionRequest.build_chat_params`, 0.32)
 */
function templateArguments(body: Buffer, members: readonly BodyMember[]): string | undefined {
  const effort = memberValue(body, members, 'reasoning_effort')
  const documents = memberValue(body, members, 'documents')
  if (effort === undefined && documents === undefined) return undefined
  const own = memberValue(body, members, 'chat_template_kwargs')
  const given = typeof own === 'object' && !Array.isArray(own) ? own : {}
  return JSON.stringify({
    ...(effort === undefined ? {} : { reasoning_effort: effort, enable_thinking: effort !== 'none' }),
    ...(documents === undefined ? {} : { documents }),
    ...given,
  })
}

function completionPrompt(body: Buffer, members: readonly BodyMember[]): Prompt {
  const prompt = findMember(members, 'prompt')
  if (!prompt) return { kind: 'unknown', because: 'the request has no prompt' }
  const start = String.fromCharCode(body[prompt.valueStart] ?? 0)
  if (start === '"') return textPrompt(body, members, undefined)
  if (start !== '[') return { kind: 'unknown', because: 'the prompt is neither text nor token ids' }
  let list: unknown
  try {
    list = JSON.parse(memberText(body, prompt))
  } catch {
    return { kind: 'unknown', because: 'the prompt is not valid JSON' }
  }
  const items = list as readonly unknown[]
  const [only] = items
  if (items.length === 1 && typeof only === 'string') return textPrompt(body, members, only)
  const ids = items.length === 1 && Array.isArray(only) ? (only as readonly unknown[]) : items
  if (ids.length > 0 && ids.length <= IDS_MAX && ids.every(isTokenId))
    return { kind: 'ids', ids: Uint32Array.from(ids) }
  return { kind: 'unknown', because: 'the request holds several prompts' }
}

function textPrompt(body: Buffer, members: readonly BodyMember[], text: string | undefined): Prompt {
  const set = new Map(text === undefined ? [] : [['prompt', JSON.stringify(text)]])
  return { kind: 'text', body: rewriteBody(body, members, (name) => !COMPLETION_MEMBERS.has(name), set) }
}

function isTokenId(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 32
}

/** The member's value; undefined when it is absent, null or no JSON. */
function memberValue(body: Buffer, members: readonly BodyMember[], name: string): unknown {
  const member = findMember(members, name)
  if (!member) return undefined
  try {
    return JSON.parse(memberText(body, member)) ?? undefined
  } catch {
    return undefined
  }
}
