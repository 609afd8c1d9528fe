// The downhill simplex method of Nelder and Mead: finds where a function of a few numbers is least, by its values alone.

/** How far the first simplex reaches along each number. */
const FIRST_REACH = 0.7
/** A simplex whose values differ by less has arrived. */
const TOLERANCE = 1e-5

type Point = { readonly at: readonly number[]; readonly value: number }

/** The best place found, with at most so many looks at the function. */
export function minimize(
  of: (at: readonly number[]) => number,
  start: readonly number[],
  evaluationsMax: number,
): Point {
  let evaluations = 0
  const look = (at: readonly number[]): Point => {
    evaluations++
    const value = of(at)
    return { at, value: Number.isFinite(value) ? value : Number.POSITIVE_INFINITY }
  }
  const simplex = [
    look(start),
    ...start.map((_, index) => look(start.map((x, other) => (other === index ? x - FIRST_REACH : x)))),
  ]
  const byValue = (a: Point, b: Point) => a.value - b.value

  for (;;) {
    simplex.sort(byValue)
    const best = simplex[0] as Point
    const worst = simplex.at(-1) as Point
    const secondWorst = simplex.at(-2) as Point
    if (evaluations >= evaluationsMax || worst.value - best.value < TOLERANCE) return best
    const centre = start.map((_, index) => {
      const others = simplex.slice(0, -1)
      return others.reduce((sum, { at }) => sum + (at[index] as number), 0) / others.length
    })
    /** On the line from the worst point through the centre: 1 is as far behind it as the worst is before it. */
    const along = (step: number) => look(centre.map((x, index) => x + step * (x - (worst.at[index] as number))))
    const reflected = along(1)
    if (reflected.value < best.value) {
      const further = along(2)
      simplex[simplex.length - 1] = further.value < reflected.value ? further : reflected
      continue
    }
    if (reflected.value < secondWorst.value) {
      simplex[simplex.length - 1] = reflected
      continue
    }
    const nearer = reflected.value < worst.value ? along(0.5) : along(-0.5)
    if (nearer.value < Math.min(reflected.value, worst.value)) {
      simplex[simplex.length - 1] = nearer
      continue
    }
    for (let index = 1; index < simplex.length; index++) {
      const { at } = simplex[index] as Point
      simplex[index] = look(at.map((x, other) => ((best.at[other] as number) + x) / 2))
    }
  }
}
