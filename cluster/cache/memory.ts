// Answers in this process, within a number of bytes. They lie outside of the heap: hundreds of megabytes of them must not slow
// the garbage collector.
import { type CacheEntry, formatEntry, parseEntry } from '../../shared/cache/entry.ts'
import { createLru } from '../lru.ts'

export type MemoryTier = {
  readonly get: (key: string) => CacheEntry | undefined
  /** An answer that is larger than the whole tier is not kept. */
  readonly set: (key: string, entry: CacheEntry) => void
  readonly bytes: () => number
  readonly entries: () => number
}

/** What an entry costs beside its bytes: key, map entry, buffer. */
const ENTRY_BYTES = 400

export function createMemoryTier(bytesMax: number): MemoryTier {
  const stored = createLru<Buffer>(bytesMax, ({ byteLength }) => byteLength + ENTRY_BYTES)
  return {
    get(key) {
      const bytes = stored.get(key)
      return bytes && parseEntry(bytes.toString())
    },
    set: (key, entry) => stored.set(key, ownBuffer(formatEntry(entry))),
    bytes: stored.size,
    entries: stored.entries,
  }
}

/** Node cuts small buffers out of shared blocks of 8 KB, of which one that stays keeps all. */
function ownBuffer(text: string): Buffer {
  const bytes = Buffer.allocUnsafeSlow(Buffer.byteLength(text))
  bytes.write(text)
  return bytes
}
