// A call of a function instead of a text: when the caller demands one, its arguments must satisfy the function's schema.
import { type ApiError, badRequest } from './errors.ts'
import type { Body } from './schema.ts'

export type ToolAnswer = {
  readonly name: string
  readonly argumentsJson: string
  /** Demanded by name rather than by "required": vLLM then ends with "stop" instead of "tool_calls". */
  readonly named: boolean
}

type Tool = { readonly name: string; readonly parameters: unknown }

/** A recursive schema needs an end. */
const SCHEMA_DEPTH_MAX = 8
/** A schema may ask for any length; an answer that nobody reads stays small. */
const EXAMPLE_ITEMS_MAX = 64
const EXAMPLE_CHARS_MAX = 1_024

/** The demanded call; undefined when a text will do, as with "auto": this model prefers to talk. */
export function toolAnswer({ tools, tool_choice: choice }: Body): ToolAnswer | undefined | ApiError {
  const offered = (Array.isArray(tools) ? tools : []).flatMap(functionOf)
  const name = (choice as { readonly function?: { readonly name?: unknown } } | null | undefined)?.function?.name
  if (choice !== 'required' && typeof name !== 'string') return undefined
  if (offered.length === 0) return badRequest('When using `tool_choice`, `tools` must be set.', 'tool_choice')
  const tool = typeof name === 'string' ? offered.find((other) => other.name === name) : offered[0]
  if (!tool) {
    const message = 'The tool specified in `tool_choice` does not match any of the specified `tools`'
    return badRequest(message, 'tool_choice')
  }
  const value = exampleOf(tool.parameters, tool.parameters, 0) ?? {}
  return { name: tool.name, argumentsJson: JSON.stringify(value), named: typeof name === 'string' }
}

function functionOf(tool: unknown): readonly Tool[] {
  const described = (tool as { readonly function?: { readonly name?: unknown; readonly parameters?: unknown } } | null)
    ?.function
  if (typeof described?.name !== 'string') return []
  return [{ name: described.name, parameters: described.parameters ?? { type: 'object' } }]
}

/** A small value that satisfies the schema's required members. */
function exampleOf(schema: unknown, root: unknown, depth: number): unknown {
  if (typeof schema !== 'object' || schema === null || depth > SCHEMA_DEPTH_MAX) return null
  const rules = schema as Body
  if (typeof rules.$ref === 'string') return exampleOf(atPointer(root, rules.$ref), root, depth + 1)
  if ('const' in rules) return rules.const
  if (Array.isArray(rules.enum)) return rules.enum[0]
  const choice = [rules.anyOf, rules.oneOf, rules.allOf].find(Array.isArray)
  if (choice) return exampleOf(choice[0], root, depth + 1)
  const type = Array.isArray(rules.type) ? rules.type[0] : rules.type
  switch (type) {
    case 'string':
      return exampleText(rules)
    case 'integer':
    case 'number':
      return exampleNumber(rules, type === 'integer')
    case 'boolean':
      return true
    case 'null':
      return null
    case 'array':
      return Array.from({ length: Math.min(numberOr(rules.minItems, 1), EXAMPLE_ITEMS_MAX) }, () =>
        exampleOf(rules.items, root, depth + 1),
      )
    default: {
      const properties = (rules.properties ?? {}) as Body
      const required = Array.isArray(rules.required) ? rules.required.map(String) : []
      return Object.fromEntries(required.map((name) => [name, exampleOf(properties[name], root, depth + 1)]))
    }
  }
}

function exampleText(rules: Body): string {
  const formats: Readonly<Record<string, string>> = {
    date: '2027-01-31',
    time: '12:00:00Z',
    'date-time': '2027-01-31T12:00:00Z',
    email: 'someone@example.com',
    uri: 'https://example.com/',
    uuid: '00000000-0000-4000-8000-000000000000',
  }
  const text = (typeof rules.format === 'string' ? formats[rules.format] : undefined) ?? 'example'
  return text
    .padEnd(Math.min(numberOr(rules.minLength, 0), EXAMPLE_CHARS_MAX), 'e')
    .slice(0, numberOr(rules.maxLength, Number.MAX_SAFE_INTEGER))
}

function exampleNumber(rules: Body, whole: boolean): number {
  const step = whole ? 1 : 0.5
  const least = typeof rules.exclusiveMinimum === 'number' ? rules.exclusiveMinimum + step : numberOr(rules.minimum, 1)
  const most =
    typeof rules.exclusiveMaximum === 'number' ? rules.exclusiveMaximum - step : numberOr(rules.maximum, Infinity)
  const value = Math.min(least, most)
  const multiple = numberOr(rules.multipleOf, 0)
  if (multiple > 0) return Math.ceil(value / multiple) * multiple
  return whole ? Math.ceil(value) : value
}

function numberOr(value: unknown, otherwise: number): number {
  return typeof value === 'number' ? value : otherwise
}

function atPointer(root: unknown, pointer: string): unknown {
  let value = root
  for (const part of pointer.replace(/^#\/?/, '').split('/')) {
    if (part === '') continue
    value = (value as Body | undefined)?.[part.replaceAll('~1', '/').replaceAll('~0', '~')]
  }
  return value
}
