// The load monitor as a service of its own: scrapes the pods as a router does, and tells Prometheus and routers.
import { createServer, type Server, type ServerResponse } from 'node:http'
import type { Logger } from 'pino'
import { systemClock } from '../../shared/clock.ts'
import { createConnections } from '../endpoints/connections.ts'
import type { Endpoint, EndpointId } from '../endpoints/endpoint.ts'
import { type PodReport, reportPod } from '../endpoints/load-report.ts'
import { type MonitorEvent, startMonitor } from '../endpoints/monitor.ts'
import { createEndpointSet } from '../endpoints/set.ts'
import { listen, stopper } from '../listen.ts'
import { type GpuWatch, watchGpus } from './gpu-utilization.ts'
import { metricsPage } from './metrics.ts'

export type LoadMonitorOptions = {
  readonly host: string
  /** 0 takes any free port. */
  readonly port: number
  readonly endpoints: readonly Endpoint[]
  /** Port of the DCGM exporters on the pods' hosts. */
  readonly dcgmPort?: number | undefined
}

export type LoadMonitor = {
  readonly port: number
  /** Resolves when every pod was asked once. */
  readonly firstRound: Promise<void>
  /** The pods from now on. */
  readonly replace: (endpoints: readonly Endpoint[]) => void
  /** Says it is not ready, finishes what is being answered, ends. */
  readonly close: () => Promise<void>
}

/** Answers are small: who has not taken one by then is gone. */
const CLOSE_GRACE_MS = 1_000

/** Starts scraping and serving; throws UserError when the port is taken, which names the flag that chooses another. */
export async function startLoadMonitor(
  { host, port: wantedPort, endpoints: pods, dcgmPort }: LoadMonitorOptions,
  log: Logger,
  portFlag = '--port',
): Promise<LoadMonitor> {
  const nowMs = systemClock.monotonicMs
  const endpoints = createEndpointSet(pods, nowMs)
  const connections = createConnections(pods)
  let gpus: GpuWatch | undefined
  let ready = false
  const server = createDoor({
    ready: () => ready,
    reports() {
      const now = nowMs()
      return endpoints.snapshot().map((view) => {
        const { id } = view.endpoint
        return reportPod(view, endpoints.lastScrape(id), gpus?.percentOf(id), now)
      })
    },
  })
  const stopServer = stopper(server)
  const port = await listen(server, host, wantedPort, 'the load monitor', portFlag)
  const monitor = startMonitor({
    endpoints,
    connections,
    nowMs,
    onEvent: (event) => tell(log, event),
    onScrape: () => undefined,
  })
  if (dcgmPort !== undefined) gpus = watchGpus({ endpoints, port: dcgmPort, nowMs })
  log.info({ host, port, endpoints: endpoints.ids() }, 'load monitor listens')
  let closing = false
  const firstRound = Promise.all([monitor.firstRound, gpus?.firstRound]).then(() => {
    ready = !closing
  })

  return {
    port,
    firstRound,
    replace(wanted) {
      const { added, removed, changed } = endpoints.replace(wanted)
      connections.replace(wanted)
      if (added.length + removed.length + changed.length === 0) return
      log.info({ added, removed, changed }, 'configuration read again')
      void monitor.refresh()
    },
    async close() {
      closing = true
      ready = false
      monitor.stop()
      await gpus?.stop()
      await stopServer(CLOSE_GRACE_MS)
      await connections.close()
    },
  }
}

function tell(log: Logger, event: MonitorEvent): void {
  if (event.type === 'models') log.info(event, 'endpoint lists its models')
  else if (event.type === 'ejected') log.warn(event, 'endpoint does not answer or makes no progress')
  else log.info(event, 'endpoint is back')
}

type Door = { readonly ready: () => boolean; readonly reports: () => readonly PodReport[] }

function createDoor({ ready, reports }: Door): Server {
  return createServer((req, res) => {
    // An unusual path like `//` is no URL to the parser.
    const url = URL.parse(req.url ?? '/', 'http://load-monitor')
    if (!url) return sendText(res, 400, 'this is not a path\n')
    if (req.method !== 'GET' && req.method !== 'HEAD') {
      res.setHeader('allow', 'GET, HEAD')
      return sendText(res, 405, 'only GET here\n')
    }
    const path = url.pathname
    if (path === '/healthz') return sendText(res, 200, 'ok\n')
    if (path === '/readyz') return ready() ? sendText(res, 200, 'ready\n') : sendText(res, 503, 'not ready\n')
    if (path === '/metrics') return void sendMetrics(reports(), res).catch(() => res.destroy())
    if (path === '/load') return sendJson(res, { pods: reports() })
    if (path.startsWith('/load/')) return sendPod(reports(), path.slice('/load/'.length), res)
    sendText(res, 404, 'here are /load, /load/<pod>, /metrics, /healthz and /readyz\n')
  })
}

function sendPod(reports: readonly PodReport[], name: string, res: ServerResponse): void {
  const pod = decodedOf(name) as EndpointId
  const report = reports.find((each) => each.pod === pod)
  if (report) sendJson(res, report)
  else sendText(res, 404, `no pod ${pod} is watched here; /load lists those that are\n`)
}

function decodedOf(name: string): string {
  try {
    return decodeURIComponent(name)
  } catch {
    return name
  }
}

async function sendMetrics(reports: readonly PodReport[], res: ServerResponse): Promise<void> {
  const { contentType, text } = await metricsPage(reports)
  res.writeHead(200, { 'content-type': contentType })
  res.end(text)
}

function sendJson(res: ServerResponse, value: unknown): void {
  res.writeHead(200, { 'content-type': 'application/json' })
  res.end(`${JSON.stringify(value)}\n`)
}

function sendText(res: ServerResponse, status: number, text: string): void {
  res.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' })
  res.end(text)
}
