// Patterns as Oniguruma reads them, for JavaScript. What the two read differently is written out; what JavaScript cannot
// say is not taken.
import { NotExact } from './settings.ts'

/** White space as Unicode has it; JavaScript's `\s` has U+FEFF too, and lacks U+0085. */
const SPACE = '\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000'
const IN_CLASS: Readonly<Record<string, string>> = {
  s: SPACE,
  d: '\\p{Nd}',
  w: '\\p{L}\\p{M}\\p{N}\\p{Pc}',
  h: '0-9a-fA-F',
}
const SYNTAX = new Set('^$\\.*+?()[]{}|/')
const CONTROLS = new Set('tnrfv0')
const PATTERN_CHARS_MAX = 16_384
/** General categories have one or two letters; longer names are scripts or properties. */
const CATEGORY = /^\^?[A-Z][a-z]?$/

/** A global pattern over code points. Throws NotExact. */
export function translateRegex(source: string): RegExp {
  if (source.length > PATTERN_CHARS_MAX) throw new NotExact('a pattern is too long')
  let out = ''
  let inClass = false
  /** Whether a quantifier stands right before: a `+` there would make it possessive. */
  let quantified = false
  let at = 0
  while (at < source.length) {
    const char = source[at] as string
    const afterQuantifier = quantified
    quantified = false
    if (char === '\\') {
      const { text, end } = escapeAt(source, at, inClass)
      out += text
      at = end
      continue
    }
    if (inClass) {
      // A class within a class, and an intersection.
      if (char === '[' || source.startsWith('&&', at)) throw new NotExact('a pattern has nested classes')
      if (char === ']') inClass = false
      out +=
        char === '/' || char === '|' || char === '(' || char === ')' || char === '{' || char === '}'
          ? `\\${char}`
          : char
      at++
      continue
    }
    if (char === '[') {
      inClass = true
      out += char
      at++
      if (source[at] === '^') {
        out += '^'
        at++
      }
      if (source[at] === ']') throw new NotExact('a pattern has a class that begins with its end')
      continue
    }
    // Ends of lines to the one, of the text to the other; the dot differs in what it leaves out.
    if (char === '^' || char === '$' || char === '.') throw new NotExact(`a pattern has ${char}`)
    if (char === '+' && afterQuantifier) throw new NotExact('a pattern has a possessive quantifier')
    quantified = '+*?}'.includes(char) && !out.endsWith('(')
    if (char === '(' && source[at + 1] === '?' && !/^\(\?(?:[:=!]|<[=!]|i:)/.test(source.slice(at, at + 4))) {
      throw new NotExact('a pattern has a group of another kind')
    }
    out += char
    at++
  }
  if (inClass) throw new NotExact('a pattern has a class without an end')
  try {
    return new RegExp(out, 'gu')
  } catch {
    throw new NotExact('a pattern that JavaScript does not read')
  }
}

function escapeAt(source: string, at: number, inClass: boolean): { readonly text: string; readonly end: number } {
  const char = source[at + 1]
  if (char === undefined) throw new NotExact('a pattern ends within an escape')
  const lower = char.toLowerCase()
  const members = IN_CLASS[lower]
  if (members !== undefined) {
    const negated = char !== lower
    if (inClass && negated) throw new NotExact(`a pattern has \\${char} in a class`)
    return { text: inClass ? members : `[${negated ? '^' : ''}${members}]`, end: at + 2 }
  }
  if (lower === 'p') {
    const end = source.indexOf('}', at)
    if (source[at + 2] !== '{' || end === -1) throw new NotExact('a pattern has a property without a name')
    return { text: propertyOf(char, source.slice(at + 3, end)), end: end + 1 }
  }
  if (lower === 'u' || lower === 'x') {
    const [written] = /^\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2})/.exec(source.slice(at, at + 6)) ?? []
    if (written === undefined) throw new NotExact('a pattern has an escape of another kind')
    return { text: written, end: at + written.length }
  }
  if (CONTROLS.has(char)) return { text: `\\${char}`, end: at + 2 }
  if (/[a-zA-Z0-9]/.test(char)) throw new NotExact(`a pattern has \\${char}`)
  return { text: SYNTAX.has(char) || (inClass && char === '-') ? `\\${char}` : char, end: at + 2 }
}

function propertyOf(letter: string, name: string): string {
  const negated = name.startsWith('^')
  const bare = negated ? name.slice(1) : name
  const flipped = negated ? (letter === 'p' ? 'P' : 'p') : letter
  return `\\${flipped}{${CATEGORY.test(bare) ? bare : `Script=${bare}`}}`
}
