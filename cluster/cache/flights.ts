// One request at a time for equal misses: the first is computed, those that come meanwhile wait for its answer.
import type { CacheEntry } from '../../shared/cache/entry.ts'

/** `unkept`: it was answered, but with what is not for others. `lost`: it failed, or its caller left. */
export type Landing = CacheEntry | 'unkept' | 'lost'

/** Called once, however the request ends. Again is harmless. */
export type Land = (landing: Landing) => void

export type Flight =
  /** Nobody computes this: the caller does, and lands it whatever happens. */
  | { readonly leads: true; readonly land: Land }
  | { readonly leads: false; readonly landed: Promise<Landing>; readonly startedAtMs: number }

export type Flights = {
  readonly enter: (key: string) => Flight
  readonly underWay: () => number
}

export function createFlights(nowMs: () => number): Flights {
  const flights = new Map<string, { readonly landed: Promise<Landing>; readonly startedAtMs: number }>()
  return {
    enter(key) {
      const flight = flights.get(key)
      if (flight) return { leads: false, ...flight }
      const { promise, resolve } = Promise.withResolvers<Landing>()
      flights.set(key, { landed: promise, startedAtMs: nowMs() })
      let over = false
      return {
        leads: true,
        land(landing) {
          if (over) return
          over = true
          flights.delete(key)
          resolve(landing)
        },
      }
    },
    underWay: () => flights.size,
  }
}
