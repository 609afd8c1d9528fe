// Which candidates have clearly more work than the others. They are set aside before anything is scored: what is warm
// attracts everybody, and no weight of the load makes up for a whole prompt that is cached.
import type { EndpointView } from '../endpoints/endpoint.ts'

/** So many requests waiting in the engine are no passing peak. */
const OVERLOAD_WAITING = 4
/** An endpoint is overloaded beyond twice the least active candidate's requests and these. */
const OVERLOAD_ACTIVE = 16

/**
 * In words, why a candidate is overloaded, in the candidates' order; undefined for those that are not. Where everybody
 * is as busy nobody is: going elsewhere would win nothing.
 */
export function overloadsOf(candidates: readonly EndpointView[]): readonly (string | undefined)[] {
  const active = twoLeast(candidates.map(({ load }) => load.activeRequests))
  // Who does not tell its queue is not taken for idle.
  const waiting = twoLeast(candidates.map(({ load }) => load.queuedRequests ?? Number.POSITIVE_INFINITY))
  const reasons = candidates.map(({ load }) => {
    const { queuedRequests = 0, activeRequests } = load
    const waitingElsewhere = leastOfOthers(waiting, queuedRequests)
    if (queuedRequests >= OVERLOAD_WAITING && queuedRequests > 2 * waitingElsewhere) {
      return `${queuedRequests} requests wait there, ${waitingElsewhere} elsewhere`
    }
    const activeElsewhere = leastOfOthers(active, activeRequests)
    if (activeRequests <= 2 * activeElsewhere + OVERLOAD_ACTIVE) return undefined
    return `${activeRequests} requests are active there, ${activeElsewhere} elsewhere`
  })
  return reasons.some((reason) => reason === undefined) ? reasons : candidates.map(() => undefined)
}

type TwoLeast = readonly [least: number, second: number]

function twoLeast(counts: readonly number[]): TwoLeast {
  let least = Number.POSITIVE_INFINITY
  let second = Number.POSITIVE_INFINITY
  for (const count of counts) {
    if (count < least) {
      second = least
      least = count
    } else if (count < second) second = count
  }
  return [least, second]
}

/** Infinite where there are no others. */
function leastOfOthers([least, second]: TwoLeast, own: number): number {
  return own === least ? second : least
}
