// The newest batches of KV events, kept to be sent again to whoever missed them.

export type Batch = { readonly sequence: number; readonly payload: Buffer }

export type ReplayBuffer = {
  /** Keeps a batch, and gives its number. */
  readonly add: (payload: Buffer) => number
  /** Those from this number on that are still kept. */
  readonly from: (sequence: bigint) => readonly Batch[]
  /** Bytes of memory, what the batches cost beside their payloads included. */
  readonly heldBytes: () => number
}

/** As many as vLLM keeps. */
export const BUFFER_STEPS = 10_000
/**
 * vLLM keeps batches of any size, about 200 MB of long prompts; `warmpath up` holds several pods in one process. At less
 * than 4 bytes a token this is room for four million tokens, nine times what the KV cache of any of the pods holds.
 */
export const BUFFER_BYTES_MAX = 16 * 1024 * 1024
/** Of memory beside its payload, measured with Node 24: 440 bytes where the payload is tiny, 1,060 where it has 20 kB. */
export const BATCH_OVERHEAD_BYTES = 1_024

/** An empty buffer. It counts the whole memory that a payload is a part of: give it payloads in memory of their own. */
export function createReplayBuffer(): ReplayBuffer {
  // By number; batches are numbered without gaps, so that the oldest one is known.
  const payloads = new Map<number, Buffer>()
  let oldest = 0
  let next = 0
  let bytes = 0
  return {
    add: (payload) => {
      payloads.set(next, payload)
      bytes += bytesOf(payload)
      while (payloads.size > BUFFER_STEPS || (bytes > BUFFER_BYTES_MAX && payloads.size > 1)) {
        bytes -= bytesOf(payloads.get(oldest))
        payloads.delete(oldest++)
      }
      return next++
    },
    from: (first) =>
      [...payloads].filter(([sequence]) => sequence >= first).map(([sequence, payload]) => ({ sequence, payload })),
    heldBytes: () => bytes,
  }
}

function bytesOf(payload: Buffer | undefined): number {
  return (payload?.buffer.byteLength ?? 0) + BATCH_OVERHEAD_BYTES
}
