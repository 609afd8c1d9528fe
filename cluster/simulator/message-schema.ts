// What vLLM's schema of /v1/messages finds wrong below the top level of a body: messages, blocks, tools and choices.
import { type Issue, issuesIn, literalIssue, valueIssue } from './errors.ts'
import { type Body, missing } from './schema.ts'

const ROLES = ['user', 'assistant', 'system']
const BLOCK_TYPES = [
  'text',
  'image',
  'tool_use',
  'tool_result',
  'tool_reference',
  'thinking',
  'redacted_thinking',
  'tool_addition',
  'tool_removal',
]
const BLOCK_TEXTS = ['text', 'id', 'tool_use_id', 'name', 'tool_name', 'thinking', 'signature', 'data']
const CHANGES = ['tool_addition', 'tool_removal']
const CHOICES = ['auto', 'any', 'tool', 'none']
const EFFORTS = ['low', 'medium', 'high', 'xhigh', 'max']
const THINKING_TAGS = ['enabled', 'disabled', 'adaptive']
const THINKING_BUDGET_TOKENS_MIN = 1024

/** The findings in a body whose top-level members have their types, in the order of its members. */
export function messageIssues(body: Body): readonly Issue[] {
  const issues: Issue[] = []
  if (body.model === '') issues.push(valueIssue('body.model', 'Model is required', ''))
  issues.push(...issuesIn(body.messages as unknown[], (index) => `body.messages.${index}`, oneMessageIssues))
  if (typeof body.max_tokens === 'number' && body.max_tokens <= 0) {
    issues.push(valueIssue('body.max_tokens', 'max_tokens must be positive', body.max_tokens))
  }
  if (isGiven(body.output_config)) issues.push(...outputIssues(body.output_config as Body))
  if (isGiven(body.thinking)) issues.push(...thinkingIssues(body.thinking as Body))
  const stops = (body.stop_sequences ?? []) as readonly unknown[]
  issues.push(...issuesIn(stops, (index) => `body.stop_sequences.${index}`, textIssue))
  if (isGiven(body.system)) {
    const found = contentIssues(body.system, 'body.system')
    const change = found.length === 0 ? changeIn(body.system) : undefined
    issues.push(...found, ...(change === undefined ? [] : [valueIssue('body.system', change, body.system)]))
  }
  if (isGiven(body.tool_choice)) issues.push(...choiceIssues(body.tool_choice))
  issues.push(...issuesIn((body.tools ?? []) as unknown[], (index) => `body.tools.${index}`, toolIssues))
  if (body.cache_salt === '') {
    const msg = 'String should have at least 1 character'
    issues.push({ type: 'string_too_short', loc: 'body.cache_salt', msg, input: '', context: "'min_length': 1" })
  }
  if (issues.length === 0) issues.push(...budgetIssue(body))
  return issues
}

function oneMessageIssues(message: unknown, loc: string): readonly Issue[] {
  if (!isObject(message)) return [notObject(loc, message)]
  const issues = literal(message, 'role', loc, ROLES)
  if (message.content === undefined) issues.push(missing(`${loc}.content`, message))
  else issues.push(...contentIssues(message.content, `${loc}.content`))
  if (issues.length > 0 || message.role === 'system') return issues
  const change = changeIn(message.content)
  return change === undefined ? [] : [valueIssue(loc, change, message)]
}

/** A text or a list of blocks: what is neither is told of as both. */
function contentIssues(content: unknown, loc: string): readonly Issue[] {
  if (typeof content === 'string') return []
  const notText: Issue = { type: 'string_type', loc, msg: 'Input should be a valid string', input: content }
  if (!Array.isArray(content)) {
    return [notText, { type: 'list_type', loc, msg: 'Input should be a valid list', input: content }]
  }
  const issues = issuesIn(content, (index) => `${loc}.${index}`, blockIssues)
  return issues.length === 0 ? [] : [notText, ...issues]
}

function blockIssues(block: unknown, loc: string): readonly Issue[] {
  if (!isObject(block)) return [notObject(loc, block)]
  const issues = literal(block, 'type', loc, BLOCK_TYPES)
  for (const name of BLOCK_TEXTS) if (isGiven(block[name])) issues.push(...textIssue(block[name], `${loc}.${name}`))
  for (const name of ['source', 'input']) {
    if (isGiven(block[name]) && !isObject(block[name])) issues.push(notDictionary(`${loc}.${name}`, block[name]))
  }
  if (isGiven(block.content)) issues.push(...resultIssues(block.content, `${loc}.content`))
  if (issues.length > 0 || !CHANGES.includes(block.type as string)) return issues
  return changeIssues(block, loc)
}

function resultIssues(content: unknown, loc: string): readonly Issue[] {
  if (typeof content === 'string') return []
  const notText: Issue = { type: 'string_type', loc, msg: 'Input should be a valid string', input: content }
  if (!Array.isArray(content)) {
    return [notText, { type: 'list_type', loc, msg: 'Input should be a valid list', input: content }]
  }
  const wrong = issuesIn(
    content,
    (index) => `${loc}.${index}`,
    (item, place) => (isObject(item) ? [] : [notDictionary(place, item)]),
  )
  return wrong.length === 0 ? [] : [notText, ...wrong]
}

/** A tool that a block adds to, or takes from, those of the request. */
function changeIssues({ type, tool }: Body, loc: string): readonly Issue[] {
  if (!isObject(tool)) return [valueIssue(loc, `tool is required for ${type} blocks`, { type })]
  if (tool.type === 'tool_definition') {
    if (type === 'tool_removal') return [valueIssue(loc, 'tool_removal only accepts a tool_reference', { type, tool })]
    return toolIssues(tool.definition, `${loc}.tool.tool_definition.definition`)
  }
  if (tool.type !== 'tool_reference') return [tagIssue(`${loc}.tool`, tool, ['tool_reference', 'tool_definition'])]
  return textIssue(tool.name, `${loc}.tool.tool_reference.name`)
}

/** Only the system changes tools. */
function changeIn(content: unknown): string | undefined {
  const change = Array.isArray(content) ? content.find(({ type }: Body) => CHANGES.includes(type as string)) : undefined
  return change && `${change.type} blocks are only allowed in messages with role "system"`
}

function toolIssues(tool: unknown, loc: string): readonly Issue[] {
  if (!isObject(tool)) return [notObject(loc, tool)]
  const { name, description, input_schema: schema } = tool
  return [
    ...(name === undefined ? [missing(`${loc}.name`, tool)] : textIssue(name, `${loc}.name`)),
    ...(isGiven(description) ? textIssue(description, `${loc}.description`) : []),
    ...(schema === undefined ? [missing(`${loc}.input_schema`, tool)] : []),
    ...(schema === undefined || isObject(schema) ? [] : [notDictionary(`${loc}.input_schema`, schema)]),
  ]
}

function choiceIssues(choice: unknown): readonly Issue[] {
  const loc = 'body.tool_choice'
  if (!isObject(choice)) return [notObject(loc, choice)]
  const issues = literal(choice, 'type', loc, CHOICES)
  if (isGiven(choice.name)) issues.push(...textIssue(choice.name, `${loc}.name`))
  if (issues.length > 0 || choice.type !== 'tool' || choice.name) return issues
  return [valueIssue(loc, "tool_choice.name is required when type is 'tool'", choice)]
}

function outputIssues({ effort, format }: Body): readonly Issue[] {
  const loc = 'body.output_config'
  const issues: Issue[] = []
  if (isGiven(effort) && !EFFORTS.includes(effort as string))
    issues.push(literalIssue(`${loc}.effort`, effort, EFFORTS))
  if (isGiven(format) && !isObject(format)) issues.push(notObject(`${loc}.format`, format))
  return issues
}

function thinkingIssues(thinking: Body): readonly Issue[] {
  const loc = 'body.thinking'
  if (!THINKING_TAGS.includes(thinking.type as string)) return [tagIssue(loc, thinking, THINKING_TAGS)]
  if (thinking.type !== 'enabled') return []
  const budget = thinking.budget_tokens
  const place = `${loc}.enabled.budget_tokens`
  if (budget === undefined) return [missing(place, thinking)]
  if (!Number.isInteger(budget)) {
    return [{ type: 'int_type', loc: place, msg: 'Input should be a valid integer', input: budget }]
  }
  if ((budget as number) >= THINKING_BUDGET_TOKENS_MIN) return []
  const msg = `Input should be greater than or equal to ${THINKING_BUDGET_TOKENS_MIN}`
  const context = `'ge': ${THINKING_BUDGET_TOKENS_MIN}`
  return [{ type: 'greater_than_equal', loc: place, msg, input: budget, context }]
}

/** A rule about two members, asked when each of them is right. */
function budgetIssue(body: Body): readonly Issue[] {
  const { thinking, max_tokens: maxTokens } = body
  const budget = (thinking as { readonly budget_tokens?: number } | null | undefined)?.budget_tokens
  if (budget === undefined || maxTokens === undefined || budget < (maxTokens as number)) return []
  return [valueIssue('body', 'thinking.budget_tokens must be less than max_tokens', body)]
}

function literal(value: Body, name: string, loc: string, allowed: readonly string[]): Issue[] {
  const given = value[name]
  if (given === undefined) return [missing(`${loc}.${name}`, value)]
  return allowed.includes(given as string) ? [] : [literalIssue(`${loc}.${name}`, given, allowed)]
}

function tagIssue(loc: string, value: Body, tags: readonly string[]): Issue {
  const expected = tags.map((tag) => `'${tag}'`).join(', ')
  if (typeof value.type !== 'string') {
    const msg = "Unable to extract tag using discriminator 'type'"
    return { type: 'union_tag_not_found', loc, msg, input: value, context: `'discriminator': "'type'"` }
  }
  const tag = value.type
  const msg = `Input tag '${tag}' found using 'type' does not match any of the expected tags: ${expected}`
  const context = `'discriminator': "'type'", 'tag': '${tag}', 'expected_tags': "${expected}"`
  return { type: 'union_tag_invalid', loc, msg, input: value, context }
}

function textIssue(input: unknown, loc: string): readonly Issue[] {
  return typeof input === 'string' ? [] : [{ type: 'string_type', loc, msg: 'Input should be a valid string', input }]
}

function notObject(loc: string, input: unknown): Issue {
  const msg = 'Input should be a valid dictionary or object to extract fields from'
  return { type: 'model_attributes_type', loc, msg, input }
}

function notDictionary(loc: string, input: unknown): Issue {
  return { type: 'dict_type', loc, msg: 'Input should be a valid dictionary', input }
}

function isObject(value: unknown): value is Body {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null
}
