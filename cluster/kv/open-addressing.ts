// What the index's tables have in common: where a key begins its search, and when a table grows or shrinks. Tables grow
// by a quarter, not twofold: what is left empty afterwards bounds the memory of a block.

const SLOTS_MIN = 16
const FULL_MIN = 0.2
const GROWTH = 1.25
const SHRINK = 0.5

/**
 * A key that finds no slot within this many is refused. With well mixed keys the longest search is a few hundred slots;
 * only keys that were chosen to collide meet this.
 */
export const PROBES_MAX = 1024

/** Words of a line of a processor's cache: most searches end within one from their start. */
export const LINE_WORDS = 16

/** A uint32 times this, cut to an integer, is a slot. Order is kept, so a table is copied from front to back. */
export function homeScale(slots: number): number {
  return slots / 2 ** 32
}

/** @param fullMax the share of slots that may be filled. With more keys than this the table grows. */
export function keysMax(slots: number, fullMax: number): number {
  return Math.floor(slots * fullMax)
}

/** With fewer keys than this the table shrinks. */
export function keysMin(slots: number): number {
  return slots > SLOTS_MIN ? Math.ceil(slots * FULL_MIN) : 0
}

export function roomier(slots: number): number {
  return Math.max(SLOTS_MIN, Math.ceil(slots * GROWTH))
}

export function smaller(slots: number): number {
  return Math.max(SLOTS_MIN, Math.ceil(slots * SHRINK))
}
