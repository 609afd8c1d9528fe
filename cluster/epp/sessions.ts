// Which endpoint served a session's last turn, for callers without the edge's token. Bounded; the least recently used
// session goes first. A session is named by its caller and never names an endpoint.
import type { EndpointId } from '../endpoints/endpoint.ts'
import { createLru } from '../lru.ts'

const SESSIONS_MAX = 65_536
/** A KV cache rarely stays warm for longer. */
const IDLE_MS = 60 * 60 * 1_000

export type Sessions = {
  readonly find: (key: string) => EndpointId | undefined
  readonly served: (key: string, by: EndpointId) => void
  readonly size: () => number
}

export function createSessions(nowMs: () => number, sessionsMax = SESSIONS_MAX): Sessions {
  const sessions = createLru<{ readonly endpoint: EndpointId; readonly usedAtMs: number }>(sessionsMax, () => 1)
  return {
    find(key) {
      const session = sessions.get(key)
      return session && nowMs() - session.usedAtMs <= IDLE_MS ? session.endpoint : undefined
    },
    served: (key, endpoint) => sessions.set(key, { endpoint, usedAtMs: nowMs() }),
    size: sessions.entries,
  }
}
