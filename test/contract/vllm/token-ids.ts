// Token ids that a real vocabulary and the simulator's built-in one both have.

/** Ids of the built-in vocabulary are numbers to this base, without the digit 0. */
const RADIX = 244

/** So many ids in a row, from the given one on, less those that one of the two does not have. */
export function range(first: number, count: number): readonly number[] {
  const ids: number[] = []
  for (let id = first; ids.length < count; id++) if (isInBoth(id)) ids.push(id)
  return ids
}

function isInBoth(id: number): boolean {
  for (let rest = id; rest > 0; rest = Math.floor(rest / RADIX)) if (rest % RADIX === 0) return false
  return true
}
