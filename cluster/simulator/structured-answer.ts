// JSON instead of prose: what `response_format`, or vLLM's own `structured_outputs`, makes the model say.
import { type ApiError, badRequest } from './errors.ts'
import { type Body, isTooDeep } from './schema.ts'
import { exampleOf } from './schema-example.ts'

/** Any object will do where no schema is given. */
const ANY_OBJECT = JSON.stringify({ answer: 'example' })

/** The text to say; undefined when the caller takes any text. */
export function structuredAnswer(body: Body): string | undefined | ApiError {
  const format = (body.response_format ?? {}) as Body
  const outputs = (body.structured_outputs ?? {}) as Body
  switch (format.type) {
    case 'json_object':
      return ANY_OBJECT
    case 'json_schema': {
      const described = format.json_schema as { readonly schema?: unknown } | null | undefined
      return exampleJson(described?.schema, 'response_format')
    }
    default:
  }
  if (outputs.json_object === true) return ANY_OBJECT
  if (outputs.json === undefined || outputs.json === null) return undefined
  return exampleJson(typeof outputs.json === 'string' ? parsed(outputs.json) : outputs.json, 'structured_outputs')
}

function exampleJson(schema: unknown, param: string): string | ApiError {
  if (typeof schema !== 'object' || schema === null || Array.isArray(schema)) {
    return badRequest(`Parameter '${param}' needs a JSON schema, which is an object.`, param)
  }
  return JSON.stringify(exampleOf(schema))
}

/** A schema that was sent as text; undefined when it is no JSON. */
function parsed(json: string): unknown {
  try {
    const schema: unknown = JSON.parse(json)
    return isTooDeep(schema) ? undefined : schema
  } catch {
    return undefined
  }
}
