import { describe, expect, it } from 'vitest'
import { minimize } from '../../../cluster/simulator/minimize.ts'

describe('the least value of a function', () => {
  it.each<[string, (at: readonly number[]) => number, readonly number[], readonly number[]]>([
    ['a bowl', ([x = 0, y = 0]) => (x - 3) ** 2 + (y + 1) ** 2, [0, 0], [3, -1]],
    ['a narrow valley that bends', ([x = 0, y = 0]) => (1 - x) ** 2 + 100 * (y - x * x) ** 2, [-1, 1], [1, 1]],
    ['one number', ([x = 0]) => Math.abs(x - 7), [0], [7]],
    ['beyond a place where there is no value', ([x = 0]) => (x < -1 ? Number.NaN : (x - 2) ** 2), [0], [2]],
  ])('is found in %s', (_name, of, start, least) => {
    const { at } = minimize(of, start, 600)
    for (const [index, x] of least.entries()) expect(at[index]).toBeCloseTo(x, 1)
  })

  it('is not looked for longer than allowed', () => {
    let looks = 0
    minimize(([x = 0]) => ++looks + x, [0], 50)
    expect(looks).toBeLessThanOrEqual(54)
  })
})
