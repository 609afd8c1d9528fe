// KV events for tests, as an engine would send them: hashes that stand for everything up to the block.
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import type { BlocksRemoved, BlocksStored, KvBatch, KvEvent } from '../../../cluster/kv/kv-event.ts'

export const POD = 'pod:8000' as EndpointId

export function batchOf(...events: readonly KvEvent[]): KvBatch {
  return { atSeconds: 0, rank: 0, events, unknownEvents: 0 }
}

export function stored(fields: Partial<Omit<BlocksStored, 'type'>>): BlocksStored {
  return {
    type: 'stored',
    hashes: new Uint32Array(0),
    parent: undefined,
    tokenIds: new Uint32Array(0),
    blockSizeTokens: 4,
    medium: 'GPU',
    loraName: undefined,
    extraKeys: undefined,
    group: 0,
    specKind: 'full_attention',
    ...fields,
  }
}

export function removed(hashes: Uint32Array, fields: Partial<Omit<BlocksRemoved, 'type'>> = {}): BlocksRemoved {
  return { type: 'removed', hashes, medium: 'GPU', group: 0, ...fields }
}

/** A prompt of `blocks` blocks and one token more, all different from another start's. */
export function promptOf(start: number, blocks: number, blockSizeTokens = 4): Uint32Array {
  return Uint32Array.from({ length: blocks * blockSizeTokens + 1 }, (_, index) => start * 100_000 + index)
}

/** The engine's hashes of a prompt's blocks `from` to `to`. */
export function hashesOf(start: number, from: number, to: number): Uint32Array {
  return Uint32Array.from({ length: 2 * (to - from) }, (_, at) =>
    at % 2 === 0 ? start + 7 : (start << 20) + from + (at >>> 1) + 1,
  )
}

/** The prompt's blocks `from` to `to`, with the parent before them. */
export function storedPrompt(
  start: number,
  from: number,
  to: number,
  fields: Partial<Omit<BlocksStored, 'type'>> = {},
): BlocksStored {
  const size = fields.blockSizeTokens ?? 4
  const [hi = 0, lo = 0] = from === 0 ? [] : hashesOf(start, from - 1, from)
  return stored({
    hashes: hashesOf(start, from, to),
    parent: from === 0 ? undefined : { hi, lo },
    tokenIds: promptOf(start, to, size).subarray(from * size, to * size),
    ...fields,
  })
}
