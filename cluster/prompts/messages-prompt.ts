// The chat that vLLM makes of a request for messages. (`AnthropicServingMessages.to_chat_completion_request`, 0.32)
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

export function messagesPrompt(request: RequestInDialect): TextPrompt {
  return convertChat(request, (read) => ({
    model: read('model'),
    messages: [...systemOf(read('system')), ...listOf(read('messages'), '`messages`').flatMap(messagesOf)],
    tools: toolsOf(read('tools')),
    chat_template_kwargs: templateArguments(read('chat_template_kwargs'), effortOf(read)),
  }))
}

/** Claude Code begins a block with it whose hash changes with every request; vLLM leaves the block out. */
const BILLING_HEADER = 'x-anthropic-billing-header'

function systemOf(system: unknown): JsonObject[] {
  const text =
    system === undefined || typeof system === 'string'
      ? system
      : listOf(system, '`system`').map(textOfSystemBlock).join('')
  return text ? [{ role: 'system', content: text }] : []
}

function textOfSystemBlock(block: unknown): string {
  const { type, text } = objectOf(block, 'a block of `system`')
  if (type !== 'text') return unknown('a block of `system` is not text')
  const words = textOf(text ?? '', 'a block of `system`')
  return words.startsWith(BILLING_HEADER) ? '' : words
}

/** One message may become several: results of tools are messages of their own, before what the user says with them. */
function messagesOf(message: unknown): JsonObject[] {
  const { role, content } = objectOf(message, 'a message')
  // vLLM moves it to the front where the model's template wants it there.
  if (role === 'system') return unknown('a system message stands among the others')
  if (role !== 'user' && role !== 'assistant') return unknown('the role of a message is not known')
  if (typeof content === 'string') return [{ role, content }]

  const results: JsonObject[] = []
  const parts: JsonObject[] = []
  const calls: JsonObject[] = []
  const thoughts: string[] = []
  for (const each of listOf(content, 'the content of a message')) {
    const block = objectOf(each, 'a block of a message')
    switch (block.type) {
      case 'text': {
        const text = textOf(block.text ?? '', 'a text block')
        if (text !== '') parts.push({ type: 'text', text })
        break
      }
      case 'thinking':
        if (block.thinking !== undefined && block.thinking !== null) thoughts.push(textOf(block.thinking, 'a thought'))
        break
      case 'redacted_thinking':
        break
      case 'tool_use':
        calls.push(callOf(block))
        break
      case 'tool_result':
        if (role !== 'user') return unknown('the assistant has a result of a tool')
        results.push(resultOf(block))
        break
      default:
        return unknown('a block of a message is neither text, nor thinking, nor of a tool')
    }
  }
  const [first] = parts
  const turn = {
    role,
    ...(thoughts.length > 0 && { reasoning: thoughts.join('') }),
    ...(calls.length > 0 && { tool_calls: calls }),
    ...(first && { content: parts.length === 1 ? first.text : parts }),
  }
  return role === 'user' && !first ? results : [...results, turn]
}

function callOf({ id, name, input }: JsonObject): JsonObject {
  // Without one, vLLM makes one of the time.
  if (!id) return unknown('a call of a tool has no id')
  const given = objectOf(input ?? {}, 'the input of a call')
  return {
    id: textOf(id, 'the id of a call'),
    type: 'function',
    function: { name: textOf(name ?? '', 'the name of a tool'), arguments: pythonJson(given) },
  }
}

function resultOf({ tool_use_id: id, content }: JsonObject): JsonObject {
  const text =
    typeof content === 'string'
      ? content
      : listOf(content ?? [], 'the result of a tool')
          .map((block) => textOfResult(objectOf(block, 'a block of a result')))
          .join('\n')
  return { role: 'tool', tool_call_id: textOf(id ?? '', 'the id of a result'), content: text }
}

function textOfResult({ type, text = '' }: JsonObject): string {
  return type === 'text' ? textOf(text, 'the result of a tool') : unknown('the result of a tool is not text')
}

function toolsOf(tools: unknown): JsonObject[] | undefined {
  if (tools === undefined) return undefined
  return listOf(tools, '`tools`').map((each) => {
    const { name, description, input_schema: schema, strict, defer_loading } = objectOf(each, 'a tool')
    const given = objectOf(schema, 'the schema of a tool')
    const parameters = Object.hasOwn(given, 'type') ? given : { ...given, type: 'object' }
    return { type: 'function', function: { name, description, parameters, strict, defer_loading } }
  })
}

/**
 * What the template hears of thinking. vLLM finds out once what its template takes for none at all; where that is another
 * word, the template mostly ignores this one.
 */
function effortOf(read: ReadMember): unknown {
  const thinking = read('thinking')
  if (isObject(thinking) && thinking.type === 'disabled') return 'none'
  const config = read('output_config')
  return isObject(config) ? (config.effort ?? undefined) : undefined
}

/** As `json.dumps` spells it: some templates show a call's arguments as they are written. */
function pythonJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(pythonJson).join(', ')}]`
  if (isObject(value)) {
    const members = Object.entries(value).map(([name, member]) => `${pythonJson(name)}: ${pythonJson(member)}`)
    return `{${members.join(', ')}}`
  }
  return JSON.stringify(value).replace(/[\u007f-\uffff]/g, (unit) => {
    return `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`
  })
}
