// When something that fails is left alone, on a clock: rests that double, one probe after each.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createBreaker, FAILURES_MAX, REST_MS_LEAST, REST_MS_MOST } from '../../../cluster/cache/breaker.ts'

const WITHOUT_JITTER = () => 0

describe('createBreaker', () => {
  it('opens at the fifth failure in a row, and not for failures with a success between them', () => {
    const breaker = createBreaker(WITHOUT_JITTER)
    for (let failure = 1; failure < FAILURES_MAX; failure++) breaker.failed(0)
    breaker.succeeded(0)
    for (let failure = 1; failure < FAILURES_MAX; failure++) breaker.failed(0)
    expect([breaker.state(), breaker.enter(0), breaker.restMs(0)]).toEqual(['closed', true, 0])
    breaker.failed(0)
    expect([breaker.state(), breaker.enter(0), breaker.restMs(0)]).toEqual(['open', false, REST_MS_LEAST])
  })

  it('after the rest one probe passes and nobody else until it has ended', () => {
    const breaker = createBreaker(WITHOUT_JITTER)
    breaker.open(0)
    expect(breaker.enter(REST_MS_LEAST - 1)).toBe(false)
    expect([breaker.enter(REST_MS_LEAST), breaker.enter(REST_MS_LEAST), breaker.enter(1e9)]).toEqual([
      true,
      false,
      false,
    ])
    breaker.succeeded(REST_MS_LEAST)
    expect([breaker.state(), breaker.enter(REST_MS_LEAST), breaker.enter(REST_MS_LEAST)]).toEqual([
      'closed',
      true,
      true,
    ])
  })

  it('rests double while probes fail, up to the longest', () => {
    const breaker = createBreaker(WITHOUT_JITTER)
    const rests: number[] = []
    let nowMs = 0
    breaker.open(nowMs)
    for (let probe = 0; probe < 7; probe++) {
      rests.push(breaker.restMs(nowMs))
      nowMs += breaker.restMs(nowMs)
      expect(breaker.enter(nowMs)).toBe(true)
      breaker.failed(nowMs)
    }
    expect(rests).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000])
  })

  it.each([
    ['at once', 0, 2_000],
    ['within the longest rest', REST_MS_MOST - 1, 2_000],
    ['after it', REST_MS_MOST, 1_000],
  ])('what answers probes and fails again %s', (_, steadyMs, restMs) => {
    const breaker = createBreaker(WITHOUT_JITTER)
    breaker.open(0)
    breaker.enter(1_000)
    breaker.succeeded(1_000)
    breaker.open(1_000 + steadyMs)
    expect(breaker.restMs(1_000 + steadyMs)).toBe(restMs)
  })

  it('what was sent before a rest and is answered in it neither ends nor lengthens it', () => {
    const breaker = createBreaker(WITHOUT_JITTER)
    breaker.open(0)
    breaker.succeeded(500)
    breaker.failed(500)
    breaker.open(500)
    expect([breaker.state(), breaker.restMs(500)]).toEqual(['open', 500])
  })

  it('property: whatever happens, rests stay within bounds, and one of two who ask passes at most while it is not closed', () => {
    const step = fc.record({
      act: fc.constantFrom('enter', 'succeeded', 'failed', 'open'),
      afterMs: fc.integer({ min: 0, max: 40_000 }),
    })
    const fractions = fc.array(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), { minLength: 1 })
    fc.assert(
      fc.property(fc.array(step as fc.Arbitrary<Step>, { maxLength: 60 }), fractions, (steps, jitter) => {
        let at = 0
        const breaker = createBreaker(() => jitter[at++ % jitter.length] as number)
        let nowMs = 0
        for (const { act, afterMs } of steps) {
          nowMs += afterMs
          const before = breaker.state()
          if (act === 'enter') {
            const passed = breaker.enter(nowMs)
            expect(passed && before !== 'closed' && breaker.enter(nowMs)).toBe(false)
          } else breaker[act](nowMs)
          const rest = breaker.restMs(nowMs)
          expect(rest).toBeLessThanOrEqual(REST_MS_MOST)
          if (before !== 'open' && breaker.state() === 'open') expect(rest).toBeGreaterThanOrEqual(REST_MS_LEAST / 2)
          if (breaker.state() !== 'open') expect(rest).toBe(0)
        }
      }),
    )
  })
})

type Step = { readonly act: 'enter' | 'succeeded' | 'failed' | 'open'; readonly afterMs: number }
