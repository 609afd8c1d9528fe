// Which adapters were seen in use, as vLLM tells it: one series for each set of names, with the time when it was last so.
import type { EngineSnapshot } from './engine.ts'
import type { LoraUse } from './metrics-page.ts'

/** vLLM forgets none. */
const USES_MAX = 1_000

/** Gives what is known once this look is added; nothing where `maxLoras` is 0. */
export function createLoraUses(
  maxLoras: number,
  nowSeconds: () => number,
): (snapshots: readonly EngineSnapshot[]) => readonly LoraUse[] {
  // By the sets of names, the newest last.
  const uses = new Map<string, LoraUse>()
  return (snapshots) => {
    if (maxLoras === 0) return []
    for (const { runningLoras: running, steps } of snapshots) {
      if (steps === 0) continue
      const key = running.join(',')
      uses.delete(key)
      // The front end counts in both lists whoever has got a token: `LoRARequestStates` keeps names whose count is 0.
      uses.set(key, { maxLoras, running, waiting: running, atSeconds: nowSeconds() })
    }
    for (const oldest of uses.keys()) {
      if (uses.size <= USES_MAX) break
      uses.delete(oldest)
    }
    return [...uses.values()]
  }
}
