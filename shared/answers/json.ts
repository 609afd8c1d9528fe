// JSON of answers, read with care: whatever is not what it should be makes the answer one that is not kept.

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

export function parseObject(text: string): JsonObject {
  return objectOf(JSON.parse(text), 'no object')
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
    if (error instanceof Unknown || error instanceof SyntaxError) return undefined
    throw error
  }
}

/** Puts members before those of an object. */
export function withMembers(members: JsonObject, object: string): string {
  return `${JSON.stringify(members).slice(0, -1)},${object.slice(1)}`
}
