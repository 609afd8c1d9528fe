// The roofline model against figures that were published for real GPUs, and against itself: more work never takes less.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Dtype, GPUS, MODELS } from '../../../cluster/simulator/gpus.ts'
import { rooflineTiming, type StepWork, stepDurationMs } from '../../../cluster/simulator/timing.ts'

const timingOf = (gpu: keyof typeof GPUS, gpus: number, model: keyof typeof MODELS, dtype: Dtype = 'bf16') =>
  rooflineTiming({ gpu: GPUS[gpu], gpus, model: MODELS[model], dtype })

const decode = (seqs: number, context: number): StepWork => ({
  tokens: seqs,
  seqs,
  contextTokens: seqs * context,
  attentionPairs: seqs * context,
})
const prefill = (tokens: number): StepWork => ({
  tokens,
  seqs: 1,
  contextTokens: tokens,
  attentionPairs: (tokens * (tokens + 1)) / 2,
})

describe('a step', () => {
  it.each<[string, number, number, number, StepWork]>([
    ['decodes 8B on one H100', 7, 9, stepDurationMs(timingOf('h100', 1, '8b').step, decode(1, 500), 1), decode(1, 500)],
    [
      'decodes 70B on eight H100',
      9,
      12,
      stepDurationMs(timingOf('h100', 8, '70b').step, decode(1, 500), 1),
      decode(1, 500),
    ],
  ])('%s in %d to %d ms', (_name, least, most, tookMs) => {
    expect(tookMs).toBeGreaterThan(least)
    expect(tookMs).toBeLessThan(most)
  })

  it('computes a prompt token of 70B on eight H100 in about 0.036 ms', () => {
    expect(timingOf('h100', 8, '70b').step.perTokenMs).toBeCloseTo(0.036, 3)
  })

  it('computes 2048 prompt tokens of 70B on four H100 in about the 109 ms that were published for fp8', () => {
    const tookMs = stepDurationMs(timingOf('h100', 4, '70b', 'fp8').step, prefill(2048), 1)
    expect(tookMs).toBeGreaterThan(109 * 0.6)
    expect(tookMs).toBeLessThan(109 * 1.4)
  })

  it('reads more experts the more tokens it has, and never more than there are', () => {
    const { step } = timingOf('h100', 8, 'mixtral-8x7b')
    const memoryMs = (tokens: number) =>
      stepDurationMs(
        { ...step, perTokenMs: 0, perSeqMs: 0, overheadMs: 0 },
        { ...decode(tokens, 0), attentionPairs: 0 },
        1,
      )
    expect(memoryMs(2) / memoryMs(1)).toBeCloseTo(2, 5)
    expect(memoryMs(64) / memoryMs(1)).toBeCloseTo(46.7 / 12.9, 5)
  })

  it('never takes less for more work, and half as long at twice the speed', () => {
    const amount = fc.integer({ min: 0, max: 100_000 })
    const work = fc.record({ tokens: amount, seqs: amount, contextTokens: amount, attentionPairs: amount })
    fc.assert(
      fc.property(work, work, (one, more) => {
        const { step } = timingOf('h100', 1, '8b')
        const sum = {
          tokens: one.tokens + more.tokens,
          seqs: one.seqs + more.seqs,
          contextTokens: one.contextTokens + more.contextTokens,
          attentionPairs: one.attentionPairs + more.attentionPairs,
        }
        expect(stepDurationMs(step, sum, 1)).toBeGreaterThanOrEqual(stepDurationMs(step, one, 1))
        expect(stepDurationMs(step, sum, 2)).toBeCloseTo(stepDurationMs(step, sum, 1) / 2, 6)
        expect(stepDurationMs(step, sum, 0)).toBe(0)
      }),
    )
  })
})
