// The load monitor against an engine on a real socket: how often it asks, and that it never asks twice at once.
import { EventEmitter, once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { createConnections } from '../../../cluster/endpoints/connections.ts'
import type { Endpoint, EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { type MonitorDeps, type MonitorEvent, startMonitor } from '../../../cluster/endpoints/monitor.ts'
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

describe('a list that changes', () => {
  /** Engines that tell what they are asked. */
  async function startEngines(count: number): Promise<readonly Engine[]> {
    const engines: Engine[] = []
    for (let index = 0; index < count; index++) {
      const asked = new EventEmitter()
      const server = http.createServer((req, res) => {
        res.end(req.url === '/metrics' ? 'vllm:num_requests_running{engine="0"} 1\n' : '{"data":[{"id":"m"}]}')
        asked.emit(req.url ?? '')
      })
      server.listen(0, '127.0.0.1')
      await once(server, 'listening')
      onTestFinished(() => {
        server.closeAllConnections()
        server.close()
      })
      engines.push({ asked, endpoint: endpoint(`127.0.0.1:${(server.address() as AddressInfo).port}`) })
    }
    return engines
  }

  function startFor(pool: readonly Endpoint[], more: Partial<MonitorDeps> = {}) {
    const nowMs = () => performance.now()
    const endpoints = createEndpointSet(pool, nowMs)
    const connections = createConnections(pool)
    const scraped: EndpointId[] = []
    const events: MonitorEvent[] = []
    const monitor = startMonitor({
      endpoints,
      connections,
      nowMs,
      onEvent: (event) => events.push(event),
      onScrape: (id) => scraped.push(id),
      ...more,
    })
    onTestFinished(async () => {
      monitor.stop()
      await connections.close()
    })
    const replace = (wanted: readonly Endpoint[]) => {
      endpoints.replace(wanted)
      connections.replace(wanted)
      return monitor.refresh()
    }
    return { endpoints, monitor, replace, scraped, events }
  }

  it('a new endpoint is asked at once, one that went is not asked again, one that stays is asked by one loop', async () => {
    const [first, second] = (await startEngines(2)) as [Engine, Engine]
    const { endpoints, monitor, replace, scraped, events } = startFor([first.endpoint])
    await monitor.firstRound
    await replace([first.endpoint, second.endpoint])
    expect(endpoints.snapshot().map(({ models }) => models)).toEqual([['m'], ['m']])
    expect(events).toHaveLength(2)
    await replace([second.endpoint])
    scraped.length = 0
    let wrongly = 0
    first.asked.on('/metrics', () => wrongly++)
    for (let times = 0; times < 3; times++) await once(second.asked, '/metrics')
    expect(wrongly).toBe(0)
    expect(scraped).not.toContain(first.endpoint.id)
    await replace([first.endpoint, second.endpoint])
    expect(wrongly).toBe(1)
  })

  it('what somebody else scrapes is not scraped; its models are still asked for, and it is scraped when they stop', async () => {
    const [engine] = (await startEngines(1)) as [Engine]
    let elsewhere = true
    const { endpoints, monitor, scraped } = startFor([engine.endpoint], { scrapedElsewhere: () => elsewhere })
    await monitor.firstRound
    expect(scraped).toEqual([])
    expect(endpoints.answered(engine.endpoint.id)).toBe(true)
    elsewhere = false
    await once(engine.asked, '/metrics')
  })

  it('after its end it starts no loops', async () => {
    const [engine] = (await startEngines(1)) as [Engine]
    const { endpoints, monitor, replace } = startFor([])
    monitor.stop()
    await replace([engine.endpoint])
    expect(endpoints.answered(engine.endpoint.id)).toBe(false)
  })
})

type Engine = { readonly asked: EventEmitter; readonly endpoint: Endpoint }
