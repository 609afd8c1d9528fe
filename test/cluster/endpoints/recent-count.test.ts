import { expect, it } from 'vitest'
import { RecentCount } from '../../../cluster/endpoints/recent-count.ts'

it('a scrape that arrives late is compared with the requests of its own moment', () => {
  const count = new RecentCount()
  expect(count.at(0)).toBe(0)
  count.set(1_000, 1)
  count.set(1_010, 2)
  count.set(1_300, 5)
  count.set(1_900, 0)
  expect([900, 1_040, 1_200, 1_310, 1_899, 1_900, 9_999].map((atMs) => count.at(atMs))).toEqual([0, 2, 2, 5, 5, 0, 0])
})

it('forgets the oldest, and answers with the oldest that it knows', () => {
  const count = new RecentCount()
  for (let step = 1; step <= 10_000; step++) count.set(step * 50, step)
  expect(count.at(500_000)).toBe(10_000)
  expect(count.at(500_000 - 5_000)).toBe(9_900)
  expect(count.at(0)).toBe(10_000 - 127)
})
