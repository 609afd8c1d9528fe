import fc from 'fast-check'
import { expect, it } from 'vitest'
import { Fifo } from '../../../cluster/kv/fifo.ts'

it('a queue gives what an array would, however it is filled and emptied', () => {
  const step = fc.record({ put: fc.nat(3_000), take: fc.nat(3_000), clear: fc.boolean() })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 8 }), (steps) => {
      const fifo = new Fifo<number>()
      let model: number[] = []
      let next = 0
      for (const { put, take, clear } of steps) {
        for (let left = put; left > 0; left--) {
          fifo.put(next)
          model.push(next++)
        }
        expect(fifo.peek()).toBe(model[0])
        const taken = Array.from({ length: take }, () => fifo.take()).filter((item) => item !== undefined)
        expect(taken).toEqual(model.slice(0, take))
        model = model.slice(take)
        if (clear && put % 2 === 0) {
          fifo.clear()
          model = []
        }
        expect(fifo.length).toBe(model.length)
      }
    }),
  )
})
