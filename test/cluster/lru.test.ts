// A map that stays within its size: what holds prompts' token ids and stored answers.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createLru } from '../../cluster/lru.ts'

describe('createLru', () => {
  const sizeOf = (value: Uint8Array): number => value.length + 10

  it('keeps what was used last, and never a value larger than itself', () => {
    const lru = createLru(100, sizeOf)
    for (const name of ['a', 'b', 'c']) lru.set(name, new Uint8Array(20))
    expect(lru.get('a')).toBeDefined()
    lru.set('d', new Uint8Array(20))
    expect(['a', 'b', 'c', 'd'].filter((name) => lru.get(name))).toEqual(['a', 'c', 'd'])
    lru.set('huge', new Uint8Array(1_000))
    expect(lru.get('huge')).toBeUndefined()
    expect([lru.size(), lru.entries()]).toEqual([90, 3])
  })

  it('counts a value that is set again once, and forgets one that a larger one was to replace', () => {
    const lru = createLru(100, sizeOf)
    lru.set('a', new Uint8Array(10))
    lru.set('a', new Uint8Array(20))
    expect([lru.size(), lru.entries()]).toEqual([30, 1])
    lru.set('a', new Uint8Array(1_000))
    expect([lru.get('a'), lru.size(), lru.entries()]).toEqual([undefined, 0, 0])
  })

  it('behaves as a list that is searched from the end', () => {
    const step = fc.tuple(fc.constantFrom('get', 'set'), fc.constantFrom('a', 'b', 'c', 'd', 'e'), fc.nat(60))
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const lru = createLru(100, sizeOf)
        let list: { readonly name: string; readonly size: number }[] = []
        const bytes = () => list.reduce((sum, { size }) => sum + size, 0)
        for (const [what, name, length] of steps) {
          const found = list.find((entry) => entry.name === name)
          if (what === 'get') {
            expect(lru.get(name) !== undefined).toBe(found !== undefined)
            if (found) list = [...list.filter((entry) => entry !== found), found]
          } else {
            lru.set(name, new Uint8Array(length))
            list = list.filter((entry) => entry !== found)
            if (length + 10 <= 100) list.push({ name, size: length + 10 })
            while (bytes() > 100) list.shift()
          }
          expect([lru.size(), lru.entries()]).toEqual([bytes(), list.length])
        }
      }),
    )
  })

  it('one key that all ask for costs no more with every time', () => {
    const lru = createLru(100_000, () => 1)
    for (let index = 0; index < 60_000; index++) lru.set(`key ${index}`, index)
    const startedMs = performance.now()
    for (let turn = 0; turn < 200_000; turn++) lru.get(`key ${turn % 2}`)
    // A hundred times what it takes.
    expect(performance.now() - startedMs).toBeLessThan(2_000)
  })
})
