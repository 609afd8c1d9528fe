// How far an index is believed: less at once when it is wrong, again when it is right; and when somebody is told.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { type AccuracyEvent, createAccuracyLedger } from '../../../cluster/epp/accuracy.ts'
import { biasOf, confidenceOf, ERROR_EDGES, errorBucket, type Outcome } from '../../../cluster/epp/confidence.ts'

const right: Outcome = { predicted: 640, actual: 640 }
const empty: Outcome = { predicted: 0, actual: 0 }
const over: Outcome = { predicted: 640, actual: 0 }
const under: Outcome = { predicted: 0, actual: 640 }
const times = (count: number, outcome: Outcome): Outcome[] => Array<Outcome>(count).fill(outcome)

describe('confidence', () => {
  it('is whole without outcomes, with right ones, and with prompts that say nothing', () => {
    for (const outcomes of [[], times(40, right), times(40, empty)]) expect(confidenceOf(outcomes)).toBe(1)
  })

  it('falls at once after a prediction that did not come true, further with each, and comes back with right ones', () => {
    const falling = [0, 1, 2, 4, 8].map((wrong) => confidenceOf([...times(10, right), ...times(wrong, over)]))
    expect(falling).toEqual([...falling].sort((a, b) => b - a))
    expect(falling[1]).toBeLessThan(0.85)
    expect(falling.at(-1)).toBeLessThan(0.35)
    const rising = [0, 4, 8, 16].map((good) => confidenceOf([...times(8, over), ...times(good, right)]))
    expect(rising).toEqual([...rising].sort((a, b) => a - b))
    expect(rising.at(-1)).toBeGreaterThan(0.95)
  })

  it('falls less for what was there and not predicted', () => {
    expect(confidenceOf(times(4, under))).toBeGreaterThan(confidenceOf(times(4, over)))
  })

  it('is between 0 and 1, whatever came', () => {
    const tokens = fc.nat(200_000)
    fc.assert(
      fc.property(fc.array(fc.record({ predicted: tokens, actual: tokens }), { maxLength: 40 }), (outcomes) => {
        const confidence = confidenceOf(outcomes)
        expect(confidence).toBeGreaterThanOrEqual(0)
        expect(confidence).toBeLessThanOrEqual(1)
      }),
    )
  })
})

describe('an alarm', () => {
  it('is for predictions that are wrong in one way again and again, not for a miss now and then', () => {
    expect(biasOf(times(7, over), undefined)).toBeUndefined()
    expect(biasOf(times(8, over), undefined)).toBe('over')
    expect(biasOf(times(8, under), undefined)).toBe('under')
    expect(biasOf([...times(4, over), ...times(4, under)], undefined)).toBeUndefined()
    expect(biasOf([...times(8, over), ...times(16, right)], undefined)).toBeUndefined()
    // Less than a block is the last one of a prompt.
    expect(biasOf(times(16, { predicted: 640, actual: 632 }), undefined)).toBeUndefined()
  })

  it('stays until predictions are right again', () => {
    expect(biasOf([...times(8, over), ...times(8, right)], 'over')).toBe('over')
    expect(biasOf([...times(8, over), ...times(15, right)], 'over')).toBeUndefined()
  })

  it('is told once when it begins and once when it ends, with what is likely the matter', () => {
    const events: AccuracyEvent[] = []
    const ledger = createAccuracyLedger((event) => events.push(event))
    const pod = 'a:1' as EndpointId
    const add = (outcome: Outcome) => ledger.add(pod, { ...outcome, promptTokens: 700 })
    for (const outcome of times(12, under)) add(outcome)
    expect(ledger.bias(pod)).toBe('under')
    // A new beginning is no proof.
    ledger.renewed(pod)
    expect(ledger.confidence(pod)).toBeLessThan(1)
    for (const outcome of times(20, right)) add(outcome)
    expect(ledger.bias(pod)).toBeUndefined()
    expect(events).toMatchObject([
      { type: 'kv-inaccurate', endpoint: pod, bias: 'under', likely: expect.stringContaining('chat template') },
      { type: 'kv-accurate', endpoint: pod },
    ])
  })
})

describe('a reset', () => {
  it('that was not announced costs confidence; once it is, the index is true and believed again', () => {
    const ledger = createAccuracyLedger()
    const pod = 'a:1' as EndpointId
    ledger.add(pod, { ...over, promptTokens: 700 })
    expect(ledger.confidence(pod)).toBeLessThan(0.6)
    ledger.renewed(pod)
    expect(ledger.confidence(pod)).toBe(1)
    expect(ledger.confidence('other:1' as EndpointId)).toBe(1)
  })
})

describe('the histogram of errors', () => {
  it('has one place for each error, exact predictions one of their own', () => {
    expect(errorBucket(0)).toBe(ERROR_EDGES.indexOf(0))
    expect([errorBucket(-1), errorBucket(1), errorBucket(-1e6), errorBucket(1e6)]).toEqual([
      4,
      6,
      0,
      ERROR_EDGES.length,
    ])
  })
})
