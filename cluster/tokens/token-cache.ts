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
  // Invariant: `bytes` is the sum of sizeOf() over the entries; insertion order is the order of last use.
  const entries = new Map<string, Uint32Array>()
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
      for (const [oldest, its] of entries) {
        if (bytes <= bytesMax) break
        entries.delete(oldest)
        bytes -= sizeOf(its)
      }
    },
    bytes: () => bytes,
  }
}

function sizeOf(ids: Uint32Array): number {
  return ids.byteLength + ENTRY_BYTES
}
