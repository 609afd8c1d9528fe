// The router's own metrics. Labels are bounded: routes and refusals are closed sets, models are those that engines list.
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { EndpointSet } from '../endpoints/set.ts'
import type { Admission } from '../epp/admission.ts'
import type { DecisionLog } from '../epp/decision-log.ts'

const TTFT_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]
const ITL_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5]
const DECISION_BUCKETS = [0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.03, 0.1]

export type RouterMetrics = {
  readonly registry: Registry
  readonly answered: (route: string, model: string, status: number) => void
  readonly refused: (reason: string) => void
  readonly firstByte: (seconds: number) => void
  readonly chunk: (secondsSinceLast: number) => void
  readonly decided: (seconds: number) => void
  readonly retried: () => void
  readonly scraped: (endpoint: EndpointId, ok: boolean) => void
}

export function createRouterMetrics(endpoints: EndpointSet, admission: Admission, log: DecisionLog): RouterMetrics {
  const registry = new Registry()
  const registers = [registry]
  const requests = new Counter({
    name: 'warmpath_requests_total',
    help: 'Requests answered, by route, model and status; 499 is a caller that left.',
    labelNames: ['route', 'model', 'status'],
    registers,
  })
  const refusals = new Counter({
    name: 'warmpath_refusals_total',
    help: 'Requests that the router refused itself, by reason.',
    labelNames: ['reason'],
    registers,
  })
  const retries = new Counter({
    name: 'warmpath_retries_total',
    help: 'Requests sent to the next best endpoint before any byte of an answer.',
    registers,
  })
  const scrapes = new Counter({
    name: 'warmpath_scrapes_total',
    help: 'Scrapes of engine metrics.',
    labelNames: ['endpoint', 'outcome'],
    registers,
  })
  const ttft = new Histogram({
    name: 'warmpath_time_to_first_token_seconds',
    help: 'From the arrival of a request to the first event of its answer; streamed answers only.',
    buckets: TTFT_BUCKETS,
    registers,
  })
  const itl = new Histogram({
    name: 'warmpath_inter_token_latency_seconds',
    help: 'Between two pieces of a streamed answer as they came from the engine.',
    buckets: ITL_BUCKETS,
    registers,
  })
  const decision = new Histogram({
    name: 'warmpath_decision_seconds',
    help: 'Time to decide where a request goes, without waiting for admission.',
    buckets: DECISION_BUCKETS,
    registers,
  })
  registerGauges(registers, endpoints, admission, log)

  return {
    registry,
    answered: (route, model, status) => requests.inc({ route, model, status: String(status) }),
    refused: (reason) => refusals.inc({ reason }),
    firstByte: (seconds) => ttft.observe(seconds),
    chunk: (seconds) => itl.observe(seconds),
    decided: (seconds) => decision.observe(seconds),
    retried: () => retries.inc(),
    scraped: (endpoint, ok) => scrapes.inc({ endpoint, outcome: ok ? 'ok' : 'failed' }),
  }
}

/** Read when Prometheus asks, from where the truth is kept. */
function registerGauges(registers: Registry[], endpoints: EndpointSet, admission: Admission, log: DecisionLog): void {
  new Gauge({
    name: 'warmpath_requests_in_flight',
    help: 'Requests admitted and not over.',
    registers,
    collect() {
      this.set(admission.counts().inFlight)
    },
  })
  new Gauge({
    name: 'warmpath_requests_waiting',
    help: 'Requests that wait for admission.',
    registers,
    collect() {
      this.set(admission.counts().waiting)
    },
  })
  new Gauge({
    name: 'warmpath_scrape_age_seconds',
    help: 'Age of what is known of an endpoint; absent when it was never scraped.',
    labelNames: ['endpoint'],
    registers,
    collect() {
      this.reset()
      for (const { endpoint, load } of endpoints.snapshot()) {
        if (load.scrapeAgeMs !== undefined) this.set({ endpoint: endpoint.id }, load.scrapeAgeMs / 1_000)
      }
    },
  })
  new Gauge({
    name: 'warmpath_endpoint_available',
    help: '1 when the endpoint gets new requests, 0 while it is ejected.',
    labelNames: ['endpoint', 'role'],
    registers,
    collect() {
      for (const { endpoint, availability } of endpoints.snapshot()) {
        this.set({ endpoint: endpoint.id, role: endpoint.role }, availability.state === 'available' ? 1 : 0)
      }
    },
  })
  new Gauge({
    name: 'warmpath_endpoint_active_requests',
    help: 'Requests at an endpoint as decisions see them.',
    labelNames: ['endpoint'],
    registers,
    collect() {
      for (const { endpoint, load } of endpoints.snapshot()) this.set({ endpoint: endpoint.id }, load.activeRequests)
    },
  })
  new Gauge({
    name: 'warmpath_decision_log_bytes',
    help: 'Memory held by remembered decisions, estimated.',
    registers,
    collect() {
      this.set(log.size().bytes)
    },
  })
}
