// Answers in this process, the least recently used ones first to go, within a number of bytes. They lie outside of the
// heap: hundreds of megabytes of them must not slow the garbage collector.
import { type CacheEntry, formatEntry, parseEntry } from '../../shared/cache/entry.ts'

export type MemoryTier = {
  readonly get: (key: string) => CacheEntry | undefined
  /** An answer that is larger than the whole tier is not kept. */
  readonly set: (key: string, entry: CacheEntry) => void
  readonly delete: (key: string) => void
  readonly bytes: () => number
  readonly entries: () => number
}

/** What an entry costs beside its bytes: key, map entry, buffer. */
const ENTRY_BYTES = 400

export function createMemoryTier(bytesMax: number): MemoryTier {
  // Invariant: `bytes` is the sum of sizeOf() over the entries; insertion order is the order of last use. What `byUse` has
  // passed is deleted: a new iterator would step over all of that again to find the oldest.
  const entries = new Map<string, Buffer>()
  const byUse = entries.entries()
  let bytes = 0

  function remove(key: string): void {
    const before = entries.get(key)
    if (!before) return
    entries.delete(key)
    bytes -= sizeOf(before)
  }

  return {
    get(key) {
      const stored = entries.get(key)
      if (!stored) return undefined
      entries.delete(key)
      entries.set(key, stored)
      return parseEntry(stored.toString())
    },
    set(key, entry) {
      remove(key)
      const stored = Buffer.from(formatEntry(entry))
      if (sizeOf(stored) > bytesMax) return
      entries.set(key, stored)
      bytes += sizeOf(stored)
      while (bytes > bytesMax) {
        const { value: oldest } = byUse.next()
        if (oldest === undefined) break
        remove(oldest[0])
      }
    },
    delete: remove,
    bytes: () => bytes,
    entries: () => entries.size,
  }
}

function sizeOf(stored: Buffer): number {
  return stored.byteLength + ENTRY_BYTES
}
