// Remembers the token ids of whole prompts, the least recently used ones first to go, within a number of bytes.

export type TokenCache = {
  readonly get: (key: string) => Uint32Array | undefined
  /** A prompt that is larger than the whole cache is not kept. */
  readonly set: (key: string, ids: Uint32Array) => void
  readonly bytes: () => number
}

/** What an entry costs beside its ids: key, map entry, typed array. */
const ENTRY_BYTES = 300

export function createTokenCache(bytesMax: number): TokenCache {
  // Invariant: `bytes` is the sum of sizeOf() over the entries; insertion order is the order of last use. What `byUse` has
  // passed is deleted: a new iterator would step over all of that again to find the oldest.
  const entries = new Map<string, Uint32Array>()
  const byUse = entries.entries()
  let bytes = 0
  return {
    get(key) {
      const ids = entries.get(key)
      if (!ids) return undefined
      entries.delete(key)
      entries.set(key, ids)
      return ids
    },
    set(key, ids) {
      const size = sizeOf(ids)
      if (size > bytesMax) return
      const before = entries.get(key)
      if (before) {
        entries.delete(key)
        bytes -= sizeOf(before)
      }
      entries.set(key, ids)
      bytes += size
      while (bytes > bytesMax) {
        const { value: oldest } = byUse.next()
        if (oldest === undefined) break
        entries.delete(oldest[0])
        bytes -= sizeOf(oldest[1])
      }
    },
    bytes: () => bytes,
  }
}

function sizeOf(ids: Uint32Array): number {
  return ids.byteLength + ENTRY_BYTES
}
