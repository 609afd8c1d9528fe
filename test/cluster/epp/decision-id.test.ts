import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createDecisionIds, decisionIdOf, nonceOf } from '../../../cluster/epp/decision-id.ts'

describe('from an answer back to its decision', () => {
  it('every id of a response leads back to the decision that made it', () => {
    const prefix = fc.uint8Array({ minLength: 5, maxLength: 5 })
    fc.assert(
      fc.property(prefix, fc.nat({ max: 36 ** 9 - 1 }), (bytes, count) => {
        const id = `d-${Buffer.from(bytes).toString('hex')}-${count.toString(36)}`
        expect(nonceOf(id)).toMatch(/^[A-Za-z0-9_-]{16}$/)
        expect(decisionIdOf(`resp_${nonceOf(id)}and-what-follows`)).toBe(id)
      }),
    )
  })
  it.each(['chatcmpl-d-0123456789-1z', 'cmpl-d-0123456789-1z', 'embd-d-0123456789-1z', 'd-0123456789-1z'])(
    '%s leads there',
    (id) => {
      expect(decisionIdOf(id)).toBe('d-0123456789-1z')
    },
  )
  it('no two decisions of a process, and no two processes, share one', () => {
    const [one, other] = [createDecisionIds(), createDecisionIds()]
    const ids = Array.from({ length: 1_000 }, () => [one(), other()]).flat()
    expect(new Set(ids).size).toBe(ids.length)
    expect(new Set(ids.map(nonceOf)).size).toBe(ids.length)
  })
})
