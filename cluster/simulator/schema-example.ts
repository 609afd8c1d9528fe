// A small value that fits a JSON schema. The schema is a caller's: it may be of any shape and size, refer to itself, and
// ask for billions of items, so every member's type is looked at and the whole making has one budget.
import type { Body } from './schema.ts'

/** A recursive schema needs an end. */
const DEPTH_MAX = 8
/** Values, at all depths together: nested lists multiply. */
const NODES_MAX = 256
/** Characters of names and literals: a reference can repeat a long one. */
const CHARS_MAX = 65_536
/** A schema may ask for any length; an answer that nobody reads stays small. */
const TEXT_CHARS_MAX = 1_024
const POINTER_CHARS_MAX = 1_024

const FORMATS = new Map([
  ['date', '2027-01-31'],
  ['time', '12:00:00Z'],
  ['date-time', '2027-01-31T12:00:00Z'],
  ['email', 'someone@example.com'],
  ['uri', 'https://example.com/'],
  ['uuid', '00000000-0000-4000-8000-000000000000'],
])

type Making = { readonly root: unknown; nodes: number; chars: number }

/** A value with the schema's required members; null stands for what has no end or no budget left. */
export function exampleOf(schema: unknown): unknown {
  return make(schema, { root: schema, nodes: NODES_MAX, chars: CHARS_MAX }, 0)
}

function make(schema: unknown, making: Making, depth: number): unknown {
  making.nodes--
  if (!isObject(schema) || depth > DEPTH_MAX || isSpent(making)) return null
  const reference = own(schema, '$ref')
  if (typeof reference === 'string') return make(atPointer(making.root, reference), making, depth + 1)
  if (Object.hasOwn(schema, 'const')) return literal(own(schema, 'const'), making)
  const values = own(schema, 'enum')
  if (Array.isArray(values)) return literal(values[0], making)
  const choice = ['anyOf', 'oneOf', 'allOf'].map((name) => own(schema, name)).find((list) => Array.isArray(list))
  if (choice) return make(choice[0], making, depth + 1)
  const types = own(schema, 'type')
  const type = Array.isArray(types) ? types[0] : types
  switch (type) {
    case 'string':
      return text(schema, making)
    case 'integer':
    case 'number':
      return numeral(schema, type === 'integer')
    case 'boolean':
      return true
    case 'null':
      return null
    case 'array':
      return list(schema, making, depth)
    default:
      return object(schema, making, depth)
  }
}

function list(schema: Body, making: Making, depth: number): unknown[] {
  const length = Math.min(numberOr(schema, 'minItems', 1), numberOr(schema, 'maxItems', NODES_MAX))
  const items: unknown[] = []
  while (items.length < length && !isSpent(making)) items.push(make(own(schema, 'items'), making, depth + 1))
  return items
}

function object(schema: Body, making: Making, depth: number): unknown {
  const required = own(schema, 'required')
  const properties = own(schema, 'properties')
  const members: [string, unknown][] = []
  for (const name of Array.isArray(required) ? required : []) {
    if (isSpent(making)) break
    if (typeof name !== 'string') continue
    making.chars -= name.length
    // A name that is longer than what is left would be said again by every reference to it.
    if (isSpent(making)) break
    members.push([name, make(isObject(properties) ? own(properties, name) : undefined, making, depth + 1)])
  }
  return Object.fromEntries(members)
}

/** A value that the schema gives itself. */
function literal(value: unknown, making: Making): unknown {
  making.chars -= JSON.stringify(value ?? null).length
  return isSpent(making) ? null : value
}

function text(schema: Body, making: Making): string {
  const format = own(schema, 'format')
  const plain = (typeof format === 'string' ? FORMATS.get(format) : undefined) ?? 'example'
  const example = plain
    .padEnd(Math.min(numberOr(schema, 'minLength', 0), TEXT_CHARS_MAX), 'e')
    .slice(0, Math.max(0, numberOr(schema, 'maxLength', TEXT_CHARS_MAX)))
  making.chars -= example.length
  return example
}

function numeral(schema: Body, whole: boolean): number {
  const step = whole ? 1 : 0.5
  const above = own(schema, 'exclusiveMinimum')
  const below = own(schema, 'exclusiveMaximum')
  const least = typeof above === 'number' ? above + step : numberOr(schema, 'minimum', 1)
  const most = typeof below === 'number' ? below - step : numberOr(schema, 'maximum', Number.MAX_VALUE)
  const bounded = Math.min(least, most)
  const multiple = numberOr(schema, 'multipleOf', whole ? 1 : 0)
  if (multiple <= 0) return finiteOr(bounded, 1)
  const up = Math.ceil(bounded / multiple) * multiple
  return finiteOr(up > most ? Math.floor(most / multiple) * multiple : up, 1)
}

/** JSON can say numbers that JavaScript reads as infinite, and has no word for those. */
function finiteOr(value: number, otherwise: number): number {
  return Number.isFinite(value) ? value : otherwise
}

function isSpent({ nodes, chars }: Making): boolean {
  return nodes < 0 || chars < 0
}

function isObject(value: unknown): value is Body {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A member that the caller sent, never one that every object has. */
function own(value: Body, name: string): unknown {
  return Object.hasOwn(value, name) ? value[name] : undefined
}

function numberOr(schema: Body, name: string, otherwise: number): number {
  const value = own(schema, name)
  return typeof value === 'number' ? value : otherwise
}

function atPointer(root: unknown, pointer: string): unknown {
  if (pointer.length > POINTER_CHARS_MAX) return undefined
  let value = root
  for (const part of pointer.replace(/^#\/?/, '').split('/')) {
    if (part === '') continue
    if (typeof value !== 'object' || value === null) return undefined
    value = own(value as Body, part.replaceAll('~1', '/').replaceAll('~0', '~'))
  }
  return value
}
