// Our byte-level BPE beside the library that reads every kind: the same ids for any text, and a reason where ours does not
// know how.
import { Tokenizer } from '@huggingface/tokenizers'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createBpe, type TextTokenizer } from '../../../../cluster/tokens/bpe/bpe.ts'
import { LLAMA_PATTERN, type ModelSettings, SPECIALS, specialToken, tokenizerJson } from '../small-model.ts'

const GPT2 = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true }

function ours(settings: ModelSettings = {}): TextTokenizer {
  const bpe = createBpe(tokenizerJson(settings))
  if (!bpe.ok) throw new Error(bpe.because)
  return bpe.tokenizer
}

function because(json: unknown): string {
  const bpe = createBpe(json)
  return bpe.ok ? 'it is done' : bpe.because
}

const words = fc.constantFrom(
  ...SPECIALS,
  ...[
    "it's",
    "WE'LL",
    ' the',
    'tokens',
    ' prompt',
    '12345',
    '\n\n',
    '  ',
    '\t',
    '\r\n',
    '你好',
    'ö',
    'o\u0308',
    '👩‍👧',
    '\u0085',
  ],
)
// The library's own white space begins with a byte order mark, the engine's does not: it is left to the big tokenizers.
const text = fc
  .array(fc.oneof(words, fc.string({ unit: 'binary', maxLength: 12 }), fc.string({ maxLength: 20 })), { maxLength: 12 })
  .map((parts) =>
    parts
      .join('')
      .toWellFormed()
      .replaceAll(/[\ufeff\u0085]/g, ' '),
  )

describe('the ids of any text are the library’s', () => {
  const kinds: readonly (readonly [string, ModelSettings])[] = [
    ['one digit at a time (Qwen)', {}],
    ['three digits, words of the vocabulary taken whole (Llama 3)', { pattern: LLAMA_PATTERN, ignoreMerges: true }],
    ['no normaliser', { normalizer: null }],
    ['the pattern of GPT-2', { preTokenizer: GPT2 }],
    [
      'several patterns, one after the other (DeepSeek)',
      {
        preTokenizer: {
          type: 'Sequence',
          pretokenizers: [
            { type: 'Split', pattern: { Regex: '\\p{N}{1,3}' }, behavior: 'Isolated', invert: false },
            { type: 'Split', pattern: { Regex: '[一-龥]+' }, behavior: 'Isolated', invert: false },
            {
              type: 'Split',
              pattern: { Regex: '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+' },
              behavior: 'Isolated',
              invert: false,
            },
            { ...GPT2, use_regex: false },
          ],
        },
      },
    ],
    [
      'added tokens that take the white space beside them',
      { addedTokens: [specialToken('<|end|>', 2, { lstrip: true, rstrip: true })] },
    ],
  ]
  it.each(kinds)('%s', (_, settings) => {
    const mine = ours(settings)
    const library = new Tokenizer(tokenizerJson(settings) as object, {})
    fc.assert(
      fc.property(text, (given) => {
        const ids = given === '' ? [] : Array.from(library.encode(given, { add_special_tokens: false }).ids)
        expect([...mine.encode(given)]).toEqual(ids)
      }),
      { numRuns: 400 },
    )
  })
})

describe('pieces', () => {
  it('are the text between added tokens, and encoded alone they give the ids of the whole', () => {
    const mine = ours()
    fc.assert(
      fc.property(text, (given) => {
        const pieces = mine.pieces(given)
        expect(pieces.map((piece) => piece.text).join('')).toBe(given)
        const ids = pieces.flatMap(({ text: piece, id }) => (id === undefined ? [...mine.encodePiece(piece)] : [id]))
        expect(ids).toEqual([...mine.encode(given)])
      }),
    )
  })

  it('find the longest of two added tokens that begin alike', () => {
    const mine = ours({ addedTokens: [specialToken('<|a', 0), specialToken('<|a|>', 1)] })
    expect(mine.pieces('x<|a|>y<|ab')).toEqual([
      { text: 'x', id: undefined },
      { text: '<|a|>', id: 1_001 },
      { text: 'y', id: undefined },
      { text: '<|a', id: 1_000 },
      { text: 'b', id: undefined },
    ])
  })

  it('do not find a token that must stand alone within a word', () => {
    const mine = ours({ addedTokens: [specialToken('cache', 0, { single_word: true })] })
    const ids = (given: string) => mine.pieces(given).map(({ id }) => id)
    expect(ids('the cache, caches, a-cache')).toEqual([undefined, 1_000, undefined, 1_000])
    expect(ids('écache_')).toEqual([undefined])
  })
})

describe('special tokens around a text', () => {
  it('stand where the template has them', () => {
    expect(ours().encodeWithSpecials('the').at(0)).toBe(1_000)
    const both = {
      type: 'Sequence',
      processors: [
        { type: 'ByteLevel', trim_offsets: false },
        {
          type: 'TemplateProcessing',
          single: [{ Sequence: { id: 'A' } }, { SpecialToken: { id: '<|eot|>' } }],
          special_tokens: { '<|eot|>': { ids: [1_003] } },
        },
      ],
    }
    const ids = [...ours({ postProcessor: both }).encodeWithSpecials('the')]
    expect(ids).toEqual([...ours().encode('the'), 1_003])
    expect([...ours({ postProcessor: null }).encodeWithSpecials('the')]).toEqual([...ours().encode('the')])
  })
})

describe('a tokenizer that is not known to be done exactly is named, not guessed', () => {
  const rows: readonly (readonly [string, unknown, string])[] = [
    ['no object', [], 'tokenizer.json is no object'],
    ['no model', {}, 'tokenizer.json has no model'],
    ['another model', tokenizerJson({ model: { type: 'Unigram' } }), 'the model Unigram'],
    ['dropout', tokenizerJson({ model: { dropout: 0.1 } }), 'the model has dropout'],
    ['bytes as a fallback', tokenizerJson({ model: { byte_fallback: true } }), 'the model has byte_fallback'],
    ['another normaliser', tokenizerJson({ normalizer: { type: 'Lowercase' } }), 'the normalizer Lowercase'],
    ['no bytes', tokenizerJson({ preTokenizer: { type: 'Metaspace' } }), 'the pre-tokenizer is not of bytes'],
    [
      'a space in front',
      tokenizerJson({ preTokenizer: { ...GPT2, add_prefix_space: true } }),
      'the pre-tokenizer adds a space',
    ],
    ['a possessive pattern', tokenizerJson({ pattern: '\\p{L}++' }), 'a pattern has a possessive quantifier'],
    ['an anchor', tokenizerJson({ pattern: '^a|b' }), 'a pattern has ^'],
    ['a pattern that is none', tokenizerJson({ pattern: '(a' }), 'a pattern that JavaScript does not read'],
    ['an id that is none', tokenizerJson({ model: { vocab: { a: -1 } } }), 'the vocabulary has an id that is none'],
    ['a vocabulary without bytes', tokenizerJson({ model: { vocab: { a: 1 } } }), 'the vocabulary lacks a byte'],
    [
      'a merge of nothing known',
      tokenizerJson({ model: { merges: ['q z'] } }),
      'a merge names a token that there is not',
    ],
    ['a merge of three', tokenizerJson({ model: { merges: [['a', 'b', 'c']] } }), 'a merge is no pair'],
    [
      'an added token without an id',
      tokenizerJson({ addedTokens: [{ content: 'x' }] }),
      'an added token has no id or no content',
    ],
  ]
  it.each(rows)('%s', (_, json, reason) => {
    expect(because(json)).toBe(reason)
  })

  it('whatever the file holds, nothing is thrown', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (json) => {
        expect(typeof createBpe(json).ok).toBe('boolean')
      }),
    )
    const names = Object.keys(tokenizerJson())
    fc.assert(
      fc.property(fc.constantFrom(...names), fc.jsonValue(), (name, value) => {
        expect(typeof createBpe({ ...tokenizerJson(), [name]: value }).ok).toBe('boolean')
      }),
      { numRuns: 60 },
    )
  })
})

describe('a long word', () => {
  it('of 100,000 letters is merged with a heap, to the ids that looking at all pairs gives', () => {
    const mine = ours()
    const word = 'tokensofthepromptthatwereherebefore'
    const short = [...mine.encode(word)]
    const startedAtMs = performance.now()
    expect(mine.encode('the'.repeat(33_334)).length).toBeGreaterThan(0)
    // Its square would take minutes.
    expect(performance.now() - startedAtMs).toBeLessThan(5_000)
    // Beyond the length where pairs are scanned the beginning comes out alike.
    expect([...mine.encode(word.repeat(4))].slice(0, short.length - 2)).toEqual(short.slice(0, -2))
  })

  it('is not kept in the cache of words, and those that are do not outgrow it', () => {
    const bpe = createBpe(tokenizerJson(), { wordCacheBytes: 20_000 })
    if (!bpe.ok) throw new Error(bpe.because)
    const many = Array.from({ length: 2_000 }, (_, index) => `w${'abcdefghij'[index % 10]}${index}`).join(' ')
    expect([...bpe.tokenizer.encode(many)]).toEqual([...ours().encode(many)])
    expect([...bpe.tokenizer.encode(many)]).toEqual([...ours().encode(many)])
  })
})
