import { expect, it } from 'vitest'
import { BLOCKS_AT_ONCE, PromptTable } from '../../../cluster/kv/prompt-table.ts'

it('holds what a Map holds while blocks come and go, also when all lie in one segment', () => {
  for (const segmentOnly of [false, true]) {
    const KEYS = 6000
    const table = new PromptTable()
    const naive = new Map<number, Set<number>>()
    const hi = (key: number) => (segmentOnly ? key : mixed(key))
    // In small segments all begin near the end, so that searches run into each other and around it.
    const lo = (key: number) => (mixed(key + 1) | (segmentOnly ? 0 : 0xf000_0000)) >>> 0
    let step = 0
    for (const share of [0.9, 0.3, 0.9, 0]) {
      for (let round = 0; round < 30_000; round++, step++) {
        const key = mixed(step) % KEYS
        const ordinal = mixed(step + 1) % 3
        const holders = naive.get(key) ?? new Set()
        naive.set(key, holders)
        if (mixed(step + 2) / 2 ** 32 < share) {
          const added = table.add(hi(key), lo(key), ordinal, 0)
          expect(added).toBe(holders.has(ordinal) ? 'held-before' : 'added')
          holders.add(ordinal)
        } else {
          table.remove(hi(key), lo(key), ordinal, 0)
          holders.delete(ordinal)
        }
        if (holders.size === 0) naive.delete(key)
      }
      expect(table.blocks).toBe(naive.size)
      const hashes = new Uint32Array(2 * BLOCKS_AT_ONCE)
      const sets = new Uint32Array(BLOCKS_AT_ONCE)
      for (let first = 0; first < KEYS; first += BLOCKS_AT_ONCE) {
        for (let block = 0; block < BLOCKS_AT_ONCE; block++) {
          hashes[2 * block] = hi(first + block)
          hashes[2 * block + 1] = lo(first + block)
        }
        table.lookUp(hashes, BLOCKS_AT_ONCE, sets)
        for (let block = 0; block < BLOCKS_AT_ONCE; block++) {
          for (const ordinal of [0, 1, 2]) {
            const held = table.sets.has(sets[block] as number, ordinal, 0)
            expect(held).toBe(naive.get(first + block)?.has(ordinal) ?? false)
          }
        }
      }
    }
  }
})

function mixed(value: number): number {
  let word = Math.imul(value ^ (value >>> 16), 0x7feb352d)
  word = Math.imul(word ^ (word >>> 15), 0x846ca68b)
  return (word ^ (word >>> 16)) >>> 0
}
