// Blocks whose parent is not known yet: kept in a small buffer, by the parent they wait for. It happens around replay,
// when events come out of order, and after a gap, when the parent never comes.
import type { BlocksStored } from './kv-event.ts'

/** `tokensMax` bounds memory: long texts count like the tokens that would fill as much. */
export type OrphanLimits = { readonly eventsMax: number; readonly tokensMax: number }

const CHARS_PER_TOKEN = 4
/** Names and digests are shorter. */
const TEXT_CHARS_FREE = 64
/** Waiting blocks with one hash that are looked at: engines do not send many, and a flood of them must not cost more. */
const LOOKS_MAX = 64

export type Orphan = {
  readonly event: BlocksStored
  readonly parent: { readonly hi: number; readonly lo: number }
  /** In tokens: see OrphanLimits. */
  readonly weight: number
  /** Of each block, whether it was removed while it waited; nobody then holds it, but it is still someone's parent. */
  readonly removed: Uint8Array
}

/** A block of an orphan. */
type Ref = { readonly orphan: Orphan; readonly block: number }

/**
 * Invariant: an orphan is in `#waiting`, under its parent in `#byParent` and, for each of its blocks that was not removed,
 * in `#byBlock`.
 */
export class Orphans {
  readonly #limits: OrphanLimits
  readonly #waiting = new Set<Orphan>()
  readonly #byParent = new Map<number, Orphan[]>()
  readonly #byBlock = new Map<number, Ref[]>()
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
    const weight = weightOf(event)
    if (weight > this.#limits.tokensMax) {
      this.#onDrop()
      return
    }
    const kept = { ...event, hashes: event.hashes.slice(), tokenIds: event.tokenIds.slice() }
    const orphan = { event: kept, parent, weight, removed: new Uint8Array(event.hashes.length / 2) }
    this.#waiting.add(orphan)
    this.#tokens += weight
    put(this.#byParent, keyOf(parent.hi, parent.lo), orphan)
    forEachBlock(kept.hashes, (key, block) => {
      const refs = this.#byBlock.get(key)
      if (refs === undefined) this.#byBlock.set(key, [{ orphan, block }])
      else refs.push({ orphan, block })
    })
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
    const key = keyOf(hi, lo)
    const refs = this.#byBlock.get(key)
    if (refs === undefined) return false
    for (let at = refs.length - 1; at >= Math.max(0, refs.length - LOOKS_MAX); at--) {
      const { orphan, block } = refs[at] as Ref
      const { event, removed } = orphan
      if (event.group !== group || (event.medium ?? 'GPU') !== medium) continue
      if (event.hashes[2 * block] !== hi || event.hashes[2 * block + 1] !== lo) continue
      removed[block] = 1
      refs.splice(at, 1)
      if (refs.length === 0) this.#byBlock.delete(key)
      return true
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
    this.#tokens -= orphan.weight
    drop(this.#byParent, keyOf(orphan.parent.hi, orphan.parent.lo), orphan)
    const keys = new Set<number>()
    forEachBlock(orphan.event.hashes, (key) => keys.add(key))
    for (const key of keys) {
      const left = this.#byBlock.get(key)?.filter((ref) => ref.orphan !== orphan) ?? []
      if (left.length === 0) this.#byBlock.delete(key)
      else this.#byBlock.set(key, left)
    }
  }
}

/** 53 of the 64 bits: those who look compare the rest. */
function keyOf(hi: number, lo: number): number {
  return (hi & 0x1fffff) * 2 ** 32 + lo
}

function forEachBlock(hashes: Uint32Array, visit: (key: number, block: number) => void): void {
  for (let at = 0; at + 1 < hashes.length; at += 2) {
    visit(keyOf(hashes[at] as number, hashes[at + 1] as number), at >>> 1)
  }
}

/** At least its tokens: they outweigh everything else in what an engine sends. */
function weightOf({ tokenIds, hashes, loraName, medium, specKind, extraKeys }: BlocksStored): number {
  let chars = charsOf(loraName) + charsOf(medium) + charsOf(specKind)
  for (const keys of extraKeys ?? []) chars += charsOf(keys?.salt) + charsOf(keys?.others)
  return Math.max(tokenIds.length, hashes.length / 2) + Math.ceil(chars / CHARS_PER_TOKEN)
}

function charsOf(text: string | undefined): number {
  return text !== undefined && text.length > TEXT_CHARS_FREE ? text.length : 0
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
