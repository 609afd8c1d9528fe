// A model's chat template with conversations prepared as vLLM prepares them, so that it renders the text that the engine
// computes. (`vllm/renderers/chat_utils.py` and `hf.py`, `transformers/utils/chat_template_utils.py`; vLLM 0.32)
import { Template } from '@huggingface/jinja'
import { takesContentParts } from './template-source.ts'
import type { Chat, JsonObject } from './tokenizer.ts'

export type ChatTemplate = {
  /** The text of the prompt, or the template's objection, in words. */
  readonly render: (chat: Chat) => Rendered
  /** The template itself, parsed, for whoever wants to know what it looks at. */
  readonly parsed: Template['parsed']
}

export type Rendered = { readonly ok: true; readonly text: string } | { readonly ok: false; readonly because: string }

/** As `tokenizer_config.json` has them, by name (`bos_token`, …): variables of every template. */
export type SpecialTokens = Readonly<Record<string, string>>

/** Parses the template. Throws an Error when it is none. */
export function createChatTemplate(source: string, specialTokens: SpecialTokens): ChatTemplate {
  const template = new Template(source)
  const partsWanted = takesContentParts(template.parsed)
  const knowsDevelopers = /["']developer["']/.test(source)
  return {
    parsed: template.parsed,
    render({ messages, tools, templateArguments, addGenerationPrompt, continueFinalMessage }) {
      try {
        let prepared = messages.map((message) => prepare(message, partsWanted))
        if (!knowsDevelopers && prepared.some(({ role }) => role === 'developer')) {
          prepared = withSystemFirst(prepared.map(developerAsSystem))
        }
        if (continueFinalMessage) prepared = withTag(prepared)
        const text = template.render({
          ...specialTokens,
          ...templateArguments,
          messages: prepared,
          tools: tools === undefined ? null : tools.map(describeTool),
          documents: templateArguments?.documents ?? null,
          add_generation_prompt: addGenerationPrompt,
        })
        return { ok: true, text: continueFinalMessage ? beforeTag(text) : text }
      } catch (error) {
        if (error instanceof Refusal) return { ok: false, because: error.message }
        return { ok: false, because: `the chat template: ${error instanceof Error ? error.message : String(error)}` }
      }
    },
  }
}

/** Unwinds the preparation of a conversation that cannot be prepared as the engine does; it never leaves `render`. */
class Refusal extends Error {}

type Prepared = { role: string; content: unknown; [member: string]: unknown }

function prepare(message: JsonObject, partsWanted: boolean): Prepared {
  const { role, name, task } = message
  if (typeof role !== 'string') throw new Refusal('a message has no role')
  const parts = partsOf(message, role)
  const content = partsWanted && role !== 'tool' ? parts : parts.map(({ text }) => text).join('\n')
  const prepared: Prepared = { role, content }
  if (role === 'assistant') {
    const { tool_calls: calls } = message
    if (calls !== undefined && calls !== null) {
      const list = callsOf(calls)
      if (list.length > 0) prepared.tool_calls = list
    }
    const reasoning = message.reasoning ?? message.reasoning_content
    if (reasoning !== undefined && reasoning !== null) {
      prepared.reasoning = reasoning
      prepared.reasoning_content = reasoning
    }
  } else if (role === 'tool') {
    if (message.tool_call_id !== undefined) prepared.tool_call_id = message.tool_call_id
  } else if (role === 'developer') {
    prepared.tools = message.tools ?? null
  }
  if (typeof name === 'string') prepared.name = name
  if (typeof task === 'string') prepared.task = task
  return prepared
}

type TextPart = { readonly type: 'text'; readonly text: string; readonly [member: string]: unknown }

/** Types of parts whose text counts, and the member that it is in. */
const TEXT_OF_PART: Readonly<Record<string, string>> = {
  text: 'text',
  input_text: 'text',
  output_text: 'text',
  refusal: 'refusal',
  thinking: 'thinking',
}
/** Members of a part that are not handed on to the template. */
const PART_MEMBERS = new Set(['type', 'text', 'refusal', 'thinking'])
/** Claude Code begins a line with it that changes with every request; vLLM leaves it out. */
const BILLING_HEADER = 'x-anthropic-billing-header'

function partsOf({ content }: JsonObject, role: string): TextPart[] {
  if (content === undefined || content === null) return []
  const given = typeof content === 'string' ? [content] : content
  if (!Array.isArray(given)) throw new Refusal('the content of a message is neither text nor a list')
  const parts = given.flatMap((part) => partOf(part) ?? [])
  return role === 'system' ? parts.flatMap(withoutBillingHeader) : parts
}

function partOf(part: unknown): TextPart | undefined {
  if (typeof part === 'string') return { type: 'text', text: edged(part) }
  if (typeof part !== 'object' || part === null) throw new Refusal('a part of a message is no object')
  const given = part as JsonObject
  const { type } = given
  const member = typeof type === 'string' ? TEXT_OF_PART[type] : undefined
  if (member === undefined) throw new Refusal('a part of a message is not text')
  const text = given[member]
  if (text === undefined || text === null) return undefined
  if (typeof text !== 'string') throw new Refusal('a part of a message is not text')
  const others = Object.entries(given).filter(([name]) => !PART_MEMBERS.has(name))
  return { type: 'text', text: edged(text), ...Object.fromEntries(others) }
}

/** White space to Python and not to JavaScript, or the other way round. */
const UNLIKE_EDGES = new Set('\x1c\x1d\x1e\x1f\x85\ufeff')

/** A text whose ends both languages would trim alike. */
function edged(text: string): string {
  if (text !== '' && (UNLIKE_EDGES.has(text[0] as string) || UNLIKE_EDGES.has(text.at(-1) as string)))
    throw new Refusal('a text begins or ends with rare white space')
  return text
}

function withoutBillingHeader(part: TextPart): TextPart[] {
  const { text } = part
  if (!text.startsWith(BILLING_HEADER)) return [part]
  const end = text.indexOf('\n')
  const rest = end === -1 ? '' : text.slice(end + 1)
  return rest === '' ? [] : [{ ...part, text: rest }]
}

/** A call's arguments are an object to templates; what is no JSON object is an empty one. */
function callsOf(calls: unknown): unknown[] {
  if (!Array.isArray(calls)) throw new Refusal('the calls of a message are no list')
  return calls.map((call: unknown) => {
    const { function: called, type } = (call ?? {}) as JsonObject
    if (typeof called !== 'object' || called === null || (type !== undefined && type !== 'function')) {
      throw new Refusal('a call of a tool is no function')
    }
    return {
      ...(call as JsonObject),
      function: { ...called, arguments: argumentsOf((called as JsonObject).arguments) },
    }
  })
}

/** A member name that is a number (JavaScript sorts those to the front) or that has escapes. */
const UNLIKE_NAME = /"\d+"\s*:|\\[^"]{0,200}"\s*:/
/** A whole number written as a fraction, or an exponent: Python keeps 1.0 apart from 1. */
const UNLIKE_NUMBER = /[[:,\s]-?(?:\d+\.0+|\d+(?:\.\d+)?[eE][-+]?\d+)[\s\],}]/

function argumentsOf(given: unknown): unknown {
  if (typeof given === 'object' && given !== null && !Array.isArray(given)) return alike(given)
  if (typeof given !== 'string' || given === '') return {}
  if (UNLIKE_NAME.test(given) || UNLIKE_NUMBER.test(given)) throw new Refusal(WRITTEN_OTHERWISE)
  let parsed: unknown
  try {
    parsed = JSON.parse(given)
  } catch {
    return {}
  }
  return typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed) ? alike(parsed) : {}
}

const WRITTEN_OTHERWISE = 'a number or a name in the prompt would be written otherwise by the engine'
/** Between these Python writes a fraction as JavaScript does, without an exponent. */
const FRACTION_MIN = 1e-4

/** The value, all of whose numbers Python writes as JavaScript does. */
function alike(value: unknown): unknown {
  if (typeof value === 'number') {
    const isAlike = Number.isInteger(value) ? Number.isSafeInteger(value) : Math.abs(value) >= FRACTION_MIN
    if (!isAlike || Math.abs(value) > Number.MAX_SAFE_INTEGER) throw new Refusal(WRITTEN_OTHERWISE)
  } else if (typeof value === 'object' && value !== null) {
    for (const member of Object.values(value)) alike(member)
  }
  return value
}

/** A tool as vLLM's own type of it prints: with these members in this order, whatever else the caller sent. */
export function describeTool(tool: unknown): unknown {
  const { type, function: described } = (tool ?? {}) as {
    readonly type?: unknown
    readonly function?: JsonObject | null
  }
  const { name, description, parameters, strict, defer_loading: deferred } = described ?? {}
  return {
    type: type ?? 'function',
    function: {
      name,
      description: description ?? null,
      parameters: alike(parameters ?? null),
      ...(strict === undefined || strict === null ? {} : { strict }),
      ...(deferred === undefined || deferred === null ? {} : { defer_loading: deferred }),
    },
  }
}

function developerAsSystem(message: Prepared): Prepared {
  if (message.role !== 'developer') return message
  const { tools: _, ...rest } = message
  return { ...rest, role: 'system' } as Prepared
}

/** Some templates take what the system says at the front alone. */
function withSystemFirst(messages: readonly Prepared[]): Prepared[] {
  const late = messages.findIndex(({ role }, index) => role === 'system' && index > 0)
  if (late === -1) return [...messages]
  const said = messages.filter(({ role }) => role === 'system').map(({ content }) => textOf(content))
  const content = said.filter((text) => text !== '').join('\n\n')
  return [{ role: 'system', content }, ...messages.filter(({ role }) => role !== 'system')]
}

function textOf(content: unknown): string {
  return Array.isArray(content) ? content.map(({ text }: TextPart) => text).join('\n') : String(content ?? '')
}

const TAG = 'CONTINUE_FINAL_MESSAGE_TAG '

function withTag(messages: readonly Prepared[]): Prepared[] {
  const last = messages.at(-1)
  if (last === undefined) throw new Refusal('there is no message to go on with')
  if (typeof last.content === 'string') return [...messages.slice(0, -1), { ...last, content: last.content + TAG }]
  const parts = last.content as readonly TextPart[]
  const final = parts.at(-1)
  if (final === undefined) throw new Refusal('the final message has no text to go on with')
  const tagged = [...parts.slice(0, -1), { ...final, text: final.text + TAG }]
  return [...messages.slice(0, -1), { ...last, content: tagged }]
}

/** What the template puts behind the final message would end the turn that is to go on. */
function beforeTag(text: string): string {
  const at = text.lastIndexOf(TAG.trimEnd())
  if (at === -1) throw new Refusal('the template leaves out the message to go on with')
  const before = text.slice(0, at)
  return text.startsWith(TAG, at) ? before : before.trimEnd()
}
