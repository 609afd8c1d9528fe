// Cuts a text into the words that merges never cross.
import { translateRegex } from './regex.ts'
import { isObject, NotExact } from './settings.ts'
import { lookAlike } from './unicode.ts'
import type { WordEnds } from './word-ends.ts'
import { scannerOf } from './word-scanner.ts'

/**
 * Tells where the words of a text end.
 *
 * @param units the text once more, in UTF-16; what stands behind it there is not looked at.
 */
export type PreTokenizer = (text: string, units: Uint16Array, ends: WordEnds) => void

/** The words of a text, in order; together they are the text. */
type Step = (text: string) => readonly string[]

const GPT2 = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

export function createPreTokenizer(settings: unknown): PreTokenizer {
  const patterns = patternsOf(settings)
  const scan = patterns.length === 1 ? scannerOf(patterns[0] as string) : undefined
  if (scan !== undefined) return (text, units, ends) => scan(units, text.length, ends)
  const steps = patterns.map(isolating)
  return (text, _, ends) => {
    let words: readonly string[] = [lookAlike(text)]
    for (const step of steps) words = words.flatMap(step)
    let end = 0
    for (const { length } of words) {
      end += length
      ends.push(end)
    }
  }
}

/**
 * What the words are cut by, one after the other. The last step has to be the one that maps bytes to letters: that mapping
 * is what `merges.ts` undoes.
 */
function patternsOf(settings: unknown): string[] {
  if (!isObject(settings)) throw new NotExact('there is no pre-tokenizer')
  const list = settings.type === 'Sequence' ? settings.pretokenizers : [settings]
  if (!Array.isArray(list)) throw new NotExact('the pre-tokenizer has no list')
  const last: unknown = list.at(-1)
  if (!isObject(last) || last.type !== 'ByteLevel') throw new NotExact('the pre-tokenizer is not of bytes')
  if (last.add_prefix_space === true) throw new NotExact('the pre-tokenizer adds a space')
  const before = list.slice(0, -1).map(patternOf)
  return last.use_regex === false ? before : [...before, GPT2]
}

function patternOf(settings: unknown): string {
  const { type, pattern, behavior, invert, individual_digits: single } = isObject(settings) ? settings : {}
  if (type === 'Digits') return single === true ? '\\p{N}' : '\\p{N}+'
  if (type !== 'Split') throw new NotExact(`the pre-tokenizer ${String(type)}`)
  const regex = isObject(pattern) ? pattern.Regex : undefined
  if (typeof regex !== 'string') throw new NotExact('the pre-tokenizer splits at no pattern')
  if (behavior === 'Isolated' && invert !== true) return regex
  throw new NotExact(`the pre-tokenizer splits as ${String(behavior)}`)
}

/** Matches, and what stands between them. */
function isolating(regex: string): Step {
  const pattern = translateRegex(regex)
  return (text) => {
    const matches = text.match(pattern) ?? []
    let length = 0
    for (let at = 0; at < matches.length; at++) length += (matches[at] as string).length
    return length === text.length ? matches : withGaps(text, pattern)
  }
}

function withGaps(text: string, pattern: RegExp): readonly string[] {
  const words: string[] = []
  let done = 0
  for (const { 0: match, index } of text.matchAll(pattern)) {
    if (match === '') continue
    words.push(...gap(text, done, index), match)
    done = index + match.length
  }
  words.push(...gap(text, done, text.length))
  return words
}

function gap(text: string, start: number, end: number): string[] {
  return start < end ? [text.slice(start, end)] : []
}
