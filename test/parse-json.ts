// JSON.parse as an oracle that can be trusted.

const SPACE = /[ \t\n\r]*/y
const STRING = /"(?:[^"\\]|\\.)*"/sy
const SCALAR = /true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y

/**
 * What JSON.parse gives, by JSON.parse for everything but objects and arrays: V8 13.6 guesses an object's next name from
 * objects that it has read before, and compares the guess with the text before its escapes are decoded. Once
 * `{"a":1,"\\":2}` was read, even earlier in the same text, `{"a":1,"\u0071":2}` gets a name `\` instead of `q`.
 * Throws a SyntaxError for what is no JSON.
 */
export function parseJson(text: string): unknown {
  let at = 0

  function take(pattern: RegExp): string | undefined {
    pattern.lastIndex = at
    const found = pattern.exec(text)?.[0]
    at += found?.length ?? 0
    return found
  }
  function takes(character: string): boolean {
    take(SPACE)
    if (text[at] !== character) return false
    at++
    return true
  }
  function demand<T>(found: T | undefined | false): T {
    if (found === undefined || found === false) throw new SyntaxError(`not JSON at ${at}`)
    return found
  }
  function name(): string {
    take(SPACE)
    const found = JSON.parse(demand(take(STRING))) as string
    demand(takes(':'))
    return found
  }
  /** Items with commas between them, until the closing character. */
  function list<T>(close: string, item: () => T): T[] {
    if (takes(close)) return []
    const items = [item()]
    while (takes(',')) items.push(item())
    demand(takes(close))
    return items
  }
  function value(): unknown {
    if (takes('{')) return Object.fromEntries(list('}', () => [name(), value()] as const))
    if (takes('[')) return list(']', value)
    return JSON.parse(demand(take(STRING) ?? take(SCALAR)))
  }

  const whole = value()
  take(SPACE)
  demand(at === text.length)
  return whole
}
