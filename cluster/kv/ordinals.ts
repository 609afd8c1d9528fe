// The numbers that sources have in the sets of holders. A source that forgets everything takes a new number at once, and
// what was held under the old one is swept up in small parts: thousands of look-ups would stop the process for long.
import type { HoldTable } from './hold-table.ts'
import type { PromptTable } from './prompt-table.ts'

/** Slots looked at in one part. */
const SWEEP_SLOTS = 2048
/** Leftovers no larger than this are swept up at once. */
const SWEEP_NOW_BLOCKS = 1024
/** With more leftovers than this the smallest waits no longer: somebody clears without end. */
const LEFTOVERS_MAX = 1024

type Leftover = { readonly ordinal: number; readonly holds: HoldTable }

/**
 * Invariant: an ordinal is with one source, with one leftover, or free; no set has a free one. No query asks for one that
 * is with a leftover.
 */
export class Ordinals {
  readonly #prompts: PromptTable
  readonly #free: number[] = []
  readonly #leftovers: Leftover[] = []
  #next = 0
  #blocksToSweep = 0

  constructor(prompts: PromptTable) {
    this.#prompts = prompts
  }

  get blocksToSweep(): number {
    return this.#blocksToSweep
  }

  get bytesToSweep(): number {
    return this.#leftovers.reduce((sum, { holds }) => sum + holds.bytes, 0)
  }

  take(): number {
    const free = this.#free.pop()
    if (free !== undefined) return free
    this.#prompts.sets.widen(this.#next + 1)
    return this.#next++
  }

  /** The source goes on without this ordinal and without what it held under it. */
  giveBack(ordinal: number, holds: HoldTable): void {
    const leftover = { ordinal, holds }
    this.#blocksToSweep += holds.count
    this.#leftovers.push(leftover)
    if (holds.count <= SWEEP_NOW_BLOCKS) this.#sweep(leftover, Number.POSITIVE_INFINITY)
    if (this.#leftovers.length <= LEFTOVERS_MAX) return
    const smallest = this.#leftovers.reduce((a, b) => (b.holds.count < a.holds.count ? b : a))
    this.#sweep(smallest, Number.POSITIVE_INFINITY)
  }

  /** Sweeps up one part. True when nothing is left. */
  sweep(): boolean {
    const oldest = this.#leftovers[0]
    if (oldest) this.#sweep(oldest, SWEEP_SLOTS)
    return this.#leftovers.length === 0
  }

  #sweep(leftover: Leftover, slots: number): void {
    const { ordinal, holds } = leftover
    const done = holds.drain(slots, (ownHi, ownLo) => {
      this.#prompts.removeHolder(ownHi, ownLo, ordinal)
      this.#blocksToSweep--
    })
    if (!done) return
    this.#leftovers.splice(this.#leftovers.indexOf(leftover), 1)
    this.#free.push(ordinal)
  }
}
