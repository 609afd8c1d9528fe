// Checks a body's members as vLLM's schema does: lenient about numbers in strings, silent about members it does not know.
import { type ApiError, type Issue, validationError } from './errors.ts'

export type Body = Readonly<Record<string, unknown>>
export type MemberType = 'integer' | 'number' | 'boolean' | 'string' | 'list' | 'any'

type Checked = { readonly value: unknown } | { readonly type: string; readonly msg: string }

/** Reads JSON text into a body whose known members have their types. */
export function parseBody(
  text: string,
  members: Readonly<Record<string, MemberType>>,
  required: readonly string[],
): Body | ApiError {
  if (text === '') return validationError([missing('body', undefined)])
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch (error) {
    return validationError([jsonIssue(text, error)])
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    const msg = 'Input should be a valid dictionary or object to extract fields from'
    return validationError([{ type: 'model_attributes_type', loc: 'body', msg, input: parsed }])
  }
  const issues: Issue[] = []
  const body: Record<string, unknown> = { ...parsed }
  for (const name of required) {
    if (body[name] === undefined) issues.push(missing(`body.${name}`, parsed))
  }
  for (const [name, type] of Object.entries(members)) {
    const input = body[name]
    // Null stands for absent wherever vLLM has a default.
    if (input === undefined || (input === null && !required.includes(name))) continue
    const checked = check(type, input)
    if ('value' in checked) body[name] = checked.value
    else issues.push({ ...checked, loc: `body.${name}`, input })
  }
  return issues.length > 0 ? validationError(issues) : body
}

/** The finding that a member is not there. */
export function missing(loc: string, input: unknown): Issue {
  return { type: 'missing', loc, msg: 'Field required', input }
}

function check(type: MemberType, input: unknown): Checked {
  switch (type) {
    case 'integer':
      return checkInteger(input)
    case 'number':
      return checkNumber(input)
    case 'boolean':
      return checkBoolean(input)
    case 'string':
      return typeof input === 'string'
        ? { value: input }
        : { type: 'string_type', msg: 'Input should be a valid string' }
    case 'list':
      return Array.isArray(input) ? { value: input } : { type: 'list_type', msg: 'Input should be a valid list' }
    case 'any':
      return { value: input }
  }
}

function checkInteger(input: unknown): Checked {
  const msg = 'Input should be a valid integer'
  if (typeof input === 'number') {
    if (Number.isInteger(input)) return { value: input }
    return { type: 'int_from_float', msg: `${msg}, got a number with a fractional part` }
  }
  if (typeof input === 'boolean') return { value: Number(input) }
  if (typeof input !== 'string') return { type: 'int_type', msg }
  if (/^\s*[+-]?\d+\s*$/.test(input)) return { value: Number(input) }
  return { type: 'int_parsing', msg: `${msg}, unable to parse string as an integer` }
}

function checkNumber(input: unknown): Checked {
  const msg = 'Input should be a valid number'
  if (typeof input === 'number') return { value: input }
  if (typeof input === 'boolean') return { value: Number(input) }
  if (typeof input !== 'string') return { type: 'float_type', msg }
  if (input.trim() !== '' && Number.isFinite(Number(input))) return { value: Number(input) }
  return { type: 'float_parsing', msg: `${msg}, unable to parse string as a number` }
}

const TRUTHS: Readonly<Record<string, boolean>> = {
  true: true,
  yes: true,
  on: true,
  t: true,
  y: true,
  1: true,
  false: false,
  no: false,
  off: false,
  f: false,
  n: false,
  0: false,
}

function checkBoolean(input: unknown): Checked {
  const msg = 'Input should be a valid boolean'
  if (typeof input === 'boolean') return { value: input }
  if (typeof input !== 'string' && typeof input !== 'number') return { type: 'bool_type', msg }
  const truth = TRUTHS[String(input).toLowerCase()]
  if (truth !== undefined) return { value: truth }
  return { type: 'bool_parsing', msg: `${msg}, unable to interpret input` }
}

/** V8 tells where it stopped, but not in Python's words: at the end a value was expected, elsewhere the rest is a guess. */
function jsonIssue(text: string, error: unknown): Issue {
  const position = /at position (\d+)/.exec(String(error))?.[1]
  const ctx = 'Expecting value'
  const loc = `body.${position ?? [...text].length}`
  return { type: 'json_invalid', loc, msg: 'JSON decode error', input: {}, ctx }
}
