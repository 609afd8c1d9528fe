// The table behind the guesses, held to a Map: a piece that it loses or mixes up sends prompts to the wrong pod.
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { StampTable } from '../../../cluster/kv/stamp-table.ts'

it('knows what a Map knows, whatever is put and removed, and wherever it begins to search', () => {
  // Many share the place where their search begins, also that at the array's end.
  const key = fc.tuple(fc.nat(3), fc.constantFrom(0, 1, 63, 64, 127, 0xffffffff, 0xffffffc0))
  const step = fc.record({ key, stamp: fc.integer({ min: 1, max: 0xffffffff }), removes: fc.boolean() })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const table = new StampTable()
      const map = new Map<string, number>()
      for (const { key, stamp, removes } of steps) {
        if (removes) table.remove(...key)
        else table.put(...key, stamp)
        if (removes) map.delete(`${key}`)
        else map.set(`${key}`, stamp)
        expect(table.count).toBe(map.size)
        expect(table.stampOf(...key)).toBe(map.get(`${key}`) ?? 0)
      }
      for (const { key } of steps) expect(table.stampOf(...key)).toBe(map.get(`${key}`) ?? 0)
    }),
  )
})

it('grows with what it holds, and gives the memory back', () => {
  const table = new StampTable()
  const { bytes } = table
  const each = (act: (hi: number, lo: number) => void) => {
    for (let at = 0; at < 50_000; at++) act(at, Math.imul(at, 0x9e3779b1) >>> 0)
  }
  each((hi, lo) => table.put(hi, lo, 1 + hi))
  expect(table.count).toBe(50_000)
  each((hi, lo) => expect(table.stampOf(hi, lo)).toBe(1 + hi))
  expect(table.bytes).toBeGreaterThan(50_000 * 12)
  each((hi, lo) => table.remove(hi, lo))
  expect([table.count, table.bytes]).toEqual([0, bytes])
})

it('with pieces that all begin their search at one place: refuses the later ones, and searches no longer', () => {
  const table = new StampTable()
  for (let hi = 0; hi < 10_000; hi++) table.put(hi, 7, 1)
  expect(table.count).toBeLessThanOrEqual(64)
  expect([table.stampOf(0, 7), table.stampOf(9_999, 7)]).toEqual([1, 0])
})
