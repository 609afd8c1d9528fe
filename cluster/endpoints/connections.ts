// One pool of connections per engine, shared by everything that talks to it. The list of engines may change at any time.
import { Pool } from 'undici'
import type { Endpoint, EndpointId } from './endpoint.ts'

/** uvicorn closes idle connections after 5 s: ours must be gone before, or a request races the close. */
const KEEP_ALIVE_MS = 4_000
const CONNECT_TIMEOUT_MS = 3_000

export type Connections = {
  /** To an engine that is gone: a pool whose every request fails, like one that cannot be reached. */
  readonly to: (id: EndpointId) => Pool
  /** What every request to this engine carries: its API key, if it wants one. */
  readonly headersFor: (id: EndpointId) => Readonly<Record<string, string>>
  /**
   * The engines from now on. Connections to one that is gone, or is reached another way, close when their requests are
   * over; the others are kept.
   */
  readonly replace: (endpoints: readonly Endpoint[]) => void
  /** Cuts what is still in flight, to engines that are gone as well. */
  readonly close: () => Promise<void>
}

type Way = { readonly endpoint: Endpoint; readonly pool: Pool; readonly headers: Readonly<Record<string, string>> }

const NO_HEADERS: Readonly<Record<string, string>> = {}

export function createConnections(endpoints: readonly Endpoint[]): Connections {
  let ways = new Map<EndpointId, Way>()
  const closing = new Set<Pool>()
  const gone = new Pool('http://gone.invalid')
  void gone.close()

  function replace(wanted: readonly Endpoint[]): void {
    const before = ways
    ways = new Map()
    for (const endpoint of wanted) {
      if (ways.has(endpoint.id)) continue
      const known = before.get(endpoint.id)
      const kept = known?.endpoint.origin === endpoint.origin && known.endpoint.ca === endpoint.ca
      const headers = endpoint.apiKey === undefined ? NO_HEADERS : { authorization: `Bearer ${endpoint.apiKey}` }
      ways.set(endpoint.id, { endpoint, headers, pool: known && kept ? known.pool : openPool(endpoint) })
    }
    for (const [id, { pool }] of before) if (ways.get(id)?.pool !== pool) retire(pool)
  }

  function retire(pool: Pool): void {
    closing.add(pool)
    const over = () => void closing.delete(pool)
    pool.close().then(over, over)
  }

  replace(endpoints)

  return {
    to: (id) => ways.get(id)?.pool ?? gone,
    headersFor: (id) => ways.get(id)?.headers ?? NO_HEADERS,
    replace,
    async close() {
      const pools = [...[...ways.values()].map(({ pool }) => pool), ...closing]
      await Promise.all(pools.map((pool) => pool.destroy()))
    },
  }
}

function openPool({ origin, ca }: Endpoint): Pool {
  return new Pool(origin, {
    // Never two requests on one connection: behind a long generation the second would wait for minutes.
    pipelining: 1,
    allowH2: false,
    connections: null,
    keepAliveTimeout: KEEP_ALIVE_MS,
    keepAliveMaxTimeout: KEEP_ALIVE_MS,
    // Who sends a leg keeps the time: only there is known what is late.
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: { timeout: CONNECT_TIMEOUT_MS, ...(ca === undefined ? {} : { ca }) },
  })
}
