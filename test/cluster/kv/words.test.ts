import fc from 'fast-check'
import { expect, it } from 'vitest'
import { Words } from '../../../cluster/kv/words.ts'

const KNOWN = ['a', 'ab', 'abc', 'abcd', 'abce', 'abcde', 'abcdefgh', 'abcdefgi', 'abcdefghijk', 'wärm']

it('a text is known exactly when it is one of them, wherever it stands', () => {
  const words = new Words(KNOWN)
  const text = fc.oneof(fc.constantFrom(...KNOWN), fc.stringMatching(/^[abcdefghij]{1,12}$/), fc.string())
  fc.assert(
    fc.property(text, fc.uint8Array({ maxLength: 9 }), fc.uint8Array({ maxLength: 5 }), (text, before, after) => {
      const bytes = new TextEncoder().encode(text)
      const all = Uint8Array.of(...before, ...bytes, ...after)
      const found = words.find(new DataView(all.buffer), before.length, bytes.length)
      expect(found).toBe(KNOWN.includes(text) ? text : undefined)
    }),
  )
})
