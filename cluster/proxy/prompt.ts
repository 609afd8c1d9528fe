// What of a request's body makes its prompt, taken from where it stands: a long chat is neither parsed nor rebuilt.
import type { Dialect } from '../../shared/dialect.ts'
import { readIdList, skipSpace } from '../tokens/token-ids.ts'
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

const QUOTE = 0x22
const OPEN_BRACKET = 0x5b
const BACKSLASH = 0x5c
const CLOSE_BRACKET = 0x5d

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
  const { valueStart } = prompt
  if (body[valueStart] === QUOTE) return textPrompt(body, members, undefined)
  if (body[valueStart] !== OPEN_BRACKET) return { kind: 'unknown', because: 'the prompt is neither text nor token ids' }
  const first = skipSpace(body, valueStart + 1)
  if (body[first] === QUOTE) {
    const end = stringEnd(body, first)
    if (isLast(body, end)) return textPrompt(body, members, body.toString('utf8', first, end))
  } else {
    const nested = body[first] === OPEN_BRACKET
    const list = readIdList(body, nested ? first + 1 : first)
    if (list && list.ids.length > 0 && (!nested || isLast(body, list.end))) return { kind: 'ids', ids: list.ids }
  }
  return { kind: 'unknown', because: 'the request holds several prompts, or none that can be read' }
}

/** Whether nothing but the end of the list comes at this place. */
function isLast(body: Buffer, at: number): boolean {
  return body[skipSpace(body, at)] === CLOSE_BRACKET
}

/** Where the string that begins at `start` has ended. */
function stringEnd(body: Buffer, start: number): number {
  let at = start + 1
  while (at < body.length && body[at] !== QUOTE) at += body[at] === BACKSLASH ? 2 : 1
  return at + 1
}

/** @param text the prompt as JSON, where it is not the member's own value. */
function textPrompt(body: Buffer, members: readonly BodyMember[], text: string | undefined): Prompt {
  const set = new Map(text === undefined ? [] : [['prompt', text]])
  return { kind: 'text', body: rewriteBody(body, members, (name) => !COMPLETION_MEMBERS.has(name), set) }
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
