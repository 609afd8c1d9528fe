// What of a request's body makes its prompt, taken from where it stands: a long chat is neither parsed nor rebuilt.
import type { Dialect } from '../../shared/dialect.ts'
import { readIdList, skipSpace } from '../tokens/token-ids.ts'
import type { Prompt, TextPrompt } from '../tokens/tokenizer.ts'
import { type BodyMember, findMember, QUOTE, rewriteBody, stringEnd } from './body.ts'
import {
  isObject,
  type JsonObject,
  listOf,
  objectOf,
  type ReadMember,
  type RequestInDialect,
  readerOf,
  templateArguments,
  textOf,
  textPrompt,
  unknown,
} from './chat-prompt.ts'
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

/** A worker thread that reads prompts as this one does, and encodes. */
export const PROMPT_WORKER = new URL('./prompt-worker.ts', import.meta.url)

export function promptOf(dialect: Dialect, body: Buffer, members: readonly BodyMember[]): Prompt {
  const request = { dialect, body, members }
  switch (dialect) {
    case 'chat':
      return chatPrompt(request)
    case 'completions':
      return completionPrompt(request)
    case 'responses':
      return responsesPrompt(request)
    case 'messages':
      return messagesPrompt(request)
    case 'count-tokens':
      return { kind: 'unknown', because: 'counting tokens computes none of them' }
    case 'embeddings':
      return { kind: 'unknown', because: 'prompts of embeddings are not looked up' }
  }
}

/** What comes first in a rendered prompt stands first. */
const CONVERSATION = ['instructions', 'system', 'tools', 'prompt', 'messages', 'input'] as const

/**
 * The conversation as it stands in the body, in parts, for guesses; undefined for what is no prompt that another could share.
 */
export function promptBytesOf(
  dialect: Dialect,
  body: Buffer,
  members: readonly BodyMember[],
): readonly Buffer[] | undefined {
  if (dialect === 'count-tokens' || dialect === 'embeddings') return undefined
  const found = CONVERSATION.flatMap((name) => findMember(members, name) ?? [])
  return found.map(({ valueStart, valueEnd }) => body.subarray(valueStart, valueEnd))
}

/**
 * Whether the engine looks into its prefix cache for this request: where it is to tell how likely the prompt's own tokens
 * are, it computes all of them. (`SamplingParams.skip_reading_prefix_cache`, vLLM 0.32)
 */
export function readsPrefixCache(body: Buffer, members: readonly BodyMember[]): boolean {
  const given = (name: string): boolean => {
    const member = findMember(members, name)
    return member !== undefined && !ABSENT.has(body.toString('latin1', member.valueStart, member.valueEnd))
  }
  return !given('prompt_logprobs') && !(given('echo') && (given('logprobs') || given('top_logprobs')))
}

const ABSENT: ReadonlySet<string> = new Set(['null', 'false'])

/** Members with which the engine computes other tokens than those of the words. */
const OTHER_TOKENS = ['truncate_prompt_tokens', 'prompt_embeds'] as const

function chatPrompt(request: RequestInDialect): Prompt {
  return textPrompt(
    request,
    (whole) => {
      const read = readerOf(whole.body, whole.members)
      for (const name of OTHER_TOKENS) if (read(name) !== undefined) return unknown(`the request has \`${name}\``)
      const kwargs = argumentsOf(read)
      const set = new Map(kwargs === undefined ? [] : [['chat_template_kwargs', JSON.stringify(kwargs)]])
      return rewriteBody(whole.body, whole.members, (name) => !CHAT_MEMBERS.has(name), set)
    },
    (short) => {
      const read = readerOf(short.body, short.members)
      for (const name of [...OTHER_TOKENS, 'chat_template', 'mm_processor_kwargs']) {
        if (read(name) !== undefined) return unknown(`the request has \`${name}\``)
      }
      const tools = read('tools')
      const given = read('chat_template_kwargs')
      const chat = {
        messages: listOf(read('messages'), '`messages`').map((message) => objectOf(message, 'a message')),
        tools: tools === undefined ? undefined : listOf(tools, '`tools`').map((tool) => objectOf(tool, 'a tool')),
        templateArguments: argumentsOf(read) ?? (isObject(given) ? given : undefined),
        addGenerationPrompt: read('add_generation_prompt') !== false,
        continueFinalMessage: read('continue_final_message') === true,
      }
      return { ok: true, chat, addSpecialTokens: read('add_special_tokens') === true }
    },
  )
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

function completionPrompt(request: RequestInDialect): Prompt {
  const { body, members } = request
  const prompt = findMember(members, 'prompt')
  if (!prompt) return { kind: 'unknown', because: 'the request has no prompt' }
  for (const name of OTHER_TOKENS) {
    const { valueStart, valueEnd } = findMember(members, name) ?? prompt
    if (valueStart !== prompt.valueStart && body.toString('latin1', valueStart, valueEnd) !== 'null') {
      return { kind: 'unknown', because: `the request has \`${name}\`` }
    }
  }
  const { valueStart } = prompt
  if (body[valueStart] === QUOTE) return completionText(request, undefined)
  if (body[valueStart] !== OPEN_BRACKET) return { kind: 'unknown', because: 'the prompt is neither text nor token ids' }
  const first = skipSpace(body, valueStart + 1)
  if (body[first] === QUOTE) {
    const end = stringEnd(body, first)
    if (isLast(body, end)) return completionText(request, body.toString('utf8', first, end))
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
function completionText(request: RequestInDialect, text: string | undefined): TextPrompt {
  return textPrompt(
    request,
    (whole) => {
      const set = new Map(text === undefined ? [] : [['prompt', text]])
      return rewriteBody(whole.body, whole.members, (name) => !COMPLETION_MEMBERS.has(name), set)
    },
    (short) => {
      const read = readerOf(short.body, short.members)
      const prompt = read('prompt')
      const words = textOf(Array.isArray(prompt) ? prompt[0] : prompt, 'the prompt')
      return { ok: true, text: words, addSpecialTokens: read('add_special_tokens') !== false }
    },
  )
}
