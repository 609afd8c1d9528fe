// The router's own metrics. Labels are bounded: routes and refusals are closed sets, models are those that engines list.
import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { MemoryTier } from '../cache/memory.ts'
import type { RedisLookup, RedisSave, RedisTier } from '../cache/redis.ts'
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { EndpointSet } from '../endpoints/set.ts'
import type { AccuracyLedger } from '../epp/accuracy.ts'
import type { Admission } from '../epp/admission.ts'
import { ERROR_EDGES } from '../epp/confidence.ts'
import type { CacheNote, DecisionLog } from '../epp/decision-log.ts'
import type { Caches } from '../kv/caches.ts'
import { registerCacheMetrics } from '../kv/metrics.ts'
import type { RouterTokenizer } from '../tokens/router-tokenizer.ts'

const TTFT_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]
const ITL_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5]
const LOOKUP_BUCKETS = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5]
const REDIS_BUCKETS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1]
const DECISION_BUCKETS = [0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.03, 0.1]

const SCRAPE_OUTCOMES = ['ok', 'failed'] as const
const PREDICTION_OUTCOMES = ['exact', 'over', 'under'] as const

export type RouterMetrics = {
  readonly registry: Registry
  readonly answered: (route: string, model: string, status: number) => void
  readonly refused: (reason: string) => void
  readonly firstByte: (seconds: number) => void
  readonly chunk: (secondsSinceLast: number) => void
  readonly decided: (seconds: number) => void
  readonly retried: () => void
  readonly scraped: (endpoint: EndpointId, ok: boolean) => void
  /** A prompt was looked up; `known` when its token ids were found. */
  readonly gathered: (seconds: number, known: boolean) => void
  readonly sessionPlaced: (outcome: 'kept' | 'left') => void
  /** Cached tokens as predicted, and as the engine told them. */
  readonly predicted: (endpoint: EndpointId, predicted: number, actual: number) => void
  readonly reloaded: (ok: boolean) => void
  /** What the response cache did for a request: one of a closed set of words. */
  readonly cacheAsked: (outcome: CacheNote['outcome']) => void
  readonly redisAsked: (outcome: RedisLookup, seconds: number) => void
  readonly redisSaved: (outcome: RedisSave) => void
  /** Of an endpoint that is gone nothing is told any more. */
  readonly forget: (endpoint: EndpointId) => void
}

export type MetricsDeps = {
  readonly endpoints: EndpointSet
  readonly admission: Admission
  readonly decisions: DecisionLog
  readonly caches: Caches
  readonly tokenizer: Pick<RouterTokenizer, 'counts'>
  readonly accuracy: Pick<AccuracyLedger, 'confidence'>
  readonly memory: Pick<MemoryTier, 'bytes' | 'entries'>
  /** Undefined where there is none. */
  readonly redisState: () => ReturnType<RedisTier['state']> | undefined
}

export function createRouterMetrics(deps: MetricsDeps): RouterMetrics {
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
  const gather = new Histogram({
    name: 'warmpath_prompt_lookup_seconds',
    help: 'Time to find a prompt’s token ids and what each endpoint holds of it.',
    labelNames: ['token_ids'],
    buckets: LOOKUP_BUCKETS,
    registers,
  })
  const sessions = new Counter({
    name: 'warmpath_sessions_placed_total',
    help: 'Requests of known sessions, by whether they stayed with their endpoint.',
    labelNames: ['outcome'],
    registers,
  })
  const predictedTokens = new Counter({
    name: 'warmpath_predicted_cached_tokens_total',
    help: 'Prompt tokens that the endpoint was expected to have cached.',
    labelNames: ['endpoint'],
    registers,
  })
  const actualTokens = new Counter({
    name: 'warmpath_actual_cached_tokens_total',
    help: 'Prompt tokens that the endpoint said it had cached, of the same answers.',
    labelNames: ['endpoint'],
    registers,
  })
  const predictions = new Counter({
    name: 'warmpath_predictions_total',
    help: 'Answers whose cached tokens were predicted, by outcome: exact, over (fewer were cached), under.',
    labelNames: ['endpoint', 'outcome'],
    registers,
  })
  const predictionError = new Histogram({
    name: 'warmpath_prediction_error_tokens',
    help: 'Cached tokens as predicted, less those that the engine told.',
    labelNames: ['endpoint'],
    buckets: [...ERROR_EDGES],
    registers,
  })
  const reloads = new Counter({
    name: 'warmpath_config_reloads_total',
    help: 'Changes of the configuration file; a bad one keeps the old configuration.',
    labelNames: ['outcome'],
    registers,
  })
  const cacheRequests = new Counter({
    name: 'warmpath_response_cache_requests_total',
    help: 'Requests by what the response cache did: memory, redis and joined answered; the rest went to an engine.',
    labelNames: ['outcome'],
    registers,
  })
  const redisLookups = new Histogram({
    name: 'warmpath_redis_lookup_seconds',
    help: 'Look-ups of stored answers in Redis, by outcome.',
    labelNames: ['outcome'],
    buckets: REDIS_BUCKETS,
    registers,
  })
  const redisSaves = new Counter({
    name: 'warmpath_redis_saves_total',
    help: 'Answers that were to be saved in Redis, by outcome.',
    labelNames: ['outcome'],
    registers,
  })
  registerGauges(registers, deps)
  registerResponseCacheGauges(registers, deps)
  registerCacheMetrics(registry, deps.caches, deps.endpoints.ids)
  new Gauge({
    name: 'warmpath_kv_confidence',
    help: 'How far the index is believed of an endpoint, from how its predictions came out lately: 0 to 1.',
    labelNames: ['endpoint'],
    registers,
    collect() {
      this.reset()
      for (const endpoint of deps.endpoints.ids()) this.set({ endpoint }, deps.accuracy.confidence(endpoint))
    },
  })
  new Gauge({
    name: 'warmpath_prompts_tokenized',
    help: 'Prompts by who told their token ids, since the start.',
    labelNames: ['by'],
    registers,
    collect() {
      for (const [by, count] of Object.entries(deps.tokenizer.counts())) this.set({ by }, count)
    },
  })

  return {
    registry,
    answered: (route, model, status) => requests.inc({ route, model, status: String(status) }),
    refused: (reason) => refusals.inc({ reason }),
    firstByte: (seconds) => ttft.observe(seconds),
    chunk: (seconds) => itl.observe(seconds),
    decided: (seconds) => decision.observe(seconds),
    retried: () => retries.inc(),
    gathered: (seconds, known) => gather.observe({ token_ids: known ? 'known' : 'unknown' }, seconds),
    sessionPlaced: (outcome) => sessions.inc({ outcome }),
    predicted(endpoint, predicted, actual) {
      predictedTokens.inc({ endpoint }, predicted)
      actualTokens.inc({ endpoint }, actual)
      predictions.inc({ endpoint, outcome: predicted === actual ? 'exact' : predicted > actual ? 'over' : 'under' })
      predictionError.observe({ endpoint }, predicted - actual)
    },
    forget(endpoint) {
      for (const outcome of SCRAPE_OUTCOMES) scrapes.remove({ endpoint, outcome })
      for (const outcome of PREDICTION_OUTCOMES) predictions.remove({ endpoint, outcome })
      predictionError.remove({ endpoint })
      predictedTokens.remove({ endpoint })
      actualTokens.remove({ endpoint })
    },
    cacheAsked: (outcome) => cacheRequests.inc({ outcome }),
    redisAsked: (outcome, seconds) => redisLookups.observe({ outcome }, seconds),
    redisSaved: (outcome) => redisSaves.inc({ outcome }),
    reloaded: (ok) => reloads.inc({ outcome: ok ? 'applied' : 'refused' }),
    scraped: (endpoint, ok) => scrapes.inc({ endpoint, outcome: ok ? 'ok' : 'failed' }),
  }
}

/** Read when Prometheus asks, from where the truth is kept. */
function registerGauges(registers: Registry[], { endpoints, admission, decisions }: MetricsDeps): void {
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
      this.reset()
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
      this.reset()
      for (const { endpoint, load } of endpoints.snapshot()) this.set({ endpoint: endpoint.id }, load.activeRequests)
    },
  })
  new Gauge({
    name: 'warmpath_decision_log_bytes',
    help: 'Memory held by remembered decisions, estimated.',
    registers,
    collect() {
      this.set(decisions.size().bytes)
    },
  })
}

function registerResponseCacheGauges(registers: Registry[], { memory, redisState }: MetricsDeps): void {
  new Gauge({
    name: 'warmpath_response_cache_bytes',
    help: 'Memory of stored answers in this process.',
    registers,
    collect() {
      this.set(memory.bytes())
    },
  })
  new Gauge({
    name: 'warmpath_response_cache_entries',
    help: 'Stored answers in this process.',
    registers,
    collect() {
      this.set(memory.entries())
    },
  })
  new Gauge({
    name: 'warmpath_redis_up',
    help: '1 while Redis answers, 0 while it does not; absent where none is configured.',
    registers,
    collect() {
      this.reset()
      const state = redisState()
      if (state === undefined) this.remove()
      else this.set(state === 'connected' ? 1 : 0)
    },
  })
}
