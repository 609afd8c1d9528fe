// The digest of a text is its own, whatever was digested before it.
import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { createTextDigests } from '../../../cluster/tokens/text-digests.ts'

const sha256 = (text: Buffer) => createHash('sha256').update(text).digest('base64')

it('conversations that grow, fork, shrink and change in their middle have the digests of their texts', async () => {
  const digest = createTextDigests()
  const text = fc.integer({ min: 0, max: 5 }).map((which) => Buffer.alloc(9_000, `text ${which} `))
  const step = fc.record({
    keep: fc.nat(8),
    add: fc.array(text, { minLength: 1, maxLength: 8 }),
    changed: fc.option(fc.nat(8)),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
      let texts: Buffer[] = []
      for (const { keep, add, changed } of steps) {
        texts = [...texts.slice(0, keep), ...add]
        if (changed !== null && texts[changed]) texts[changed] = Buffer.alloc(9_000, `changed ${changed} `)
        expect(await digest(texts)).toEqual(texts.map(sha256))
      }
    }),
  )
})

it('so have short ones, and none', async () => {
  const digest = createTextDigests()
  expect(await digest([])).toEqual([])
  expect(await digest([Buffer.from('a'), Buffer.from('')])).toEqual([Buffer.from('a'), Buffer.from('')].map(sha256))
})

it('so have those that are digested in parts', async () => {
  const digest = createTextDigests()
  const texts = [600_000, 1_048_576, 100, 300_000, 300_000, 2_000_001].map((bytes, at) => Buffer.alloc(bytes, `${at} `))
  for (const upTo of [2, 4, 6, 6]) expect(await digest(texts.slice(0, upTo))).toEqual(texts.slice(0, upTo).map(sha256))
})
