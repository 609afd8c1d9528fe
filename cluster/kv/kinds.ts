// The kinds of blocks that one source has: each a KV-cache group and a medium, by a small number.
import { GPU_TIER, SLOW_TIER, type Tier } from './holder-sets.ts'

export const GPU = 'GPU'
const MEDIUM_CHARS_MAX = 64
/** Engines have a handful, and each event looks through them. */
const KINDS_MAX = 32

export type Kind = { readonly group: number; readonly medium: string; readonly tier: Tier }

/** Invariant: a kind keeps its number until all of them go. */
export class Kinds {
  readonly #kinds: Kind[] = []
  readonly #groups: number[] = []

  get all(): readonly Kind[] {
    return this.#kinds
  }

  /** Of each kind its group. */
  get groups(): readonly number[] {
    return this.#groups
  }

  tierOf(kind: number): Tier {
    return (this.#kinds[kind] as Kind).tier
  }

  find(group: number, medium = GPU): number | undefined {
    const kinds = this.#kinds
    for (let kind = 0; kind < kinds.length; kind++) {
      const known = kinds[kind]
      if (known?.group === group && known.medium === medium) return kind
    }
    return undefined
  }

  /** Its number, a new one where it has none; undefined when there are too many. */
  take(group: number, medium = GPU): number | undefined {
    const known = this.find(group, medium)
    if (known !== undefined) return known
    if (this.#kinds.length === KINDS_MAX || medium.length > MEDIUM_CHARS_MAX) return undefined
    this.#groups.push(group)
    return this.#kinds.push({ group, medium, tier: medium === GPU ? GPU_TIER : SLOW_TIER }) - 1
  }

  clear(): void {
    this.#kinds.length = 0
    this.#groups.length = 0
  }
}
