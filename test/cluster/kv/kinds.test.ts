import { expect, it } from 'vitest'
import { GPU_TIER, SLOW_TIER } from '../../../cluster/kv/holder-sets.ts'
import { Kinds } from '../../../cluster/kv/kinds.ts'

it('a group and a medium have one number, and a medium that is not named is the GPU', () => {
  const kinds = new Kinds()
  expect([kinds.take(0), kinds.take(1), kinds.take(0, 'CPU'), kinds.take(0, 'GPU')]).toEqual([0, 1, 2, 0])
  expect([kinds.find(1), kinds.find(0, 'CPU'), kinds.find(1, 'CPU')]).toEqual([1, 2, undefined])
  expect([kinds.tierOf(0), kinds.tierOf(2)]).toEqual([GPU_TIER, SLOW_TIER])
  expect(kinds.groups).toEqual([0, 1, 0])
  kinds.clear()
  expect([kinds.find(0), kinds.take(5, 'DISK'), kinds.groups]).toEqual([undefined, 0, [5]])
})

it('names without end, or as long as a book, get none', () => {
  const kinds = new Kinds()
  const numbers = Array.from({ length: 1_000 }, (_, group) => kinds.take(group))
  expect(numbers.filter((number) => number !== undefined)).toHaveLength(32)
  expect(new Kinds().take(0, 'x'.repeat(65))).toBeUndefined()
  expect(kinds.take(31)).toBe(31)
})
