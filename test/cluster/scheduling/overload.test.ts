import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Load } from '../../../cluster/endpoints/endpoint.ts'
import { overloadsOf } from '../../../cluster/scheduling/overload.ts'
import { view } from '../views.ts'

const of = (...loads: Partial<Load>[]) => overloadsOf(loads.map((load, index) => view(`${index}:1`, load)))

describe('who is overloaded beside the others', () => {
  it.each<[string, Partial<Load>[], (string | undefined)[]]>([
    ['a queue where others have none', [{ queuedRequests: 4 }, {}], ['4 requests wait there, 0 elsewhere', undefined]],
    ['a queue twice as long is still alike', [{ queuedRequests: 8 }, { queuedRequests: 4 }], [undefined, undefined]],
    ['three that wait are a passing peak', [{ queuedRequests: 3 }, {}], [undefined, undefined]],
    [
      'far more active requests',
      [{ activeRequests: 27 }, { activeRequests: 5 }, { activeRequests: 30 }],
      ['27 requests are active there, 5 elsewhere', undefined, '30 requests are active there, 5 elsewhere'],
    ],
    [
      'twice the others’ and some more are alike',
      [{ activeRequests: 26 }, { activeRequests: 5 }],
      [undefined, undefined],
    ],
    ['a pod that is alone', [{ queuedRequests: 99, activeRequests: 99 }], [undefined]],
    [
      'a queue beside a pod that does not tell its own: it is not taken for idle',
      [{ queuedRequests: 9 }, { queuedRequests: undefined, stale: true }],
      [undefined, undefined],
    ],
    ['each in its own way: then nobody is', [{ queuedRequests: 9 }, { activeRequests: 99 }], [undefined, undefined]],
    ['nobody', [], []],
  ])('%s', (_, loads, expected) => {
    expect(of(...loads)).toEqual(expected)
  })

  it('leaves somebody, and compares each with the least busy of the others', () => {
    const load = fc.record({
      activeRequests: fc.nat(100),
      queuedRequests: fc.option(fc.nat(20), { nil: undefined }),
    })
    fc.assert(
      fc.property(fc.array(load, { minLength: 1 }), (loads) => {
        const reasons = of(...loads)
        expect(reasons.some((reason) => reason === undefined)).toBe(true)
        loads.forEach(({ activeRequests, queuedRequests = 0 }, index) => {
          const others = loads.filter((_, other) => other !== index)
          const active = Math.min(...others.map((other) => other.activeRequests))
          const waiting = Math.min(...others.map((other) => other.queuedRequests ?? Number.POSITIVE_INFINITY))
          const over = (queuedRequests >= 4 && queuedRequests > 2 * waiting) || activeRequests > 2 * active + 16
          if (reasons[index] !== undefined) expect(over).toBe(true)
          else if (reasons.some((reason) => reason !== undefined)) expect(over).toBe(false)
        })
      }),
    )
  })
})
