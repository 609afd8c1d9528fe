// The digest of a text is its own, whatever was digested before it.
import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { createTextDigests } from '../../../cluster/tokens/text-digests.ts'

const sha256 = (text: Buffer) => createHash('sha256').update(text).digest('base64')

it('conversations that grow, fork, shrink and change in their middle have the digests of their texts', () => {
  const digest = createTextDigests()
  const text = fc.integer({ min: 0, max: 5 }).map((which) => Buffer.alloc(9_000, `text ${which} `))
  const step = fc.record({
    keep: fc.nat(8),
    add: fc.array(text, { minLength: 1, maxLength: 8 }),
    changed: fc.option(fc.nat(8)),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
      let texts: Buffer[] = []
      for (const { keep, add, changed } of steps) {
        texts = [...texts.slice(0, keep), ...add]
        if (changed !== null && texts[changed]) texts[changed] = Buffer.alloc(9_000, `changed ${changed} `)
        expect(digest(texts)).toEqual(texts.map(sha256))
      }
    }),
  )
})

it('so have short ones, and none', () => {
  const digest = createTextDigests()
  expect(digest([])).toEqual([])
  expect(digest([Buffer.from('a'), Buffer.from('')])).toEqual([Buffer.from('a'), Buffer.from('')].map(sha256))
})
