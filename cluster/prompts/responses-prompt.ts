// The chat that vLLM makes of a request for a response. (`construct_input_messages`, `construct_tool_dicts`, 0.32)
import type { TextPrompt } from '../tokens/tokenizer.ts'
import {
  convertChat,
  isObject,
  type JsonObject,
  listOf,
  objectOf,
  type ReadMember,
  type RequestInDialect,
  templateArguments,
  textOf,
  unknown,
} from './chat-prompt.ts'

export function responsesPrompt(request: RequestInDialect): TextPrompt {
  return convertChat(request, (read) => {
    for (const name of ['previous_response_id', 'previous_input_messages', 'prompt']) {
      if (read(name) !== undefined) return unknown('the prompt goes on from what only an engine knows')
    }
    if ((read('truncation') ?? 'disabled') !== 'disabled') return unknown('an engine may truncate the prompt')
    return {
      model: read('model'),
      messages: [...instructionsOf(read('instructions')), ...inputOf(read('input'))],
      tools: toolsOf(read('tools')),
      chat_template_kwargs: templateArguments(read('chat_template_kwargs'), effortOf(read)),
      // A template may write a BOS of its own: vLLM then computes two.
      add_special_tokens: true,
      media_io_kwargs: read('media_io_kwargs'),
    }
  })
}

function instructionsOf(instructions: unknown): JsonObject[] {
  const text = textOf(instructions ?? '', '`instructions`')
  return text === '' ? [] : [{ role: 'system', content: text }]
}

/** A message of the assistant, as it grows: its reasoning, text and calls come as items of their own. */
type Turn = { role: 'assistant'; reasoning?: string; content?: string; tool_calls?: JsonObject[] }

function inputOf(input: unknown): JsonObject[] {
  if (typeof input === 'string') return [{ role: 'user', content: input }]
  const messages: JsonObject[] = []
  /** The last message, while it is the assistant's. */
  let turn: Turn | undefined

  /** Adds to the assistant's message unless it has such a part already. */
  function tell(part: 'reasoning' | 'content', text: string): void {
    if (turn?.[part] === undefined && turn) turn[part] = text
    else begin({ role: 'assistant', [part]: text })
  }

  function begin(next: Turn): void {
    turn = next
    messages.push(next)
  }

  const items = listOf(input, '`input`').map((item) => objectOf(item, 'an item of `input`'))
  const { status } = items.at(-1) ?? {}
  if (status === 'in_progress' || status === 'incomplete') return unknown('the last item of `input` goes on')
  for (const item of items) {
    const { type = 'message', role } = item
    if (type === 'function_call') {
      const call = callOf(item)
      if (!turn) begin({ role: 'assistant', tool_calls: [call] })
      else turn.tool_calls = [...(turn.tool_calls ?? []), call]
    } else if (type === 'reasoning') {
      tell('reasoning', reasoningOf(item))
    } else if (type === 'function_call_output') {
      const content = textOf(item.output, 'the output of a tool')
      messages.push({ role: 'tool', content, tool_call_id: textOf(item.call_id, 'the id of an output') })
      turn = undefined
    } else if (type === 'message' && role === 'assistant') {
      tell('content', textOfAssistant(item.content))
    } else if (type === 'message' && (role === 'user' || role === 'system' || role === 'developer')) {
      messages.push({ role, content: contentOf(item.content) })
      turn = undefined
    } else {
      return unknown('an item of `input` is neither a message, nor reasoning, nor of a tool')
    }
  }
  return messages
}

function callOf({ call_id: id, name, arguments: words, namespace }: JsonObject): JsonObject {
  if (namespace !== undefined && namespace !== null) return unknown('a call names a namespace')
  return {
    id: textOf(id, 'the id of a call'),
    type: 'function',
    function: { name: textOf(name, 'the name of a tool'), arguments: textOf(words, 'the arguments of a call') },
  }
}

/** Of several parts vLLM takes the first. */
function reasoningOf({ content, summary, encrypted_content: encrypted }: JsonObject): string {
  if (encrypted) return unknown('reasoning is encrypted')
  const parts = listOf(content ?? [], 'the content of reasoning')
  const [first] = parts.length > 0 ? parts : listOf(summary, 'the summary of reasoning')
  return first === undefined ? '' : textOf(objectOf(first, 'a part of reasoning').text, 'a part of reasoning')
}

/** Of several parts vLLM takes the first. */
function textOfAssistant(content: unknown): string {
  if (typeof content === 'string') return content
  const [first] = listOf(content, 'the content of a message')
  return textOf(objectOf(first, 'a part of a message').text, 'a part of a message')
}

function contentOf(content: unknown): unknown {
  if (typeof content === 'string') return content
  return listOf(content, 'the content of a message').map((each) => {
    const { type, text } = objectOf(each, 'a part of a message')
    if (type !== 'input_text') return unknown('a part of a message is not text')
    return { type: 'text', text: textOf(text, 'a part of a message') }
  })
}

function toolsOf(tools: unknown): JsonObject[] | undefined {
  const given = listOf(tools ?? [], '`tools`')
  if (given.length === 0) return undefined
  return given.map((each) => {
    const { type, name, description, parameters, strict, defer_loading } = objectOf(each, 'a tool')
    if (type !== 'function') return unknown('a tool is no function')
    return { type: 'function', function: { name, description, parameters, strict, defer_loading } }
  })
}

function effortOf(read: ReadMember): unknown {
  const reasoning = read('reasoning')
  return isObject(reasoning) ? (reasoning.effort ?? undefined) : undefined
}
