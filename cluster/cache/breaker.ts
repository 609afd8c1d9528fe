// Decides when something that fails is left alone, and when it is tried again: rests that double, then one probe.

/** Failures in a row that open it. */
export const FAILURES_MAX = 5
export const REST_MS_LEAST = 1_000
export const REST_MS_MOST = 30_000
/** Whoever fails again before it has been closed for this long rests longer than the last time. */
const STEADY_MS = REST_MS_MOST

export type Breaker = {
  /** Whether something may be sent. After a rest this lets one pass, the probe, and no other until the probe has ended. */
  readonly enter: (nowMs: number) => boolean
  /** Closes it, when that was the probe; what was sent before a rest and is answered in it changes nothing. */
  readonly succeeded: (nowMs: number) => void
  /** Opens it at the last of several failures in a row, or when that was the probe. */
  readonly failed: (nowMs: number) => void
  /** Opens it, whatever was before. */
  readonly open: (nowMs: number) => void
  /** What is left of the rest; 0 where there is none. */
  readonly restMs: (nowMs: number) => number
  readonly state: () => BreakerState
}

export type BreakerState = 'closed' | 'open' | 'probing'

/** Several routers that lost the same thing must not all come back at once: a rest is cut by up to half, at random. */
export function createBreaker(random: () => number): Breaker {
  // Invariant: `failures` is below FAILURES_MAX while closed; `untilMs` is when the rest ends while open.
  let state: BreakerState = 'closed'
  let failures = 0
  let untilMs = 0
  let restMs = 0
  let closedAtMs = Number.NEGATIVE_INFINITY

  function open(nowMs: number): void {
    // Once open, a failure that comes late does not lengthen the rest.
    if (state === 'open') return
    const steady = state === 'closed' && nowMs - closedAtMs >= STEADY_MS
    restMs = steady || restMs === 0 ? REST_MS_LEAST : Math.min(2 * restMs, REST_MS_MOST)
    untilMs = nowMs + restMs * (1 - random() / 2)
    state = 'open'
    failures = 0
  }

  return {
    enter(nowMs) {
      if (state === 'closed') return true
      if (state === 'probing' || nowMs < untilMs) return false
      state = 'probing'
      return true
    },
    succeeded(nowMs) {
      if (state === 'open') return
      if (state === 'probing') closedAtMs = nowMs
      state = 'closed'
      failures = 0
    },
    failed(nowMs) {
      if (state === 'closed' && ++failures < FAILURES_MAX) return
      open(nowMs)
    },
    open,
    restMs: (nowMs) => (state === 'open' ? Math.max(0, untilMs - nowMs) : 0),
    state: () => state,
  }
}
