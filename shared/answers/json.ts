// JSON of answers, read with care: whatever is not what it should be makes the answer one that is not kept.
import { canonicaliseBody } from '../canonical-body.ts'

export type JsonObject = Readonly<Record<string, unknown>>

/** Says that an answer, or a piece of one, is not of a form that is known. Caught where an answer is read or folded. */
export class Unknown extends Error {}

export function unknown(what: string): never {
  throw new Unknown(what)
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function objectOf(value: unknown, what: string): JsonObject {
  return isObject(value) ? value : unknown(what)
}

/** Numbers are written again as they were: see {@link parseExactly}. */
export function parseObject(text: string): JsonObject {
  return objectOf(parseExactly(text), 'no object')
}

/** Numbers that JavaScript may write otherwise: with a last zero, an exponent, many digits, or a minus before nothing. */
const RESPELT = /[:,[]\s*(?:-0(?![.\d])|-?\d+(?:\.\d*0(?!\d)|(?:\.\d+)?[eE]|\d{15}|\.\d{18}))/

// TypeScript's library does not know the source texts of JSON yet (ECMA-262, JSON.rawJSON).
const rawJson = (JSON as unknown as { rawJSON: (text: string) => unknown }).rawJSON
type Revive = (this: unknown, name: string, value: unknown, context: { readonly source?: string }) => unknown
// Where V8 confuses names it knows no source either. Such names are free, and what has free names is held as text.
const keepSpelling: Revive = (_name, value, { source }) =>
  typeof value === 'number' && source !== undefined && String(value) !== source ? rawJson(source) : value

/** Such numbers become objects that JSON.stringify writes as they were; all others are numbers. */
export function parseExactly(text: string): unknown {
  return RESPELT.test(text)
    ? JSON.parse(text, keepSpelling as (name: string, value: unknown) => unknown)
    : JSON.parse(text)
}

/**
 * An object's members as texts, sorted by name. Where names are free, as tokens and arguments are, texts alone are safe:
 * JavaScript sorts names that are numbers, and V8 13.6 confuses names that have escapes.
 */
export function membersOf(text: string): Map<string, string> {
  const body = canonicaliseBody(text)
  return body.ok ? body.members : unknown(body.rejection.message)
}

/** A value's canonical text; the order of its members is kept. */
export function canonicalText(text: string): string {
  const members = membersOf(`{"":${text}}`)
  const value = members.get('')
  return members.size === 1 && value !== undefined ? value : unknown('no value')
}

const STRING = /"(?:[^"\\]|\\.)*"/y

/** The elements of an array as texts. It is canonical already. */
export function elementsOf(array: string | undefined): string[] {
  if (!array?.startsWith('[')) unknown('no list')
  const elements: string[] = []
  let depth = 0
  let start = 1
  for (let at = 0; at < array.length; at++) {
    const character = array[at]
    if (character === '"') {
      STRING.lastIndex = at
      STRING.test(array)
      at = STRING.lastIndex - 1
    } else if (character === '[' || character === '{') depth++
    else if (character === ']' || character === '}') depth--
    const isEnd = depth === 0 || (depth === 1 && character === ',')
    if (!isEnd || at === start) continue
    elements.push(array.slice(start, at))
    start = at + 1
  }
  return elements
}

/** Writes an object of members that are texts already. */
export function objectText(members: Iterable<readonly [name: string, text: string]>): string {
  return `{${Array.from(members, ([name, text]) => `${JSON.stringify(name)}:${text}`).join(',')}}`
}

export function textOf(value: unknown, what: string): string {
  return typeof value === 'string' ? value : unknown(what)
}

export function listOf(value: unknown, what: string): readonly unknown[] {
  return Array.isArray(value) ? value : unknown(what)
}

/** Neither null nor empty: something that would be lost if it were left out. */
export function isSaid(value: unknown): boolean {
  return value !== undefined && value !== null && value !== '' && !(Array.isArray(value) && value.length === 0)
}

/** Throws when the object says something under a name that is not among those that are known. */
export function refuseOthers(object: JsonObject, known: ReadonlySet<string>): void {
  for (const name in object) {
    if (!known.has(name) && isSaid(object[name])) unknown(name)
  }
}

/** What `attempt` gives; undefined when the answer is not of a form that is known, or is no JSON. */
export function ifKnown<Value>(attempt: () => Value): Value | undefined {
  try {
    return attempt()
  } catch (error) {
    // A RangeError is how values nested too deep to be written again end.
    if (error instanceof Unknown || error instanceof SyntaxError || error instanceof RangeError) return undefined
    throw error
  }
}

/** Puts members before those of an object. */
export function withMembers(members: JsonObject, object: string): string {
  return `${JSON.stringify(members).slice(0, -1)},${object.slice(1)}`
}
