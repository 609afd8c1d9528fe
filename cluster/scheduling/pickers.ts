// Pickers choose among scored candidates. Given at least one; ties are broken by seeded randomness.
import type { Picker, Scored } from './types.ts'

/** Scores closer than this are equal: floating point must not decide. */
const TIE = 1e-9

/** The best score; among equals, one at random. */
export const maxScore: Picker = (scored, random) => {
  const best = Math.max(...scored.map(({ total }) => total))
  return oneOf(
    scored.filter(({ total }) => best - total <= TIE),
    random,
  )
}

/** At random, in proportion to the score; all alike when every score is 0. */
export const weightedRandom: Picker = (scored, random) => {
  const sum = scored.reduce((total, candidate) => total + candidate.total, 0)
  if (sum <= TIE) return oneOf(scored, random)
  let left = random() * sum
  for (const candidate of scored) {
    left -= candidate.total
    if (left < 0) return candidate
  }
  return last(scored)
}

/** The better of two different ones drawn at random: spreads load when many routers see the same numbers. */
export const powerOfTwo: Picker = (scored, random) => {
  if (scored.length < 2) return last(scored)
  const first = Math.floor(random() * scored.length)
  const step = 1 + Math.floor(random() * (scored.length - 1))
  const second = (first + step) % scored.length
  return maxScore([scored[first] as Scored, scored[second] as Scored], random)
}

function oneOf(scored: readonly Scored[], random: () => number): Scored {
  return scored[Math.floor(random() * scored.length)] as Scored
}

function last(scored: readonly Scored[]): Scored {
  const candidate = scored.at(-1)
  if (!candidate) throw new Error('a picker was given no candidate')
  return candidate
}
