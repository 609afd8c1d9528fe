// Blocks whose parent is not known yet: kept in a small buffer, by the parent they wait for. It happens around replay,
// when events come out of order, and after a gap, when the parent never comes.
import type { BlocksStored } from './kv-event.ts'

export type OrphanLimits = { readonly eventsMax: number; readonly tokensMax: number }

export type Orphan = {
  readonly event: BlocksStored
  readonly parent: { readonly hi: number; readonly lo: number }
  /** Of each block, whether it was removed while it waited; nobody then holds it, but it is still someone's parent. */
  readonly removed: Uint8Array
}

/** Invariant: an orphan is in `#waiting`, under its parent in `#byParent` and under each of its blocks in `#byBlock`. */
export class Orphans {
  readonly #limits: OrphanLimits
  readonly #waiting = new Set<Orphan>()
  readonly #byParent = new Map<number, Orphan[]>()
  readonly #byBlock = new Map<number, Orphan[]>()
  readonly #onDrop: () => void
  #tokens = 0

  /** @param onDrop told of each event that had to go because others came, or that was too long to wait. */
  constructor(limits: OrphanLimits, onDrop: () => void) {
    this.#limits = limits
    this.#onDrop = onDrop
  }

  get events(): number {
    return this.#waiting.size
  }

  get tokens(): number {
    return this.#tokens
  }

  /** Keeps a copy of what the event holds: its arrays may be parts of a message's buffer. */
  park(event: BlocksStored, parent: { readonly hi: number; readonly lo: number }): void {
    const tokens = event.tokenIds.length
    if (tokens > this.#limits.tokensMax) {
      this.#onDrop()
      return
    }
    const kept = { ...event, hashes: event.hashes.slice(), tokenIds: event.tokenIds.slice() }
    const orphan = { event: kept, parent, removed: new Uint8Array(event.hashes.length / 2) }
    this.#waiting.add(orphan)
    this.#tokens += tokens
    put(this.#byParent, keyOf(parent.hi, parent.lo), orphan)
    forEachBlock(kept.hashes, (key) => put(this.#byBlock, key, orphan))
    for (const oldest of this.#waiting) {
      if (this.#waiting.size <= this.#limits.eventsMax && this.#tokens <= this.#limits.tokensMax) break
      this.#forget(oldest)
      this.#onDrop()
    }
  }

  /** Those of this group that wait for this block, oldest first; they wait no more. */
  take(hi: number, lo: number, group: number): readonly Orphan[] {
    const taken = (this.#byParent.get(keyOf(hi, lo)) ?? []).filter(
      ({ parent, event }) => parent.hi === hi && parent.lo === lo && event.group === group,
    )
    for (const orphan of taken) this.#forget(orphan)
    return taken
  }

  /** The block was removed before its parent was known; true when it waits here. */
  remove(hi: number, lo: number, medium: string, group: number): boolean {
    for (const { event, removed } of this.#byBlock.get(keyOf(hi, lo)) ?? []) {
      if (event.group !== group || (event.medium ?? 'GPU') !== medium) continue
      for (let block = 0; block < removed.length; block++) {
        if (removed[block] === 1 || event.hashes[2 * block] !== hi || event.hashes[2 * block + 1] !== lo) continue
        removed[block] = 1
        return true
      }
    }
    return false
  }

  clear(): void {
    this.#waiting.clear()
    this.#byParent.clear()
    this.#byBlock.clear()
    this.#tokens = 0
  }

  #forget(orphan: Orphan): void {
    this.#waiting.delete(orphan)
    this.#tokens -= orphan.event.tokenIds.length
    drop(this.#byParent, keyOf(orphan.parent.hi, orphan.parent.lo), orphan)
    forEachBlock(orphan.event.hashes, (key) => drop(this.#byBlock, key, orphan))
  }
}

/** 53 of the 64 bits: those who look compare the rest. */
function keyOf(hi: number, lo: number): number {
  return (hi & 0x1fffff) * 2 ** 32 + lo
}

function forEachBlock(hashes: Uint32Array, visit: (key: number) => void): void {
  for (let at = 0; at + 1 < hashes.length; at += 2) visit(keyOf(hashes[at] as number, hashes[at + 1] as number))
}

function put(map: Map<number, Orphan[]>, key: number, orphan: Orphan): void {
  const list = map.get(key)
  if (list === undefined) map.set(key, [orphan])
  else if (list.at(-1) !== orphan) list.push(orphan)
}

function drop(map: Map<number, Orphan[]>, key: number, orphan: Orphan): void {
  const list = map.get(key)
  const at = list?.indexOf(orphan) ?? -1
  if (list === undefined || at === -1) return
  list.splice(at, 1)
  if (list.length === 0) map.delete(key)
}
