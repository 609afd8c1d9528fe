// What the parts of a `tokenizer.json` have in common: objects of anybody's making, read with care.

/** Thrown for what is not known to be done exactly; it never leaves `createBpe`. The message says what it is. */
export class NotExact extends Error {}

export type Settings = Readonly<Record<string, unknown>>

export function isObject(value: unknown): value is Settings {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

const ID_MAX = 2 ** 31 - 1

export function isTokenId(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= ID_MAX
}
