// What a connection's two ends see of each other: how long an idle one is kept, and what becomes of a request that nobody
// waits for any more.
import { once } from 'node:events'
import { connect } from 'node:net'
import { openStream, runningOf } from './asking.ts'
import type { ObservationRow } from './observed-pod.ts'
import { range } from './token-ids.ts'

export const CONNECTION_ROWS: readonly ObservationRow[] = [
  {
    name: 'an idle connection is closed after five seconds',
    kind: 'plain',
    look: async (pod) => {
      const { hostname, port } = new URL(pod.url)
      const socket = connect(Number(port), hostname)
      socket.write(`GET /health HTTP/1.1\r\nhost: ${hostname}\r\n\r\n`)
      const [head] = (await once(socket, 'data')) as [Buffer]
      const sinceMs = performance.now()
      await once(socket, 'end')
      socket.destroy()
      const seconds = (performance.now() - sinceMs) / 1_000
      return {
        says: head.toString().split('\r\n')[0],
        kept: Math.abs(seconds - 5) < 1.5 ? 'about 5 s' : `${seconds} s`,
      }
    },
  },
  {
    name: 'a request whose client has left is not worked on any longer',
    kind: 'plain',
    look: async (pod) => {
      const stream = await openStream(pod, { prompt: range(90_000, 40), max_tokens: 5_000 })
      const during = await runningOf(pod, 1)
      stream.leave()
      const after = await runningOf(pod, 0)
      return { during, after }
    },
  },
]
