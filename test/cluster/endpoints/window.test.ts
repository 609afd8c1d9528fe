import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MeanWindow, SAMPLE_INTERVAL_MS, WINDOW_MS } from '../../../cluster/endpoints/window.ts'

type Row = readonly [atSeconds: number, totals: readonly [sum: number, count: number] | undefined]

function meanAfter(rows: readonly Row[]): number | undefined {
  const window = new MeanWindow()
  for (const [atSeconds, totals] of rows) {
    window.add(atSeconds * 1_000, totals && { sum: totals[0], count: totals[1] })
  }
  return window.mean()
}

describe('the mean of the last minute', () => {
  const table: readonly { readonly name: string; readonly rows: readonly Row[]; readonly mean: number | undefined }[] =
    [
      { name: 'is not known before anything was told', rows: [], mean: undefined },
      { name: 'is not the mean of an engine’s whole life', rows: [[0, [900, 30]]], mean: undefined },
      {
        name: 'counts what finished since the first look',
        rows: [
          [0, [900, 30]],
          [0.2, [904, 32]],
        ],
        mean: 2,
      },
      {
        name: 'is not known when nothing finished in it: idle is not fast',
        rows: [
          [0, [900, 30]],
          [30, [900, 30]],
        ],
        mean: undefined,
      },
      {
        name: 'forgets what is older than a minute',
        rows: [
          [0, [0, 0]],
          [1, [100, 1]],
          [5, [100, 1]],
          [64, [104, 3]],
        ],
        mean: 2,
      },
      {
        name: 'is not known after more than a minute without a word',
        rows: [
          [0, [0, 0]],
          [61, [100, 1]],
        ],
        mean: undefined,
      },
      {
        name: 'begins anew when the engine did',
        rows: [
          [0, [900, 30]],
          [5, [930, 40]],
          [6, [1, 1]],
          [7, [7, 3]],
        ],
        mean: 3,
      },
      {
        name: 'is not known right after a restart, whatever it was before',
        rows: [
          [0, [900, 30]],
          [5, [930, 40]],
          [6, [1, 1]],
        ],
        mean: undefined,
      },
      {
        name: 'notices a restart by the sum alone',
        rows: [
          [0, [900, 1]],
          [5, [3, 2]],
          [6, [8, 3]],
        ],
        mean: 5,
      },
      {
        name: 'is not known once the engine no longer tells it',
        rows: [
          [0, [0, 0]],
          [1, [5, 1]],
          [2, undefined],
        ],
        mean: undefined,
      },
      {
        name: 'does not count as fresh what passed while the engine did not tell it',
        rows: [
          [0, [0, 0]],
          [1, undefined],
          [2, [500, 100]],
          [3, [501, 101]],
        ],
        mean: 1,
      },
      {
        name: 'looks back at most a minute, and loses at most one interval of it',
        rows: [...Array.from({ length: 600 }, (_, step): Row => [step / 5, [step, step]]), [120, [700, 600]]],
        mean: (700 - 300) / (600 - 300),
      },
    ]
  it.each(table)('$name', ({ rows, mean }) => {
    expect(meanAfter(rows)).toEqual(mean)
  })

  it('equals the mean of what finished, for any engine that counts up', () => {
    const step = fc.record({
      gapMs: fc.integer({ min: 1, max: 8_000 }),
      durations: fc.array(fc.integer({ min: 0, max: 50 }), { maxLength: 4 }),
    })
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 80 }), (steps) => {
        const window = new MeanWindow()
        const finished: { readonly atMs: number; readonly duration: number }[] = []
        let atMs = 0
        let sum = 0
        window.add(atMs, { sum, count: 0 })
        for (const { gapMs, durations } of steps) {
          atMs += gapMs
          for (const duration of durations) {
            finished.push({ atMs, duration })
            sum += duration
          }
          window.add(atMs, { sum, count: finished.length })
        }
        // What it may look back to: any moment between the window less one interval and the window.
        const means = new Set<number | undefined>()
        for (let back = WINDOW_MS - SAMPLE_INTERVAL_MS - 8_000; back <= WINDOW_MS; back++) {
          const recent = finished.filter((each) => each.atMs > atMs - back)
          const total = recent.reduce((all, each) => all + each.duration, 0)
          means.add(recent.length === 0 ? undefined : total / recent.length)
          if (back >= atMs) break
        }
        expect([...means]).toContainEqual(window.mean())
      }),
      { numRuns: 30 },
    )
  })
})
