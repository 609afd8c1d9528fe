// How long bursts of small work may hold the event loop between two looks at other sockets. One share for all who take
// part: each for itself they would add up.

/** Longest stretch of such work in one turn of the loop. */
const SHARE_MS = 5

export type LoopShare = {
  /** Whether this turn's share is used up. Asked after each piece of work. */
  readonly spent: () => boolean
  /** Resolves in the next turn, with a new share. */
  readonly nextTurn: () => Promise<void>
}

export function createLoopShare(nowMs: () => number): LoopShare {
  // Invariant: set while a turn's share runs. The immediate that ends it is older than those of `nextTurn`, so that
  // whoever goes on finds a new share.
  let sinceMs: number | undefined
  return {
    spent() {
      if (sinceMs !== undefined) return nowMs() - sinceMs >= SHARE_MS
      sinceMs = nowMs()
      setImmediate(() => {
        sinceMs = undefined
      })
      return false
    },
    nextTurn: () => new Promise((resolve) => setImmediate(resolve)),
  }
}
