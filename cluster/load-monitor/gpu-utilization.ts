// GPU utilisation from the DCGM exporters on the pods' hosts: vLLM does not know it. One exporter serves all pods of its
// host, and what it says is the mean over the host's GPUs.
import { Agent } from 'undici'
import type { EndpointId } from '../endpoints/endpoint.ts'
import { readBounded } from '../endpoints/read-bounded.ts'
import type { EndpointSet } from '../endpoints/set.ts'

/** An exporter itself looks every 30 s, unless it is told otherwise. */
const INTERVAL_MS = 5_000
const TIMEOUT_MS = 2_000
/** Three answers may be missing before the last one is no longer believed. */
const BELIEVED_FOR_MS = 3 * INTERVAL_MS + TIMEOUT_MS
const PAGE_BYTES_MAX = 4 * 1024 * 1024

export type GpuDeps = {
  readonly endpoints: EndpointSet
  readonly port: number
  readonly nowMs: () => number
}

export type GpuWatch = {
  /** 0 to 100; undefined while no exporter answers on the pod's host. */
  readonly percentOf: (id: EndpointId) => number | undefined
  readonly firstRound: Promise<void>
  readonly stop: () => Promise<void>
}

/** Asks `port` of every host that has an endpoint. */
export function watchGpus({ endpoints, port, nowMs }: GpuDeps): GpuWatch {
  const agent = new Agent({ connections: 1, connect: { timeout: TIMEOUT_MS } })
  let told = new Map<string, { readonly percent: number; readonly atMs: number }>()
  let stopped = false
  let timer: NodeJS.Timeout | undefined

  const hostOf = (id: EndpointId): string | undefined => {
    const origin = endpoints.get(id)?.origin
    return origin === undefined ? undefined : new URL(origin).hostname
  }

  async function round(): Promise<void> {
    const hosts = new Set(endpoints.ids().map(hostOf))
    await Promise.all(
      [...hosts].map(async (host) => {
        if (host === undefined) return
        const percent = await askExporter(agent, `http://${host}:${port}`)
        if (percent !== undefined) told.set(host, { percent, atMs: nowMs() })
      }),
    )
    told = new Map([...told].filter(([host]) => hosts.has(host)))
    if (!stopped) timer = setTimeout(() => void round(), INTERVAL_MS)
  }

  return {
    percentOf(id) {
      const last = told.get(hostOf(id) ?? '')
      return last && nowMs() - last.atMs < BELIEVED_FOR_MS ? last.percent : undefined
    },
    firstRound: round(),
    stop() {
      stopped = true
      clearTimeout(timer)
      return agent.destroy()
    },
  }
}

async function askExporter(agent: Agent, origin: string): Promise<number | undefined> {
  try {
    const signal = AbortSignal.timeout(TIMEOUT_MS)
    const answer = await agent.request({ origin, path: '/metrics', method: 'GET', signal })
    const page = await readBounded(answer.body as AsyncIterable<Buffer>, PAGE_BYTES_MAX)
    return page && answer.statusCode === 200 ? meanGpuUtilization(page.toString('latin1')) : undefined
  } catch {
    return undefined
  }
}

/** The mean of DCGM_FI_DEV_GPU_UTIL over a page's GPUs, 0 to 100; undefined when it has none. */
export function meanGpuUtilization(page: string): number | undefined {
  let sum = 0
  let count = 0
  for (const [, number] of page.matchAll(/^DCGM_FI_DEV_GPU_UTIL(?:\{[^\n]*\})?[ \t]+(\S+)/gm)) {
    const percent = Number(number)
    if (!(percent >= 0 && percent <= 100)) continue
    sum += percent
    count++
  }
  return count === 0 ? undefined : sum / count
}
