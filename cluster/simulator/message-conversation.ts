// The chat that vLLM makes of a request for messages: its system, its turns with their blocks, its tools.
import { type ApiError, badRequest, pythonText } from './errors.ts'
import type { Body } from './schema.ts'
import { type ChatMessage, TemplateError, type Tokenizer } from './tokenizer.ts'

/** Claude Code begins a block with it whose hash changes with every request; vLLM leaves the block out. */
const BILLING_HEADER = 'x-anthropic-billing-header'
/** What a system-first template is found out with. */
const PROBE = ['system', 'user', 'system', 'user'].map((role) => ({ role, content: 't' }))

/** Whether the model's chat template refuses a system message that is not the first. */
export function isSystemFirst(tokenizer: Tokenizer): boolean {
  const options = {
    addGenerationPrompt: false,
    continueFinalMessage: false,
    addSpecialTokens: false,
    templateVariables: {},
  }
  try {
    tokenizer.encodeChat(PROBE, undefined, options)
    return false
  } catch (error) {
    if (error instanceof TemplateError) return true
    throw error
  }
}

/** The messages of the chat. The body has passed the schema. */
export function chatMessages({ system, messages }: Body, systemFirst: boolean): readonly ChatMessage[] {
  const given = messages as readonly Body[]
  const said = [systemText(system)]
  if (systemFirst) for (const { role, content } of given) if (role === 'system') said.push(systemText(content))
  const first = said.join('')
  const chat: ChatMessage[] = first === '' ? [] : [{ role: 'system', content: first }]
  for (const message of given) {
    if (message.role !== 'system') chat.push(...turnsOf(message))
    else if (!systemFirst) {
      const text = systemText(message.content)
      if (text !== '') chat.push({ role: 'system', content: text })
    }
  }
  return chat
}

function systemText(content: unknown): string {
  const texts = typeof content === 'string' ? [content] : ((content ?? []) as readonly Body[]).map(textOf)
  return texts.filter((text) => !text.startsWith(BILLING_HEADER)).join('')
}

function textOf({ type, text }: Body): string {
  return type === 'text' && typeof text === 'string' ? text : ''
}

/** One message may become several: results of tools are messages of their own, before what the user says with them. */
function turnsOf({ role, content }: Body): readonly ChatMessage[] {
  if (typeof content === 'string') return [{ role: role as string, content }]
  const turns: ChatMessage[] = []
  const parts: Body[] = []
  const calls: Body[] = []
  const thoughts: string[] = []
  for (const block of content as readonly Body[]) {
    switch (block.type) {
      case 'text':
        if (block.text) parts.push({ type: 'text', text: block.text })
        break
      case 'image':
        if (block.source) parts.push({ type: 'image_url' })
        break
      case 'thinking':
        if (typeof block.thinking === 'string') thoughts.push(block.thinking)
        break
      case 'tool_use':
        calls.push(callOf(block))
        break
      case 'tool_result':
        if (role === 'user') turns.push(...resultsOf(block))
        else parts.push({ type: 'text', text: `Tool result: ${block.content ? pythonValue(block.content) : ''}` })
        break
      default:
    }
  }
  if (role === 'user' && parts.length === 0) return turns
  const [first] = parts
  const isText = parts.length === 1 && first?.type === 'text'
  return [
    ...turns,
    {
      role: role as string,
      ...(thoughts.length > 0 && { reasoning: thoughts.join('') }),
      ...(calls.length > 0 && { tool_calls: calls }),
      ...(parts.length > 0 && { content: isText ? first.text : parts }),
    },
  ]
}

function callOf({ id, name, input }: Body): Body {
  const called = { name: name ?? '', arguments: JSON.stringify(input ?? {}) }
  return { id: id || 'call_0', type: 'function', function: called }
}

function resultsOf({ tool_use_id: id, content }: Body): readonly ChatMessage[] {
  const items = Array.isArray(content) ? (content as readonly Body[]) : []
  const texts = items.flatMap(({ type, text }) => (type === 'text' ? [typeof text === 'string' ? text : ''] : []))
  const text = typeof content === 'string' ? content : texts.join('\n')
  const tool = { role: 'tool', tool_call_id: id ?? '' }
  const images = items.filter(({ type }) => type === 'image')
  const names = items.flatMap(({ type, tool_name: toolName, name }) =>
    type === 'tool_reference' && (toolName || name) ? [{ type: 'text', text: '', name: toolName || name }] : [],
  )
  return [
    { ...tool, content: text },
    ...(images.length > 0 ? [{ role: 'user', content: images.map(() => ({ type: 'image_url' })) }] : []),
    ...(names.length > 0 ? [{ ...tool, content: names }] : []),
  ]
}

/** The tools in effect at the end of the conversation, as a chat has them; undefined where none were given. */
export function chatTools({ tools, messages }: Body): readonly Body[] | undefined | ApiError {
  const changes = (messages as readonly Body[]).flatMap(({ content }) =>
    Array.isArray(content)
      ? content.filter(({ type }: Body) => type === 'tool_addition' || type === 'tool_removal')
      : [],
  )
  const given = (tools ?? undefined) as readonly Body[] | undefined
  if (changes.length === 0) return given?.map(chatTool)
  const inEffect = new Map((given ?? []).map((tool) => [tool.name, tool]))
  const removed = new Set<unknown>()
  for (const { type, tool } of changes as readonly { readonly type: string; readonly tool: Body }[]) {
    const definition = tool.definition as Body | undefined
    const name = definition?.name ?? tool.name
    if (definition) inEffect.set(name, definition)
    else if (!inEffect.has(name)) {
      return badRequest(`${type} references tool ${pythonText(String(name))}, which is not declared in tools`)
    } else if (type === 'tool_addition') inEffect.set(name, { ...inEffect.get(name), defer_loading: null })
    if (type === 'tool_removal') removed.add(name)
    else removed.delete(name)
  }
  return [...inEffect].flatMap(([name, tool]) => (removed.has(name) ? [] : [chatTool(tool)]))
}

function chatTool({ name, description, input_schema: schema, strict, defer_loading: deferred }: Body): Body {
  const given = schema as Body
  const parameters = Object.hasOwn(given, 'type') ? given : { ...given, type: 'object' }
  return { type: 'function', function: { name, description, parameters, strict, defer_loading: deferred } }
}

/** As Python prints it. */
function pythonValue(value: unknown, isTop = true): string {
  if (typeof value === 'string') return isTop ? value : pythonText(value)
  if (Array.isArray(value)) return `[${value.map((item) => pythonValue(item, false)).join(', ')}]`
  if (typeof value === 'object' && value !== null) {
    const members = Object.entries(value).map(([name, member]) => `${pythonText(name)}: ${pythonValue(member, false)}`)
    return `{${members.join(', ')}}`
  }
  if (typeof value === 'boolean') return value ? 'True' : 'False'
  return value === null ? 'None' : String(value)
}
