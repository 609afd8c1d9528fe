// A call of a function instead of a text: when the caller demands one, its arguments must satisfy the function's schema. It
// is said as the models say it whose calls vLLM's hermes parser reads, and read again as that parser does.
import { type ApiError, badRequest } from './errors.ts'
import type { Body } from './schema.ts'
import { exampleOf } from './schema-example.ts'

export type ToolAnswer = {
  readonly name: string
  readonly argumentsJson: string
  /** Demanded by name rather than by "required": vLLM then ends with "stop" instead of "tool_calls". */
  readonly named: boolean
}

/** What a text that may not be finished tells of the call in it. */
export type ReadCall = {
  /** Whether it has come to the function's name. */
  readonly isNamed: boolean
  /** As far as they have come. */
  readonly argumentsJson: string
  /** Whether it is a call; a text that ends in the middle of one is only a text. */
  readonly isComplete: boolean
}

type Tool = { readonly name: string; readonly parameters: unknown }

/** A name is said again with every choice. */
const NAME_CHARS_MAX = 256

/** The demanded call; undefined when a text will do, as with "auto": this model prefers to talk. */
export function toolAnswer({ tools, tool_choice: choice }: Body): ToolAnswer | undefined | ApiError {
  const name = functionNameOf(choice)
  if (choice !== 'required' && name === undefined) return undefined
  const offered = (Array.isArray(tools) ? tools : []).flatMap(functionOf)
  if (offered.length === 0) return badRequest('When using `tool_choice`, `tools` must be set.', 'tool_choice')
  const tool = name === undefined ? offered[0] : offered.find((other) => other.name === name)
  if (!tool) {
    const message = 'The tool specified in `tool_choice` does not match any of the specified `tools`'
    return badRequest(message, 'tool_choice')
  }
  if (tool.name.length > NAME_CHARS_MAX) {
    return badRequest(`A function's name must have at most ${NAME_CHARS_MAX} characters.`, 'tools')
  }
  const value = exampleOf(tool.parameters) ?? {}
  return { name: tool.name, argumentsJson: JSON.stringify(value), named: name !== undefined }
}

/** What the model says to make the call. */
export function spokenCall(tool: ToolAnswer): string {
  return `<tool_call>${headOf(tool)}${tool.argumentsJson}}</tool_call>`
}

/** Reads the call in what was said of it so far. */
export function readCall(tool: ToolAnswer, said: string): ReadCall {
  const head = headOf(tool)
  const at = said.indexOf(head)
  if (at < 0) return { isNamed: said.includes(nameOf(tool)), argumentsJson: '', isComplete: false }
  const start = at + head.length
  const end = start + tool.argumentsJson.length
  return { isNamed: true, argumentsJson: said.slice(start, end), isComplete: said.length > end }
}

/** What the last `added` characters of a text tell of the call in it. */
export function readCallDelta(
  tool: ToolAnswer,
  said: string,
  added: number,
): { readonly startsNow: boolean; readonly argumentsJson: string } {
  const before = readCall(tool, said.slice(0, said.length - added))
  const now = readCall(tool, said)
  return {
    startsNow: now.isNamed && !before.isNamed,
    argumentsJson: now.argumentsJson.slice(before.argumentsJson.length),
  }
}

function headOf(tool: ToolAnswer): string {
  return `${nameOf(tool)}, "arguments": `
}

function nameOf({ name }: ToolAnswer): string {
  return `{"name": ${JSON.stringify(name)}`
}

function functionOf(tool: unknown): readonly Tool[] {
  const name = functionNameOf(tool)
  if (name === undefined) return []
  const { parameters } = (tool as { readonly function: { readonly parameters?: unknown } }).function
  return [{ name, parameters: parameters ?? { type: 'object' } }]
}

/** The name in what describes a function or chooses one. */
function functionNameOf(value: unknown): string | undefined {
  const name = (value as { readonly function?: { readonly name?: unknown } | null } | null | undefined)?.function?.name
  return typeof name === 'string' ? name : undefined
}
