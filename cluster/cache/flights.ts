// One request at a time for equal misses: the first is computed, those that come meanwhile wait for its answer.
import type { CacheEntry } from '../../shared/cache/entry.ts'

/** `unkept`: it was answered, but with what is not for others. `lost`: it failed, or its caller left. */
export type Landing = CacheEntry | 'unkept' | 'lost'

/** Called once, however the request ends. Again is harmless. */
export type Land = (landing: Landing) => void

export type Flight =
  /** Nobody computes this: the caller does, and lands it whatever happens. */
  { readonly leads: true; readonly land: Land } | { readonly leads: false; readonly landed: Promise<Landing> }

export type Flights = {
  readonly enter: (key: string) => Flight
  readonly underWay: () => number
}

export function createFlights(): Flights {
  const flights = new Map<string, Promise<Landing>>()
  return {
    enter(key) {
      const landed = flights.get(key)
      if (landed) return { leads: false, landed }
      const { promise, resolve } = Promise.withResolvers<Landing>()
      flights.set(key, promise)
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
