// Which endpoint served a session's last turn, for callers without the edge's token. Bounded; the least recently used
// session goes first. A session is named by its caller and never names an endpoint.
import type { EndpointId } from '../endpoints/endpoint.ts'

const SESSIONS_MAX = 65_536
/** A KV cache rarely stays warm for longer. */
const IDLE_MS = 60 * 60 * 1_000

export type Sessions = {
  readonly find: (key: string) => EndpointId | undefined
  readonly served: (key: string, by: EndpointId) => void
  readonly size: () => number
}

export function createSessions(nowMs: () => number, sessionsMax = SESSIONS_MAX): Sessions {
  // Invariant: insertion order is the order of last use. What `byUse` has passed is deleted: a new iterator would step over
  // all of that again to find the oldest.
  const sessions = new Map<string, { readonly endpoint: EndpointId; readonly usedAtMs: number }>()
  const byUse = sessions.keys()
  return {
    find(key) {
      const session = sessions.get(key)
      if (!session) return undefined
      if (nowMs() - session.usedAtMs <= IDLE_MS) return session.endpoint
      sessions.delete(key)
      return undefined
    },
    served(key, endpoint) {
      sessions.delete(key)
      sessions.set(key, { endpoint, usedAtMs: nowMs() })
      if (sessions.size <= sessionsMax) return
      const { value: oldest } = byUse.next()
      if (oldest !== undefined) sessions.delete(oldest)
    },
    size: () => sessions.size,
  }
}
