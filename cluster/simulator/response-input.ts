// The conversation of a /v1/responses request: its items as the chat messages that the template renders, after the turns
// before it.
import { ApiError, badRequest, type Issue, validationError } from './errors.ts'
import type { Body } from './schema.ts'
import { type ChatMessage, contentText } from './tokenizer.ts'

/** What a kept response adds to the request that goes on from it. */
export type EarlierTurns = {
  /** Of the request that it answered, with the turns before that. */
  readonly messages: readonly ChatMessage[]
  readonly output: readonly Body[]
}

/** The messages of a request. Instructions hold for one request only: those of earlier ones are left out. */
export function conversationOf(
  instructions: unknown,
  earlier: EarlierTurns | undefined,
  input: unknown,
): readonly ChatMessage[] | ApiError {
  const messages: ChatMessage[] = []
  if (typeof instructions === 'string' && instructions !== '') messages.push({ role: 'system', content: instructions })
  for (const message of earlier?.messages ?? []) if (message.role !== 'system') messages.push(message)
  for (const { type, content } of earlier?.output ?? []) {
    if (type === 'message') messages.push({ role: 'assistant', content: firstText(content) })
  }
  if (typeof input === 'string') return [...messages, { role: 'user', content: input }]
  const said = messagesOf(input as readonly unknown[])
  return said instanceof ApiError ? said : [...messages, ...said]
}

/** Refuses an input that is neither a text nor a list of items. */
export function refuseInput(input: unknown): ApiError | undefined {
  if (typeof input === 'string') return undefined
  const issues: Issue[] = [{ type: 'string_type', loc: 'body.input', msg: 'Input should be a valid string', input }]
  if (!Array.isArray(input)) {
    return validationError([
      ...issues,
      { type: 'list_type', loc: 'body.input', msg: 'Input should be a valid list', input },
    ])
  }
  // vLLM tries every kind of item and says of each what is missing; here it is the plain message's findings.
  const wrong = input.findIndex((item) => !isItem(item))
  if (wrong < 0) return undefined
  const loc = `body.input.${wrong}.EasyInputMessageParam`
  const item: unknown = input[wrong]
  if (typeof item !== 'object' || item === null || Array.isArray(item)) {
    issues.push({ type: 'dict_type', loc, msg: 'Input should be a valid dictionary', input: item })
  } else {
    for (const name of ['content', 'role'] as const) {
      if (typeof (item as Body)[name] !== 'string') {
        issues.push({ type: 'missing', loc: `${loc}.${name}`, msg: 'Field required', input: item })
      }
    }
  }
  return validationError(issues)
}

function isItem(item: unknown): item is Body {
  if (typeof item !== 'object' || item === null || Array.isArray(item)) return false
  const { type, role, content, name, output, call_id: callId } = item as Body
  switch (type) {
    case undefined:
    case null:
    case 'message':
      return typeof role === 'string' && (typeof content === 'string' || Array.isArray(content))
    case 'function_call':
      return typeof name === 'string' && typeof callId === 'string'
    case 'function_call_output':
      return typeof output === 'string' || Array.isArray(output)
    default:
      return type === 'reasoning'
  }
}

/** One message for each item, but that calls and thoughts join the assistant's message before them. */
function messagesOf(items: readonly unknown[]): readonly ChatMessage[] | ApiError {
  const messages: ChatMessage[] = []
  const join = (member: string, value: unknown) => {
    const before = messages.at(-1)
    if (before?.role !== 'assistant' || (before[member] !== undefined && member !== 'tool_calls')) {
      messages.push({ role: 'assistant', [member]: value })
      return
    }
    const joined =
      member === 'tool_calls' ? [...((before.tool_calls ?? []) as unknown[]), ...(value as unknown[])] : value
    messages[messages.length - 1] = { ...before, [member]: joined }
  }
  for (const item of items as readonly Body[]) {
    switch (item.type) {
      case 'function_call': {
        const called = { name: item.name, arguments: item.arguments ?? '' }
        join('tool_calls', [{ id: item.call_id, function: called, type: 'function' }])
        break
      }
      case 'function_call_output':
        messages.push({ role: 'tool', content: item.output, tool_call_id: item.call_id })
        break
      case 'reasoning':
        if (item.encrypted_content) return badRequest('Encrypted content is not supported.', 'input')
        join('reasoning', firstText(item.content) || firstText(item.summary))
        break
      default:
        if (item.role === 'assistant') {
          join('content', typeof item.content === 'string' ? item.content : firstText(item.content))
        } else messages.push(item as ChatMessage)
    }
  }
  return messages
}

function firstText(parts: unknown): string {
  return Array.isArray(parts) && parts.length > 0 ? contentText([parts[0]]) : ''
}
