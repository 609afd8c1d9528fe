import { expect, it } from 'vitest'
import { HoldTable, NO_SLOT, NOT_HELD, STILL_HELD } from '../../../cluster/kv/hold-table.ts'

it.each([
  { name: 'hashes like a digest', hashOf: (key: number): [number, number] => [mixed(key), mixed(key + 0x5000_0000)] },
  { name: 'hashes that count up', hashOf: (key: number): [number, number] => [0, key] },
  { name: 'hashes with little in them', hashOf: (key: number): [number, number] => [key << 20, 5] },
])('holds what a Map holds, through growth and shrinking: $name', ({ hashOf }) => {
  const KEYS = 4000
  const table = new HoldTable()
  const naive = new Map<string, { readonly own: number; times: number }>()
  const own = new Uint32Array(2)
  let step = 0
  for (const share of [0.9, 0.5, 0.1, 0.9, 0]) {
    for (let round = 0; round < 20_000; round++, step++) {
      const key = mixed(step) % KEYS
      const kind = mixed(step + 1) % 3
      const [hi, lo] = hashOf(key).map((word) => word >>> 0) as [number, number]
      const name = `${hi},${lo},${kind}`
      const slot = table.find(hi, lo, kind)
      if (slot === NO_SLOT) throw new Error('no slot')
      const known = naive.get(name)
      expect(table.isEmpty(slot)).toBe(known === undefined)
      if (mixed(step + 2) / 2 ** 32 < share) {
        if (known) {
          known.times++
          table.storedAgain(slot)
        } else {
          naive.set(name, { own: step, times: 1 })
          table.insert(slot, hi, lo, step, step + 1, kind, kind)
        }
      } else if (known) {
        expect([table.ownHi(slot), table.ownLo(slot), table.sizeAt(slot)]).toEqual([known.own, known.own + 1, kind])
        known.times--
        expect(table.remove(hi, lo, kind, own, 0)).toBe(known.times === 0 ? kind : STILL_HELD)
        if (known.times === 0) {
          naive.delete(name)
          expect([...own]).toEqual([known.own, known.own + 1])
        }
      } else expect(table.remove(hi, lo, kind, own, 0)).toBe(NOT_HELD)
    }
    expect(table.count).toBe(naive.size)
  }
  const left: number[] = []
  while (!table.drain(100, (ownHi) => left.push(ownHi)));
  expect(left.sort((a, b) => a - b)).toEqual([...naive.values()].map(({ own }) => own).sort((a, b) => a - b))
})

it('gives memory back when most is removed', () => {
  const table = new HoldTable()
  const { bytes } = table
  for (let key = 0; key < 50_000; key++) table.insert(table.find(key, mixed(key), 0), key, mixed(key), 0, 0, 0, 0)
  expect(table.bytes).toBeLessThan(50_000 * 55)
  for (let key = 0; key < 50_000; key++) table.remove(key, mixed(key), 0, new Uint32Array(2), 0)
  expect(table.bytes).toBeLessThan(4 * bytes)
})

function mixed(value: number): number {
  let word = Math.imul(value ^ (value >>> 16), 0x7feb352d)
  word = Math.imul(word ^ (word >>> 15), 0x846ca68b)
  return (word ^ (word >>> 16)) >>> 0
}
