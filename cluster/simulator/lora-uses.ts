// Which adapters were seen in use, as vLLM tells it: one series for each set of names, with the time when it was last so.
import type { EngineSnapshot } from './engine.ts'
import type { LoraUse } from './metrics-page.ts'

/** vLLM forgets none. */
const USES_MAX = 1_000

export type LoraUses = {
  /** A step has ended and left the engine so. */
  readonly see: (snapshot: EngineSnapshot) => void
  /** The newest last; none where `maxLoras` is 0. */
  readonly list: () => readonly LoraUse[]
}

export function createLoraUses(maxLoras: number, nowSeconds: () => number): LoraUses {
  // By the set of names, the newest last.
  const uses = new Map<string, LoraUse>()
  return {
    see: ({ runningLoras: names }) => {
      if (maxLoras === 0) return
      const key = names.join(',')
      uses.delete(key)
      // The front end counts in both lists whoever has got a token: `LoRARequestStates` keeps names whose count is 0.
      uses.set(key, { maxLoras, running: names, waiting: names, atSeconds: nowSeconds() })
      if (uses.size > USES_MAX) uses.delete(uses.keys().next().value as string)
    },
    list: () => [...uses.values()],
  }
}
