// Seeded randomness as a parameter: the same seed gives the same decisions and the same simulated answers.

/** The next number in [0, 1). */
export type Random = () => number

/** The mulberry32 generator: 32 bits of state, enough to break ties and to pick words. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A whole number from `from` to `to`, both included. */
export function randomInteger(random: Random, from: number, to: number): number {
  return from + Math.floor(random() * (to - from + 1))
}

/** A 32-bit seed for exactly these numbers in this order. */
export function seedOf(numbers: readonly number[]): number {
  let hash = 0x811c9dc5
  for (const number of numbers) {
    hash = Math.imul(hash ^ (number >>> 0), 0x85ebca6b)
    hash ^= hash >>> 13
  }
  return hash >>> 0
}
