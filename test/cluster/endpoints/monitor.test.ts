// The load monitor against an engine on a real socket: how often it asks, and that it never asks twice at once.
import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { createConnections } from '../../../cluster/endpoints/connections.ts'
import { startMonitor } from '../../../cluster/endpoints/monitor.ts'
import { createEndpointSet } from '../../../cluster/endpoints/set.ts'
import { endpoint } from '../views.ts'

async function watch(page: string, answerAfterMs: number) {
  const scrapedAtMs: number[] = []
  let asking = 0
  let askingMost = 0
  const enough: (() => void)[] = []
  const server = http.createServer((req, res) => {
    if (req.url !== '/metrics') {
      res.end('{"data":[{"id":"m"}]}')
      return
    }
    scrapedAtMs.push(performance.now())
    askingMost = Math.max(askingMost, ++asking)
    setTimeout(() => {
      asking--
      res.end(page)
      if (scrapedAtMs.length >= 5) for (const tell of enough) tell()
    }, answerAfterMs)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const pool = [endpoint(`127.0.0.1:${port}`)]
  const endpoints = createEndpointSet(pool, () => performance.now())
  const connections = createConnections(pool)
  const monitor = startMonitor({
    endpoints,
    connections,
    nowMs: () => performance.now(),
    onEvent: () => undefined,
    onScrape: () => undefined,
  })
  onTestFinished(async () => {
    monitor.stop()
    await connections.close()
    server.close()
    server.closeAllConnections()
  })
  await new Promise<void>((resolve) => enough.push(resolve))
  return { tookMs: (scrapedAtMs[4] ?? 0) - (scrapedAtMs[0] ?? 0), askingMost, endpoints }
}

it('asks a busy engine every 200 ms, so that a decision knows the queue', async () => {
  const { tookMs, endpoints } = await watch(
    'vllm:num_requests_running{engine="0"} 3\nvllm:num_requests_waiting{engine="0"} 1\n',
    0,
  )
  expect(tookMs).toBeGreaterThan(4 * 190)
  expect(tookMs).toBeLessThan(4 * 600)
  expect(endpoints.snapshot()[0]?.load).toMatchObject({
    activeRequests: 4,
    queuedRequests: 1,
    kvUsage: undefined,
    stale: false,
  })
})

it('asks an idle engine every second', async () => {
  expect((await watch('vllm:num_requests_running{engine="0"} 0\n', 0)).tookMs).toBeGreaterThan(4 * 990)
})

it('never asks a slow engine twice at once', async () => {
  const { askingMost, tookMs } = await watch('vllm:num_requests_running{engine="0"} 3\n', 300)
  expect(askingMost).toBe(1)
  expect(tookMs).toBeGreaterThan(4 * 490)
})
