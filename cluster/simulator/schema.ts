// Checks a body's members as vLLM's schema does: lenient about numbers in strings, silent about members it does not know.
import { type ApiError, type Issue, validationError } from './errors.ts'

export type Body = Readonly<Record<string, unknown>>
export type MemberType = 'integer' | 'number' | 'boolean' | 'string' | 'list' | 'object' | 'any'

/** Far more than any schema or conversation has, and far less than the stack of those who walk the body bears. */
const NESTING_MAX = 128

type Checked = { readonly value: unknown } | { readonly type: string; readonly msg: string }

/**
 * Reads JSON text into a body whose known members have their types. `required` are among the members; `defaults` stand
 * where nothing was said.
 */
export function parseBody(
  text: string,
  members: Readonly<Record<string, MemberType>>,
  required: readonly string[],
  defaults: Body = {},
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
  if (isTooDeep(parsed)) {
    const ctx = `Nested deeper than ${NESTING_MAX} levels`
    return validationError([{ type: 'json_invalid', loc: 'body', msg: 'JSON decode error', input: {}, ctx }])
  }
  const issues: Issue[] = []
  const body: Record<string, unknown> = { ...defaults, ...parsed }
  for (const [name, type] of Object.entries(members)) {
    const input = body[name]
    if (input === undefined && required.includes(name)) issues.push(missing(`body.${name}`, { ...body }))
    // Null stands for absent wherever vLLM has a default.
    if (input === undefined || (input === null && !required.includes(name))) continue
    const checked = check(type, input)
    if ('value' in checked) body[name] = checked.value
    else issues.push({ ...checked, loc: `body.${name}`, input })
  }
  return issues.length > 0 ? validationError(issues) : body
}

/** Whether a value nests deeper than is served. Looks level by level: a walk into it could itself go too deep. */
export function isTooDeep(value: unknown): boolean {
  let level = [value].filter(isContainer)
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > NESTING_MAX) return true
    level = level.flatMap((container) => Object.values(container).filter(isContainer))
  }
  return false
}

function isContainer(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

/** The known members of a URL's query that were given, with their types; of one that was given twice, the last. */
export function parseQuery(url: string | undefined, members: Readonly<Record<string, MemberType>>): Body | ApiError {
  const given = new URLSearchParams(url?.split('?').slice(1).join('?'))
  const issues: Issue[] = []
  const query: Record<string, unknown> = {}
  for (const [name, type] of Object.entries(members)) {
    const input = given.getAll(name).at(-1)
    if (input === undefined) continue
    const checked = check(type, input)
    if ('value' in checked) query[name] = checked.value
    else issues.push({ ...checked, loc: `query.${name}`, input })
  }
  return issues.length > 0 ? validationError(issues) : query
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
    case 'object':
      return isContainer(input) && !Array.isArray(input)
        ? { value: input }
        : { type: 'dict_type', msg: 'Input should be a valid dictionary' }
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
  if (/^\s*[+-]?\d+(\.0+)?\s*$/.test(input)) {
    if (Number.isFinite(Number(input))) return { value: Number(input) }
    return { type: 'int_parsing_size', msg: 'Unable to parse input string as an integer, exceeded maximum size' }
  }
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

/** A boolean, however pydantic lets it be spelled. */
function checkBoolean(input: unknown): Checked {
  const msg = 'Input should be a valid boolean'
  if (typeof input === 'boolean') return { value: input }
  if (typeof input !== 'string' && typeof input !== 'number') return { type: 'bool_type', msg }
  const spelled = String(input).toLowerCase()
  const truth = Object.hasOwn(TRUTHS, spelled) ? TRUTHS[spelled] : undefined
  if (truth !== undefined) return { value: truth }
  return { type: 'bool_parsing', msg: `${msg}, unable to interpret input` }
}

/** What Python says where V8 finds a thing missing. */
const PYTHON_JSON_ERRORS: readonly (readonly [ours: RegExp, theirs: string])[] = [
  [/property name/, 'Expecting property name enclosed in double quotes'],
  [/Expected ',' or/, "Expecting ',' delimiter"],
  [/Expected ':'/, "Expecting ':' delimiter"],
]

/** V8 tells where it stopped, but not in Python's words. */
function jsonIssue(text: string, error: unknown): Issue {
  const position = /at position (\d+)/.exec(String(error))?.[1]
  const ctx = PYTHON_JSON_ERRORS.find(([ours]) => ours.test(String(error)))?.[1] ?? 'Expecting value'
  const loc = `body.${position ?? characters(text)}`
  return { type: 'json_invalid', loc, msg: 'JSON decode error', input: {}, ctx }
}

/** As Python counts; a body may be too long to spread into an array. */
function characters(text: string): number {
  return text.replace(/[\ud800-\udbff][\udc00-\udfff]/g, '_').length
}
