// Cuts a text into the words that merges never cross.
import { translateRegex } from './regex.ts'
import { isObject, NotExact } from './settings.ts'

/** The words of a text, in order; together they are the text. */
export type PreTokenizer = (text: string) => readonly string[]

const GPT2 = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

export function createPreTokenizer(settings: unknown): PreTokenizer {
  const steps = stepsOf(settings)
  const [first, ...more] = steps
  if (first === undefined) return (text) => [text]
  if (more.length === 0) return first
  return (text) => {
    let words = first(text)
    for (const step of more) words = words.flatMap((word) => step(word))
    return words
  }
}

/** Ends with the one that maps bytes to letters, and takes no other: that mapping is what `merges.ts` undoes. */
function stepsOf(settings: unknown): PreTokenizer[] {
  if (!isObject(settings)) throw new NotExact('there is no pre-tokenizer')
  const list = settings.type === 'Sequence' ? settings.pretokenizers : [settings]
  if (!Array.isArray(list)) throw new NotExact('the pre-tokenizer has no list')
  const last: unknown = list.at(-1)
  if (!isObject(last) || last.type !== 'ByteLevel') throw new NotExact('the pre-tokenizer is not of bytes')
  if (last.add_prefix_space === true) throw new NotExact('the pre-tokenizer adds a space')
  const before = list.slice(0, -1).map(stepOf)
  return last.use_regex === false ? before : [...before, isolating(GPT2)]
}

function stepOf(settings: unknown): PreTokenizer {
  const { type, pattern, behavior, invert, individual_digits: single } = isObject(settings) ? settings : {}
  if (type === 'Digits') return isolating(single === true ? '\\p{N}' : '\\p{N}+')
  if (type !== 'Split') throw new NotExact(`the pre-tokenizer ${String(type)}`)
  const regex = isObject(pattern) ? pattern.Regex : undefined
  if (typeof regex !== 'string') throw new NotExact('the pre-tokenizer splits at no pattern')
  if (behavior === 'Isolated' && invert !== true) return isolating(regex)
  throw new NotExact(`the pre-tokenizer splits as ${String(behavior)}`)
}

/** Matches, and what stands between them. */
function isolating(regex: string): PreTokenizer {
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
