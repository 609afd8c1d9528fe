// What a count was a moment ago: numbers that another process scraped arrive late, and must be compared with our own of
// that moment.

/** Changes closer together than this are one. */
const SLOT_MS = 50
/** Enough for longer than a scrape's numbers count as fresh, even when every slot has a change. */
const CHANGES_MAX = 128

/** Invariant: changes are in the order of time, at most one a slot: the count at that slot's end. Never empty. */
export class RecentCount {
  readonly #changes: { readonly slot: number; count: number }[] = [{ slot: Number.NEGATIVE_INFINITY, count: 0 }]

  /** The count from now on. Times never go back. */
  set(atMs: number, count: number): void {
    const slot = Math.floor(atMs / SLOT_MS)
    const newest = this.#changes.at(-1)
    if (newest?.slot === slot) {
      newest.count = count
      return
    }
    this.#changes.push({ slot, count })
    if (this.#changes.length > CHANGES_MAX) this.#changes.shift()
  }

  /** The count at that time, within SLOT_MS; the oldest that is remembered if that is later. */
  at(atMs: number): number {
    const slot = Math.floor(atMs / SLOT_MS)
    return (this.#changes.findLast((change) => change.slot <= slot) ?? this.#changes[0])?.count ?? 0
  }
}
