// A pod's sleep, as vLLM's developer routes have it: its engines take requests and do not work on them, and memory is given
// up meanwhile.
import type { SleepState } from './metrics-page.ts'
import type { Rank } from './rank.ts'

/** What becomes of requests in flight: they are ended, computed to their end first, or left as they are. */
export const PAUSE_MODES = ['abort', 'wait', 'keep'] as const
export type PauseMode = (typeof PAUSE_MODES)[number]

/** What sleep gives up, each of which can be brought back alone. */
const MEMORY_TAGS = ['weights', 'kv_cache'] as const
/** The tag that stands for going on alone. */
const SCHEDULING_TAG = 'scheduling'

export type Sleep = {
  /** Level 0 keeps all memory, 1 moves the weights away and drops the KV cache, 2 drops both. */
  readonly sleep: (level: number, mode: PauseMode) => Promise<void>
  /** Brings back what was given up, without tags all of it; gives whether the pod is awake again. */
  readonly wake: (tags: readonly string[] | undefined) => boolean
  /** Stops beginning requests, and empties the cache unless what is in flight is kept or the caller wants it kept. */
  readonly pause: (mode: PauseMode, clearsCache: boolean) => Promise<void>
  readonly resume: () => void
  readonly isPaused: () => boolean
  readonly isSleeping: () => boolean
  readonly state: () => SleepState
}

export function createSleep(ranks: readonly Rank[]): Sleep {
  const missing = new Set<string>()
  let isPaused = false
  let state: SleepState = 'awake'

  return {
    sleep: async (level, mode) => {
      isPaused = true
      await Promise.all(ranks.map((rank) => rank.pause(mode)))
      if (level >= 1) {
        for (const { engine } of ranks) engine.resetPrefixCache(true)
        for (const tag of MEMORY_TAGS) missing.add(tag)
      }
      state = level === 1 ? 'weights_offloaded' : level === 2 ? 'discard_all' : 'paused'
    },
    wake: (tags) => {
      const wanted = tags?.filter((tag) => tag !== SCHEDULING_TAG)
      if (wanted === undefined) missing.clear()
      // One tag that is not asleep, and nothing is brought back.
      else if (wanted.every((tag) => missing.has(tag))) for (const tag of wanted) missing.delete(tag)
      if (missing.size > 0) return false
      isPaused = false
      state = 'awake'
      for (const rank of ranks) rank.resume()
      return true
    },
    pause: async (mode, clearsCache) => {
      isPaused = true
      await Promise.all(ranks.map((rank) => rank.pause(mode)))
      if (clearsCache && mode !== 'keep') for (const { engine } of ranks) engine.resetPrefixCache()
    },
    resume: () => {
      isPaused = false
      for (const rank of ranks) rank.resume()
    },
    isPaused: () => isPaused,
    isSleeping: () => isPaused || missing.size > 0,
    state: () => state,
  }
}
