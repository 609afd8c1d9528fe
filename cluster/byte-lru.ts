// A map within a number of bytes: what was not asked for longest goes first.

export type ByteLru<Value> = {
  readonly get: (key: string) => Value | undefined
  /** A value that is larger than the whole map is not kept; nor is what stood in its place. */
  readonly set: (key: string, value: Value) => void
  readonly bytes: () => number
  readonly entries: () => number
}

/** @param sizeOf what an entry costs in bytes, its key and its place included; the same for a value each time. */
export function createByteLru<Value>(bytesMax: number, sizeOf: (value: Value) => number): ByteLru<Value> {
  // Invariant: `bytes` is the sum of sizeOf() over the entries; insertion order is the order of last use. What `byUse` has
  // passed is deleted: a new iterator would step over all of that again to find the oldest.
  const entries = new Map<string, Value>()
  const byUse = entries.entries()
  let bytes = 0

  function remove(key: string): void {
    const value = entries.get(key)
    if (value === undefined) return
    entries.delete(key)
    bytes -= sizeOf(value)
  }

  return {
    get(key) {
      const value = entries.get(key)
      if (value === undefined) return undefined
      entries.delete(key)
      entries.set(key, value)
      return value
    },
    set(key, value) {
      remove(key)
      const size = sizeOf(value)
      if (size > bytesMax) return
      entries.set(key, value)
      bytes += size
      while (bytes > bytesMax) {
        const { value: oldest } = byUse.next()
        if (oldest === undefined) break
        remove(oldest[0])
      }
    },
    bytes: () => bytes,
    entries: () => entries.size,
  }
}
