// The built-in tokenizer: no text may be lost, and ids must be such that others can hold them in 32 bits.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createBuiltInTokenizer } from '../../../cluster/simulator/tokenizer.ts'

const tokenizer = createBuiltInTokenizer()
const OPTIONS = {
  addGenerationPrompt: true,
  continueFinalMessage: false,
  addSpecialTokens: false,
  templateVariables: {},
}
const anyText = fc.string({ unit: 'binary' })

describe('the built-in tokenizer', () => {
  it('gives back every well-formed text, or an answer could not be read', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        expect(tokenizer.decode(tokenizer.encode(text, true))).toBe(text)
      }),
    )
  })

  it('gives back every text token by token, also where a token ends inside a character', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const decode = tokenizer.createDecoder()
        expect(tokenizer.encode(text, true).map(decode).join('')).toBe(text)
      }),
    )
  })

  it('makes ids of 32 bits that it knows again, or a prompt of token ids would be refused', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        for (const id of tokenizer.encode(text, true)) {
          expect(tokenizer.isId(id)).toBe(true)
          expect(id >>> 0).toBe(id)
        }
      }),
    )
  })

  it.each([0, -1, 1.5, 244, 244 ** 4 + 3, 2 ** 32])('refuses %d, which no text has', (id) => {
    expect(tokenizer.isId(id)).toBe(false)
  })

  it('begins tokens at words, with the space before them, or equal prefixes would not have equal tokens', () => {
    const pieces = tokenizer.encode('Hello  my dear\n\n 42 worlds!', true).map((id) => tokenizer.decode([id]))
    expect(pieces).toEqual(['Hell', 'o', ' ', ' my', ' dea', 'r', '\n\n', ' 42', ' wor', 'lds', '!'])
  })

  it('renders a conversation so that a longer one begins with the shorter one’s tokens', () => {
    const turns = [
      { role: 'developer', content: null },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'part one' },
          { type: 'text', text: 'part two' },
        ],
      },
    ]
    const ids = tokenizer.encodeChat(turns, undefined, OPTIONS)
    expect(tokenizer.decode(ids)).toBe(
      '<|im_start|>system\n<|im_end|>\n<|im_start|>user\npart one\npart two<|im_end|>\n<|im_start|>assistant\n',
    )
    const answer = { role: 'assistant', content: 'Yes.' }
    const longer = tokenizer.encodeChat([...turns, answer], undefined, { ...OPTIONS, addGenerationPrompt: false })
    expect(longer.slice(0, ids.length - 1)).toEqual(ids.slice(0, -1))
  })
})
