// What a pod keeps of its KV events to send it again, and the memory that this takes of everyone in the process.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type BatchOptions, encodeBatch } from '../../../cluster/simulator/kv-events.ts'
import { MsgpackWriter } from '../../../cluster/simulator/msgpack-writer.ts'
import {
  BATCH_OVERHEAD_BYTES,
  BUFFER_BYTES_MAX,
  BUFFER_STEPS,
  createReplayBuffer,
  type ReplayBuffer,
} from '../../../cluster/simulator/replay-buffer.ts'

const BATCHES: BatchOptions = { blockSizeTokens: 16, rank: 0, form: 'map', hashes: 'int' }

const stored = (blocks: number) => ({
  type: 'stored' as const,
  hashes: Array<string>(blocks).fill('h'.repeat(32)),
  parent: undefined,
  tokenIds: Array<number>(blocks * 16).fill(2 ** 32 - 1),
  medium: 'GPU' as const,
  salt: undefined,
  lora: undefined,
})

/** Bytes that the payloads keep alive, however many of them share a piece of memory. */
function keptAlive(buffer: ReplayBuffer): number {
  const pieces = new Set(buffer.from(0n).map(({ payload }) => payload.buffer))
  return [...pieces].reduce((sum, { byteLength }) => sum + byteLength, 0)
}

describe('the payload of a batch', () => {
  it.each([1, 20, 60, 130, 520])('of %i blocks keeps no memory alive but its own', (blocks) => {
    const payload = encodeBatch(1.5, [stored(blocks)], BATCHES)
    expect([payload.byteOffset, payload.buffer.byteLength]).toEqual([0, payload.length])
  })

  it('does not change when its writer goes on, or a batch that is being sent would', () => {
    const writer = new MsgpackWriter()
    writer.uint(1)
    const first = writer.bytes()
    writer.uint(2)
    expect([first.toString('hex'), writer.bytes().toString('hex')]).toEqual(['01', '0102'])
  })
})

describe('the replay buffer', () => {
  it('stays below its bound whatever is put into it, and keeps the newest', () => {
    const mebibyte = 1024 * 1024
    const sizes = fc.array(fc.integer({ min: 0, max: 3 * mebibyte }), { minLength: 1, maxLength: 40 })
    fc.assert(
      fc.property(sizes, (lengths) => {
        const buffer = createReplayBuffer()
        for (const length of lengths) buffer.add(Buffer.allocUnsafeSlow(length))
        const kept = buffer.from(0n)
        expect(kept.map(({ payload }) => payload.length)).toEqual(lengths.slice(-kept.length))
        expect(kept.at(-1)?.sequence).toBe(lengths.length - 1)
        expect(buffer.heldBytes()).toBe(keptAlive(buffer) + kept.length * BATCH_OVERHEAD_BYTES)
        expect(buffer.heldBytes()).toBeLessThanOrEqual(BUFFER_BYTES_MAX)
      }),
      { numRuns: 50 },
    )
  })

  it('counts the whole of a shared piece of memory: a small view of it keeps all of it alive', () => {
    const buffer = createReplayBuffer()
    for (let batch = 0; batch < 400; batch++) buffer.add(Buffer.allocUnsafeSlow(64 * 1024).subarray(0, 100))
    expect(keptAlive(buffer)).toBeLessThanOrEqual(BUFFER_BYTES_MAX)
    expect(buffer.from(0n).at(-1)?.sequence).toBe(399)
  })

  it('keeps as many small batches as vLLM, and one that is larger than all that may be kept', () => {
    const buffer = createReplayBuffer()
    const payload = encodeBatch(1.5, [stored(1)], BATCHES)
    for (let batch = 0; batch < BUFFER_STEPS + 5; batch++) buffer.add(Buffer.from(payload.buffer.slice(0)))
    expect([buffer.from(0n).length, buffer.from(0n)[0]?.sequence]).toEqual([BUFFER_STEPS, 5])
    expect(buffer.heldBytes()).toBeLessThan(BUFFER_BYTES_MAX)
    buffer.add(Buffer.allocUnsafeSlow(BUFFER_BYTES_MAX + 1))
    expect(buffer.from(0n).map(({ sequence }) => sequence)).toEqual([BUFFER_STEPS + 5])
    buffer.add(payload)
    expect(buffer.from(0n).map(({ sequence }) => sequence)).toEqual([BUFFER_STEPS + 6])
  })
})
