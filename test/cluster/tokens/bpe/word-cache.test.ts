// A word has the ids that it was put with, or none: however full the cache is.
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { CACHED_IDS_MAX, WordCache } from '../../../../cluster/tokens/bpe/word-cache.ts'

const word = fc.oneof(
  fc.string({ minLength: 1, maxLength: 4 }),
  fc.string({ unit: 'binary', minLength: 1, maxLength: 60 }),
)
const id = fc.integer({ min: 0, max: 2 ** 32 - 1 })

it('whatever is put and asked, in any order', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(word, fc.array(id, { minLength: 1, maxLength: 5 })), { maxLength: 400 }), (puts) => {
      const cache = new WordCache(4_000)
      const known = new Map<string, readonly number[]>()
      const into = new Uint32Array(CACHED_IDS_MAX + 1)
      for (const [text, ids] of puts) {
        const units = Uint16Array.from(`<${text}>`, (_, at) => `<${text}>`.charCodeAt(at))
        const end = 1 + text.length
        const found = cache.copy(units, 1, end, into, 1)
        const before = known.get(text)
        if (found !== -1) {
          expect([...into.subarray(1, found)]).toEqual(before)
          continue
        }
        known.set(text, ids)
        cache.put(units, 1, end, Uint32Array.from(ids))
        const again = cache.copy(units, 1, end, into, 1)
        if (again !== -1) expect([...into.subarray(1, again)]).toEqual(ids)
      }
    }),
  )
})

it('most words are kept while there is room, the longest and those with too many ids never', () => {
  const cache = new WordCache(1024 * 1024)
  const into = new Uint32Array(CACHED_IDS_MAX)
  const unitsOf = (text: string) => Uint16Array.from([...text], (char) => char.charCodeAt(0))
  const words = Array.from({ length: 10_000 }, (_, at) => `word${at}`)
  for (const [at, text] of words.entries()) cache.put(unitsOf(text), 0, text.length, Uint32Array.of(at))
  const kept = words.filter((text, at) => cache.copy(unitsOf(text), 0, text.length, into, 0) === 1 && into[0] === at)
  expect(kept.length).toBeGreaterThan(9_990)
  const long = unitsOf('x'.repeat(49))
  cache.put(long, 0, 49, Uint32Array.of(1))
  expect(cache.copy(long, 0, 49, into, 0)).toBe(-1)
  cache.put(long, 0, 48, new Uint32Array(CACHED_IDS_MAX + 1))
  expect(cache.copy(long, 0, 48, into, 0)).toBe(-1)
})
