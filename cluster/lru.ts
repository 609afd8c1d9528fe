// A map within a size, such as a number of bytes: what was not asked for longest goes first.

export type Lru<Value> = {
  readonly get: (key: string) => Value | undefined
  /** A value that is larger than the whole map is not kept; nor is what stood in its place. */
  readonly set: (key: string, value: Value) => void
  /** Of all entries. */
  readonly size: () => number
  readonly entries: () => number
}

/** In a ring, in the order of use: after the newest comes the oldest. */
type Entry<Value> = {
  readonly key: string
  readonly value: Value
  newer: Entry<Value>
  older: Entry<Value>
}

/** @param sizeOf of an entry, its key and its place included; the same for a value each time. */
export function createLru<Value>(sizeMax: number, sizeOf: (value: Value) => number): Lru<Value> {
  // The map's own order would do, were a key not deleted and set again at each use: V8 keeps what was deleted in its chains
  // until it makes the table anew, so that one key that all ask for costs ever more.
  const entries = new Map<string, Entry<Value>>()
  let newest: Entry<Value> | undefined
  let total = 0

  function unlink(entry: Entry<Value>): void {
    entry.older.newer = entry.newer
    entry.newer.older = entry.older
    if (entry === newest) newest = entry.older === entry ? undefined : entry.older
  }

  function link(entry: Entry<Value>): void {
    const oldest = newest?.newer ?? entry
    const before = newest ?? entry
    entry.older = before
    entry.newer = oldest
    before.newer = entry
    oldest.older = entry
    newest = entry
  }

  function remove(entry: Entry<Value>): void {
    unlink(entry)
    entries.delete(entry.key)
    total -= sizeOf(entry.value)
  }

  return {
    get(key) {
      const entry = entries.get(key)
      if (entry === undefined) return undefined
      if (entry !== newest) {
        unlink(entry)
        link(entry)
      }
      return entry.value
    },
    set(key, value) {
      const before = entries.get(key)
      if (before) remove(before)
      const size = sizeOf(value)
      if (size > sizeMax) return
      while (newest && total + size > sizeMax) remove(newest.newer)
      const entry = { key, value } as Entry<Value>
      link(entry)
      entries.set(key, entry)
      total += size
    },
    size: () => total,
    entries: () => entries.size,
  }
}
