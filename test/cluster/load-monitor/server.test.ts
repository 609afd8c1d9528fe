// The load monitor over real sockets, before simulated pods.
import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import pino from 'pino'
import { expect, it, onTestFinished } from 'vitest'
import { createConnections } from '../../../cluster/endpoints/connections.ts'
import { type Endpoint, endpointIdOf } from '../../../cluster/endpoints/endpoint.ts'
import { followLoadMonitor } from '../../../cluster/endpoints/follow-load-monitor.ts'
import { startMonitor } from '../../../cluster/endpoints/monitor.ts'
import { createEndpointSet } from '../../../cluster/endpoints/set.ts'
import { startLoadMonitor } from '../../../cluster/load-monitor/server.ts'
import { type Simulator, startSimulator } from '../../../cluster/simulator/server.ts'
import { eventually } from '../../eventually.ts'
import { endpoint } from '../views.ts'

async function startPod(model = 'm'): Promise<Simulator> {
  const pod = await startSimulator({ port: 0, models: [model], speed: 0 })
  onTestFinished(() => pod.close())
  return pod
}

function endpointAt(url: string, more: Partial<Endpoint> = {}): Endpoint {
  return endpoint(endpointIdOf(new URL(url)), { origin: url, ...more })
}

async function startFor(endpoints: readonly Endpoint[], dcgmPort?: number) {
  const monitor = await startLoadMonitor({ host: '127.0.0.1', port: 0, endpoints, dcgmPort }, pino({ level: 'silent' }))
  onTestFinished(() => monitor.close())
  return { monitor, url: `http://127.0.0.1:${monitor.port}` }
}

async function ask(podUrl: string): Promise<void> {
  const answer = await fetch(`${podUrl}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'm', prompt: 'a prompt of some length, asked twice '.repeat(20), max_tokens: 4 }),
  })
  expect(answer.status).toBe(200)
  await answer.text()
}

const textOf = async (url: string) => (await fetch(url)).text()
// biome-ignore lint/suspicious/noExplicitAny: what it is, the expectations say.
const jsonOf = async (url: string): Promise<any> => (await fetch(url)).json()

it('every pod’s load, for people, Prometheus and routers alike', async () => {
  const [first, second] = [await startPod(), await startPod()]
  const { monitor, url } = await startFor([endpointAt(first.url, { labels: { zone: 'x' } }), endpointAt(second.url)])
  await monitor.firstRound
  expect((await fetch(`${url}/readyz`)).status).toBe(200)
  for (let times = 0; times < 3; times++) await ask(first.url)
  const id = endpointIdOf(new URL(first.url))
  const pod = await eventually(
    () => jsonOf(`${url}/load/${encodeURIComponent(id)}`),
    ({ avgLatencySeconds }) => avgLatencySeconds !== undefined,
  )
  expect(pod).toMatchObject({
    pod: id,
    origin: first.url,
    availability: { state: 'available' },
    models: ['m'],
    baseModel: 'm',
    adapters: [],
    queueLength: 0,
    activeRequests: 0,
    stale: false,
    gpuUtilization: { source: 'kv-cache-usage' },
    engine: { requestsFinished: 3 },
  })
  expect(pod.cacheHitRate).toBeGreaterThan(0)
  expect(pod.cacheHitRate).toBeLessThanOrEqual(1)
  expect((await jsonOf(`${url}/load`)).pods.map((each: { pod: string }) => each.pod)).toEqual([
    id,
    endpointIdOf(new URL(second.url)),
  ])
  const page = await textOf(`${url}/metrics`)
  const labels = `label_zone="x",pod="${id}",role="both"`
  for (const series of [
    'vllm_queue_length',
    'vllm_queue_depth',
    'vllm_active_requests',
    'vllm_avg_latency_seconds',
    'vllm_cache_hit_rate',
    'warmpath_scrape_age_seconds',
  ]) {
    expect(page).toContain(`\n${series}{${labels}} `)
  }
  expect(page).toContain(`\nvllm_gpu_utilization_percent{${labels},source="kv-cache-usage"} `)
  // Nobody asked the second pod anything: it has no latency, rather than one of zero.
  expect(page.match(/\nvllm_avg_latency_seconds\{/g)).toHaveLength(1)
})

it('a pod that is gone keeps its age and loses its numbers; a pod without metrics has none', async () => {
  const [gone, bare] = [await startPod(), await startPod()]
  bare.faults.set({ noMetrics: true })
  const { monitor, url } = await startFor([endpointAt(gone.url), endpointAt(bare.url)])
  await monitor.firstRound
  await gone.close()
  const { pods } = await eventually(
    () => jsonOf(`${url}/load`),
    ({ pods: [first] }) => first.stale,
  )
  expect(pods[0].scrapeAgeMs).toBeGreaterThanOrEqual(5_000)
  for (const pod of pods) {
    for (const name of ['queueLength', 'activeRequests', 'kvUsage', 'gpuUtilization'])
      expect(pod).not.toHaveProperty(name)
  }
  const page = await textOf(`${url}/metrics`)
  expect(page).not.toMatch(/\nvllm_\w+\{/)
  expect(page.match(/\nwarmpath_scrape_age_seconds\{/g)).toHaveLength(2)
})

it('GPU utilisation comes from the exporter on the pod’s host where there is one', async () => {
  const exporter = http.createServer((_, res) => res.end('DCGM_FI_DEV_GPU_UTIL{gpu="0"} 73\n')).listen(0, '127.0.0.1')
  await once(exporter, 'listening')
  onTestFinished(() => {
    exporter.closeAllConnections()
    exporter.close()
  })
  const pod = await startPod()
  const { monitor, url } = await startFor([endpointAt(pod.url)], (exporter.address() as AddressInfo).port)
  await monitor.firstRound
  expect((await jsonOf(`${url}/load`)).pods[0].gpuUtilization).toEqual({ percent: 73, source: 'dcgm' })
  expect(await textOf(`${url}/metrics`)).toMatch(/\nvllm_gpu_utilization_percent\{[^}]*source="dcgm"\} 73\n/)
})

it('the list of pods can change: series of a pod that went are gone', async () => {
  const [first, second] = [await startPod('one'), await startPod('two')]
  const { monitor, url } = await startFor([endpointAt(first.url)])
  await monitor.firstRound
  monitor.replace([endpointAt(second.url)])
  const { pods } = await eventually(
    () => jsonOf(`${url}/load`),
    ({ pods: [pod] }) => pod.models !== undefined && pod.scrapeAgeMs !== undefined,
  )
  expect(pods.map(({ models }: { models: readonly string[] }) => models)).toEqual([['two']])
  expect(await textOf(`${url}/metrics`)).not.toContain(endpointIdOf(new URL(first.url)))
})

it('a router that follows it scrapes nothing itself, and does when it is stopped', async () => {
  const pod = await startPod()
  const pool = [endpointAt(pod.url)]
  const [{ id }] = pool as [Endpoint]
  const { monitor: loadMonitor, url } = await startFor(pool)
  await loadMonitor.firstRound
  const nowMs = () => performance.now()
  const endpoints = createEndpointSet(pool, nowMs)
  const connections = createConnections(pool)
  const follower = followLoadMonitor(url, { endpoints, nowMs, onEvent: () => undefined })
  await follower.firstRound
  let scrapes = 0
  const scraped = Promise.withResolvers<void>()
  const monitor = startMonitor({
    endpoints,
    connections,
    nowMs,
    scrapedElsewhere: follower.covers,
    onEvent: () => undefined,
    onScrape() {
      scrapes++
      scraped.resolve()
    },
  })
  onTestFinished(async () => {
    monitor.stop()
    await follower.stop()
    await connections.close()
  })
  await monitor.firstRound
  expect(scrapes).toBe(0)
  expect(endpoints.snapshot()[0]).toMatchObject({ models: ['m'], load: { queuedRequests: 0, stale: false } })
  await loadMonitor.close()
  await scraped.promise
  expect(endpoints.lastScrape(id)?.metrics.running).toBe(0)
})

it.each([
  ['GET', '/nothing', 404, 'here are /load, /load/<pod>, /metrics, /healthz and /readyz\n'],
  ['GET', '/load/x%3A1', 404, 'no pod x:1 is watched here; /load lists those that are\n'],
  ['GET', '/load/%ff', 404, 'no pod %ff is watched here; /load lists those that are\n'],
  ['POST', '/load', 405, 'only GET here\n'],
  ['GET', '//', 400, 'this is not a path\n'],
  ['GET', '/healthz', 200, 'ok\n'],
  ['HEAD', '/load', 200, ''],
])('%s %s: %i', async (method, path, status, text) => {
  const { monitor } = await startFor([])
  const req = http.request({ port: monitor.port, method, path, agent: false })
  req.end()
  const [res] = (await once(req, 'response')) as [http.IncomingMessage]
  const chunks: Buffer[] = []
  for await (const chunk of res) chunks.push(chunk as Buffer)
  expect([res.statusCode, Buffer.concat(chunks).toString()]).toEqual([status, text])
})
