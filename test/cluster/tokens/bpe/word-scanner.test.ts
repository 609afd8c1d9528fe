// The scanner cuts every text where the pattern itself does.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { translateRegex } from '../../../../cluster/tokens/bpe/regex.ts'
import { lookAlike } from '../../../../cluster/tokens/bpe/unicode.ts'
import { WordEnds } from '../../../../cluster/tokens/bpe/word-ends.ts'
import { scannerOf, type WordScanner } from '../../../../cluster/tokens/bpe/word-scanner.ts'

const patternWith = (digits: string): string =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`

/** Cut by the regular expression, which leaves nothing out. */
function byPattern(pattern: string, text: string): readonly string[] {
  let at = 0
  return (lookAlike(text).match(translateRegex(pattern)) ?? []).map(({ length }) => {
    at += length
    return text.slice(at - length, at)
  })
}

function byScanner(scan: WordScanner, text: string): readonly string[] {
  const units = new Uint16Array(text.length + 3).fill('x'.charCodeAt(0))
  for (let at = 0; at < text.length; at++) units[at] = text.charCodeAt(at)
  const ends = new WordEnds()
  scan(units, text.length, ends)
  return Array.from(ends.places.subarray(0, ends.count), (end, word) =>
    text.slice(word === 0 ? 0 : ends.places[word - 1], end),
  )
}

// Kin of every alternative: the letters of contractions in each case, spaces that JavaScript or the library alone calls so,
// digits of other scripts, letters and signs beyond the BMP, what is new in Unicode 17, halves of pairs.
const char = fc.constantFrom(
  ...`'sStTrReEvVmMlLdDſaZ09.,!-"_  \t\n\r\v`,
  ...'éßʕɐ一あकाิ٣²Ⅳ½\u0085\u00a0\u2003\u2028\u3000\ufeff\u200d\u0301',
  "'ſ",
  "'lL",
  '𝐀',
  '𝟗',
  '👩',
  '\u{20000}',
  '\u{1ccfa}',
  '\u088f',
  '\u{10ec5}',
  '\ud800',
  '\udc00',
)
const text = fc.oneof(
  fc.array(char, { maxLength: 24 }).map((chars) => chars.join('')),
  fc.string({ unit: 'binary', maxLength: 24 }),
  fc.string({ unit: 'grapheme', maxLength: 12 }),
)

describe('a text is cut where the pattern cuts it', () => {
  it.each([['\\p{N}'], ['\\p{N}{1,3}']])('with digits as %s', (digits) => {
    const pattern = patternWith(digits)
    const scan = scannerOf(pattern) as WordScanner
    fc.assert(
      fc.property(text, (given) => {
        expect(byScanner(scan, given)).toEqual(byPattern(pattern, given))
      }),
      { numRuns: 5_000 },
    )
  })

  it('each character, alone and between letters, digits and spaces', () => {
    const pattern = patternWith('\\p{N}')
    const scan = scannerOf(pattern) as WordScanner
    for (let codePoint = 0; codePoint <= 0x10ffff; codePoint += codePoint < 0x3100 ? 1 : 61) {
      const one = String.fromCodePoint(codePoint)
      const given = `${one}a${one}${one} ${one}1${one}`
      const words = byScanner(scan, given)
      if (words.join('|') !== byPattern(pattern, given).join('|')) {
        expect({ codePoint, words }).toEqual({ codePoint, words: byPattern(pattern, given) })
      }
    }
  })
})

it('another pattern has no scanner', () => {
  for (const pattern of [patternWith('\\p{N}+'), patternWith(''), '\\p{N}', `${patternWith('\\p{N}')}|x`, '']) {
    expect(scannerOf(pattern)).toBeUndefined()
  }
})
