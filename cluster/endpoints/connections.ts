// One pool of connections per engine, shared by everything that talks to it.
import { Pool } from 'undici'
import type { Endpoint, EndpointId } from './endpoint.ts'

/** uvicorn closes idle connections after 5 s: ours must be gone before, or a request races the close. */
const KEEP_ALIVE_MS = 4_000
const CONNECT_TIMEOUT_MS = 3_000

export type Connections = {
  readonly to: (id: EndpointId) => Pool
  /** What every request to this engine carries: its API key, if it wants one. */
  readonly headersFor: (id: EndpointId) => Readonly<Record<string, string>>
  readonly close: () => Promise<void>
}

export function createConnections(endpoints: readonly Endpoint[]): Connections {
  const pools = new Map<EndpointId, Pool>()
  const headers = new Map<EndpointId, Readonly<Record<string, string>>>()
  for (const endpoint of endpoints) {
    headers.set(endpoint.id, endpoint.apiKey === undefined ? {} : { authorization: `Bearer ${endpoint.apiKey}` })
    pools.set(
      endpoint.id,
      new Pool(endpoint.origin, {
        // Never two requests on one connection: behind a long generation the second would wait for minutes.
        pipelining: 1,
        allowH2: false,
        connections: null,
        keepAliveTimeout: KEEP_ALIVE_MS,
        keepAliveMaxTimeout: KEEP_ALIVE_MS,
        // Who sends a leg keeps the time: only there is known what is late.
        headersTimeout: 0,
        bodyTimeout: 0,
        connect: { timeout: CONNECT_TIMEOUT_MS, ...(endpoint.ca === undefined ? {} : { ca: endpoint.ca }) },
      }),
    )
  }
  return {
    to(id) {
      const pool = pools.get(id)
      if (!pool) throw new Error(`no connections to ${id}`)
      return pool
    },
    headersFor: (id) => headers.get(id) ?? {},
    async close() {
      await Promise.all([...pools.values()].map((pool) => pool.destroy()))
    },
  }
}
