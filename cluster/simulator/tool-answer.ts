// A call of a function instead of a text: when the caller demands one, its arguments must satisfy the function's schema.
import { type ApiError, badRequest } from './errors.ts'
import type { Body } from './schema.ts'
import { exampleOf } from './schema-example.ts'

export type ToolAnswer = {
  readonly name: string
  readonly argumentsJson: string
  /** Demanded by name rather than by "required": vLLM then ends with "stop" instead of "tool_calls". */
  readonly named: boolean
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
