// What the index's tables have in common: where a key begins its search, and when a segment grows or shrinks. It grows by a
// quarter, not twofold: what is left empty afterwards bounds the memory of a block. Keys spread evenly, so that all segments
// would grow at the same time, and hold everybody up: each has sizes of its own, between those of its neighbours.

const SLOTS_MIN = 16
const FULL_MIN = 0.2
const GROWTH = 1.25
/** To about half the slots. */
const LEVELS_SHRUNK = 3

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

/** @param fullMax the share of slots that may be filled. With more keys than this the segment grows. */
export function keysMax(slots: number, fullMax: number): number {
  return Math.floor(slots * fullMax)
}

/** With fewer keys than this the segment shrinks. */
export function keysMin(level: number, slots: number): number {
  return level > 0 ? Math.ceil(slots * FULL_MIN) : 0
}

/** @param share of the segments that stand before this one. */
export function slotsAt(level: number, share: number): number {
  return Math.ceil(SLOTS_MIN * GROWTH ** (level + share))
}

export function smaller(level: number): number {
  return Math.max(0, level - LEVELS_SHRUNK)
}
