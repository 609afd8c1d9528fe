// Flow control: a bounded number of requests in flight, a bounded line of those that wait, and a computed Retry-After
// for the rest.
import type { Rejection } from '../../shared/rejection.ts'

export type AdmissionLimits = {
  readonly inFlight: number
  readonly waiting: number
  /** Longest wait in the line. */
  readonly waitMs: number
}

/** A place among the requests in flight. Leaving twice is harmless. */
export type Admitted = { readonly ok: true; readonly leave: () => void }

export type Admission = {
  /** Admits, waits for a place, or refuses. `onGone` registers what to call when the caller leaves while it waits. */
  readonly enter: (onGone: (left: () => void) => void) => Promise<Admitted | Refused> | Admitted | Refused
  readonly counts: () => { readonly inFlight: number; readonly waiting: number }
}

export type Refused = { readonly ok: false; readonly rejection: Rejection }

/** Weight of the newest request in the moving average of how long a request takes. */
const AVERAGE_WEIGHT = 0.1

type Waiter = { readonly admit: (admitted: Admitted | Refused) => void; readonly timer: NodeJS.Timeout }

export function createAdmission(limits: AdmissionLimits, nowMs: () => number): Admission {
  // Invariant: while someone waits, `inFlight` equals limits.inFlight.
  const line = new Set<Waiter>()
  let inFlight = 0
  let meanDurationMs: number | undefined

  function place(): Admitted {
    inFlight++
    const enteredAtMs = nowMs()
    let inside = true
    return {
      ok: true,
      leave() {
        if (!inside) return
        inside = false
        const durationMs = nowMs() - enteredAtMs
        meanDurationMs =
          meanDurationMs === undefined ? durationMs : meanDurationMs + AVERAGE_WEIGHT * (durationMs - meanDurationMs)
        inFlight--
        const [next] = line
        if (next) leaveLine(next, place())
      },
    }
  }

  function leaveLine(waiter: Waiter, answer: Admitted | Refused): void {
    line.delete(waiter)
    clearTimeout(waiter.timer)
    waiter.admit(answer)
  }

  /** The time until those ahead are through, if requests go on taking as long as they did. */
  function refuse(what: string): Refused {
    const aheadShare = (line.size + 1) / limits.inFlight
    const retryAfterSeconds = Math.ceil(((meanDurationMs ?? 1_000) * aheadShare) / 1_000)
    return { ok: false, rejection: { reason: 'overloaded', message: `${what} Try again later.`, retryAfterSeconds } }
  }

  return {
    enter(onGone) {
      if (inFlight < limits.inFlight) return place()
      if (line.size >= limits.waiting) {
        return refuse(`The router is full: ${inFlight} requests in flight and ${line.size} waiting.`)
      }
      return new Promise((admit) => {
        const timer = setTimeout(
          () => leaveLine(waiter, refuse(`The request waited ${limits.waitMs} ms for a place in vain.`)),
          limits.waitMs,
        )
        const waiter: Waiter = { admit, timer }
        line.add(waiter)
        onGone(() => {
          if (line.has(waiter)) leaveLine(waiter, refuse('The caller left.'))
        })
      })
    },
    counts: () => ({ inFlight, waiting: line.size }),
  }
}
