// What of a request's body makes its prompt, taken from where it stands: a long chat is neither parsed nor rebuilt.
import type { Dialect } from '../../shared/dialect.ts'
import { readIdList, skipSpace } from '../tokens/token-ids.ts'
import type { Prompt } from '../tokens/tokenizer.ts'
import { type BodyMember, findMember, QUOTE, rewriteBody, stringEnd } from './body.ts'
import { type JsonObject, orUnknown, type ReadMember, readerOf, templateArguments } from './chat-prompt.ts'
import { messagesPrompt } from './messages-prompt.ts'
import { responsesPrompt } from './responses-prompt.ts'

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

const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d

export function promptOf(dialect: Dialect, body: Buffer, members: readonly BodyMember[]): Prompt {
  switch (dialect) {
    case 'chat':
      return chatPrompt(body, members)
    case 'completions':
      return completionPrompt(body, members)
    case 'responses':
      return responsesPrompt(body, members)
    case 'messages':
      return messagesPrompt(body, members)
    case 'count-tokens':
      return { kind: 'unknown', because: 'counting tokens computes none of them' }
    case 'embeddings':
      return { kind: 'unknown', because: 'prompts of embeddings are not looked up' }
  }
}

function chatPrompt(body: Buffer, members: readonly BodyMember[]): Prompt {
  return orUnknown(() => {
    const kwargs = argumentsOf(readerOf(body, members))
    const set = new Map(kwargs === undefined ? [] : [['chat_template_kwargs', JSON.stringify(kwargs)]])
    return { kind: 'text', body: rewriteBody(body, members, (name) => !CHAT_MEMBERS.has(name), set) }
  })
}

/**
 * `reasoning_effort` and `documents` reach the template as arguments in vLLM, but are no members of `/tokenize`. Undefined
 * when there is nothing to add. (`ChatCompletionRequest.build_chat_params`, 0.32)
 */
function argumentsOf(read: ReadMember): JsonObject | undefined {
  const effort = read('reasoning_effort')
  const documents = read('documents')
  if (effort === undefined && documents === undefined) return undefined
  return templateArguments(read('chat_template_kwargs'), effort, documents)
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

/** @param text the prompt as JSON, where it is not the member's own value. */
function textPrompt(body: Buffer, members: readonly BodyMember[], text: string | undefined): Prompt {
  const set = new Map(text === undefined ? [] : [['prompt', text]])
  return { kind: 'text', body: rewriteBody(body, members, (name) => !COMPLETION_MEMBERS.has(name), set) }
}
