// Cuts a text as the pattern of Qwen, Llama 3 and their kin does, by looking at each character once: as a regular expression
// it takes longer than all the rest of the encoding.
import { likenessOf } from './unicode.ts'
import type { WordEnds } from './word-ends.ts'

/** @param units the text's UTF-16 units, the first `length` of them. */
export type WordScanner = (units: Uint16Array, length: number, ends: WordEnds) => void

const BEFORE_DIGITS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
const AFTER_DIGITS = '| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'
const DIGITS: ReadonlyMap<string, number> = new Map([
  ['\\p{N}', 1],
  ['\\p{N}{1,3}', 3],
])

/** The scanner that cuts as this pattern does; undefined when it is another one. */
export function scannerOf(pattern: string): WordScanner | undefined {
  const isKin = pattern.startsWith(BEFORE_DIGITS) && pattern.endsWith(AFTER_DIGITS)
  const digitsMax = isKin ? DIGITS.get(pattern.slice(BEFORE_DIGITS.length, -AFTER_DIGITS.length)) : undefined
  if (digitsMax === undefined) return undefined
  return (units, length, ends) => {
    for (let at = 0; at < length; ) {
      at = endOfWord(units, length, at, digitsMax)
      ends.push(at)
    }
  }
}

const LETTER = 1
const NUMBER = 2
const SPACE = 3
const NEWLINE = 4
const OTHER = 5
/** By code point; 0 where none has asked yet, and for surrogates. */
const KINDS = new Uint8Array(0x110000)
const IS_LETTER = /\p{L}/u
const IS_NUMBER = /\p{N}/u
const IS_SPACE = /[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/

const BLANK = 0x20
const APOSTROPHE = 0x27
const LINE_FEED = 0x0a
const CARRIAGE_RETURN = 0x0d
/** It is an s to whoever does not look at the case. */
const LONG_S = 0x17f

/** The alternatives of the pattern, in their order; the last two are one run of white space. */
function endOfWord(units: Uint16Array, length: number, start: number, digitsMax: number): number {
  const first = units[start] as number
  if (first === APOSTROPHE) {
    const end = endOfContraction(units, length, start + 1)
    if (end !== 0) return end
  }
  const kind = kindAt(units, length, start)
  if (kind === LETTER) return endOfRun(LETTER, units, length, start)
  const second = start + widthAt(units, length, start)
  const secondKind = second < length ? kindAt(units, length, second) : 0
  if (secondKind === LETTER && (kind === OTHER || kind === SPACE)) return endOfRun(LETTER, units, length, second)
  if (kind === NUMBER) return endOfDigits(units, length, start, digitsMax)
  if (kind === OTHER || (first === BLANK && secondKind === OTHER)) {
    return endOfRun(NEWLINE, units, length, endOfRun(OTHER, units, length, second))
  }
  return endOfSpace(units, length, start)
}

/** Behind an apostrophe; 0 where none of the short words follows. */
function endOfContraction(units: Uint16Array, length: number, at: number): number {
  if (at >= length) return 0
  switch (lowered(units[at] as number)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return at + 1
    case 'r':
    case 'v':
      return at + 1 < length && lowered(units[at + 1] as number) === 'e' ? at + 2 : 0
    case 'l':
      return at + 1 < length && lowered(units[at + 1] as number) === 'l' ? at + 2 : 0
    default:
      return 0
  }
}

function lowered(unit: number): string {
  return unit === LONG_S ? 's' : String.fromCharCode(unit | 0x20)
}

function endOfDigits(units: Uint16Array, length: number, start: number, digitsMax: number): number {
  let at = start
  for (let digit = 0; digit < digitsMax && at < length && kindAt(units, length, at) === NUMBER; digit++) {
    at += widthAt(units, length, at)
  }
  return at
}

/** Up to its last newline where it has one; else all of it but what goes before a word. */
function endOfSpace(units: Uint16Array, length: number, start: number): number {
  let at = start
  let afterNewline = 0
  for (; at < length; at++) {
    const kind = kindAt(units, length, at)
    if (kind === NEWLINE) afterNewline = at + 1
    else if (kind !== SPACE) break
  }
  if (afterNewline !== 0) return afterNewline
  return at === length || at === start + 1 ? at : at - 1
}

/** Of characters of one kind, from `start` on; `start` where it begins with another. */
function endOfRun(kind: number, units: Uint16Array, length: number, start: number): number {
  let at = start
  while (at < length) {
    const known = KINDS[units[at] as number]
    // Surely one unit wide.
    if (known === kind) at++
    else if (known !== 0 || kindAt(units, length, at) !== kind) break
    else at += widthAt(units, length, at)
  }
  return at
}

function kindAt(units: Uint16Array, length: number, at: number): number {
  return (KINDS[units[at] as number] as number) || kindOf(codePointAt(units, length, at))
}

function widthAt(units: Uint16Array, length: number, at: number): number {
  return ((units[at] as number) & 0xfc00) === 0xd800 && codePointAt(units, length, at) > 0xffff ? 2 : 1
}

function codePointAt(units: Uint16Array, length: number, at: number): number {
  const high = units[at] as number
  if ((high & 0xfc00) !== 0xd800 || at + 1 >= length) return high
  const low = units[at + 1] as number
  return (low & 0xfc00) === 0xdc00 ? ((high - 0xd800) << 10) + (low - 0xdc00) + 0x10000 : high
}

function kindOf(codePoint: number): number {
  // What is kept under a surrogate would be taken for the pair that begins with it.
  if ((codePoint & 0xfff800) === 0xd800) return OTHER
  const known = KINDS[codePoint] as number
  if (known !== 0) return known
  const kind = judge(codePoint)
  KINDS[codePoint] = kind
  return kind
}

function judge(codePoint: number): number {
  if (codePoint === LINE_FEED || codePoint === CARRIAGE_RETURN) return NEWLINE
  const char = likenessOf(String.fromCodePoint(codePoint))
  if (IS_LETTER.test(char)) return LETTER
  if (IS_NUMBER.test(char)) return NUMBER
  return IS_SPACE.test(char) ? SPACE : OTHER
}
