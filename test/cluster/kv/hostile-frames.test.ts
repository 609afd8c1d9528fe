// Frames from the wire into the index: whatever a publisher sends, nothing throws, and what is kept stays within the limits.
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { decodeEvents } from '../../../cluster/kv/decode-events.ts'
import { createKvIndex, type KvIndex, type KvSource } from '../../../cluster/kv/kv-index.ts'
import { readCaptures } from './captures.ts'
import { encode } from './encode-msgpack.ts'
import { POD, promptOf } from './kv-events.ts'

const captures = readCaptures().map(({ payload }) => payload)
const LIMITS = { blocksMax: 2_000, orphans: { eventsMax: 8, tokensMax: 2_000 } }

/** What a header claims that has nothing behind it, and values that nest. */
const LIES = [
  'ddffffffff',
  'dfffffffff',
  'dcffff',
  'deffff',
  'c6ffffffff',
  'dbffffffff',
  'c9ffffffff01',
  'c1',
  '91'.repeat(500),
  '81'.repeat(500),
  '8101'.repeat(500),
  'c0',
  'cfffffffffffffffff',
  'cb7ff8000000000000',
].map((hex) => Buffer.from(hex, 'hex'))

const spoilings = fc.array(
  fc.record({
    at: fc.nat(),
    lie: fc.oneof(fc.constantFrom(...LIES), fc.uint8Array({ maxLength: 4 })),
    over: fc.boolean(),
  }),
  { minLength: 1, maxLength: 4 },
)

/** Mostly near the front: further on are tokens, where a change is only another token. */
function spoilt(payload: Buffer, all: readonly { at: number; lie: Uint8Array; over: boolean }[]): Buffer {
  return all.reduce((frame, { at, lie, over }) => {
    const from = at % (at % 3 === 0 ? frame.length + 1 : Math.min(frame.length + 1, 200))
    return Buffer.concat([frame.subarray(0, from), lie, frame.subarray(over ? from + lie.length : from)])
  }, payload)
}

function receive(source: KvSource, payload: Uint8Array): boolean {
  const decoded = decodeEvents(payload)
  if (decoded.ok) source.apply(decoded.batch)
  return decoded.ok
}

function expectWithin(index: KvIndex): void {
  const { blocks, promptBlocks, orphans, bytes } = index.stats()
  expect(blocks).toBeLessThanOrEqual(LIMITS.blocksMax)
  expect(promptBlocks).toBeLessThanOrEqual(LIMITS.blocksMax)
  expect(orphans.events).toBeLessThanOrEqual(LIMITS.orphans.eventsMax)
  expect(orphans.tokens).toBeLessThanOrEqual(LIMITS.orphans.tokensMax)
  expect(bytes).toBeLessThan(1024 * 1024)
}

it('real frames with lies in them, one after the other into one index', () => {
  const index = createKvIndex(LIMITS)
  const source = index.open({ endpoint: POD, rank: 0, model: 'm' })
  let read = 0
  fc.assert(
    fc.property(fc.constantFrom(...captures), spoilings, (payload, all) => {
      if (receive(source, spoilt(payload, all))) read++
      expectWithin(index)
    }),
    { numRuns: 5_000 },
  )
  // Some of them must get past the decoder, or the index was not asked.
  expect(read).toBeGreaterThan(100)
  expect(index.match({ tokenIds: promptOf(1, 3), model: 'm', lora: undefined, cacheSalt: undefined })).toHaveLength(1)
})

it('events of the right form with any values in them', () => {
  const index = createKvIndex(LIMITS)
  const source = index.open({ endpoint: POD, rank: 0, model: 'm' })
  const hash = fc.oneof(fc.nat(30), fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }))
  const hashes = fc.array(hash, { maxLength: 20 })
  const medium = fc.constantFrom('GPU', 'CPU', null, '', 'x'.repeat(100))
  const count = fc.constantFrom(0, 1, 2, 4, 2 ** 32 - 1)
  const event = fc.oneof(
    fc.record({
      type: fc.constant('BlockStored'),
      block_hashes: hashes,
      parent_block_hash: fc.option(hash),
      token_ids: fc.array(fc.nat(50), { maxLength: 80 }),
      block_size: count,
      medium,
      lora_name: fc.option(fc.string()),
      extra_keys: fc.option(fc.array(fc.option(fc.array(fc.string())), { maxLength: 20 })),
      group_idx: count,
    }),
    fc.record({ type: fc.constant('BlockRemoved'), block_hashes: hashes, medium, group_idx: count }),
    fc.record({ type: fc.constant('AllBlocksCleared') }),
  )
  fc.assert(
    fc.property(fc.array(event, { maxLength: 10 }), (written) => {
      expect(receive(source, encode([1.5, written, 0]))).toBe(true)
      expectWithin(index)
    }),
    { numRuns: 2_000 },
  )
  source.clear()
  while (!index.sweep());
  expect(index.stats()).toMatchObject({
    blocks: 0,
    promptBlocks: 0,
    blocksToSweep: 0,
    orphans: { events: 0, tokens: 0 },
  })
})
