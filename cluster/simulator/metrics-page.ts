// The /metrics page of a vLLM 0.32, written as prometheus_client writes it: labels sorted by name, floats in its spelling,
// a `_created` gauge beside every counter and histogram.
import { cacheConfigLabels } from './cache-config-labels.ts'
import type { EngineSnapshot } from './engine.ts'
import { goFloat } from './go-float.ts'
import {
  FINISH_REASONS,
  type Histogram,
  PARSER_CALLERS,
  PARSER_MODES,
  PARSER_OUTCOMES,
  QUEUE_LIMITS,
  type QueueLimit,
  type RankMetrics,
  type ToolParserCalls,
} from './metrics.ts'

export type MetricsConfig = {
  readonly model: string
  readonly maxModelLen: number
  readonly blockSizeTokens: number
  readonly blocks: number
  readonly createdAtMs: number
}

/** Adapters that requests use; the label set is all that says it, and the value when. */
export type LoraUse = {
  readonly maxLoras: number
  readonly running: readonly string[]
  readonly waiting: readonly string[]
  readonly atSeconds: number
}

const SLEEP_STATES = ['awake', 'weights_offloaded', 'discard_all'] as const
/** `paused`: asleep with all its memory, which no series tells. */
export type SleepState = (typeof SLEEP_STATES)[number] | 'paused'

export type MetricsSource = {
  readonly config: MetricsConfig
  /** By rank. */
  readonly ranks: readonly { readonly metrics: RankMetrics; readonly snapshot: EngineSnapshot }[]
  readonly sleepState: SleepState
  readonly parserCalls: ToolParserCalls
  /** Requests that a queue limit refused. */
  readonly refused: ReadonlyMap<QueueLimit, number>
  /** What was seen in use so far, the newest with the latest time; empty where the pod takes no adapters. */
  readonly lora: readonly LoraUse[]
}

type Labels = Readonly<Record<string, string>>
type Sample = { readonly labels: Labels; readonly value: number }
type RankSource = MetricsSource['ranks'][number]

const CACHE_TIERS = ['device', 'host', 'p2p', 'disk', 'external_unspecified'] as const

/** The page; without `withEngine` as a vLLM with its statistics switched off. */
export function metricsPage(source: MetricsSource, withEngine: boolean): string {
  const page = new Page(source.config)
  page.processFamilies()
  if (withEngine) engineFamilies(page, source)
  return page.text()
}

function engineFamilies(page: Page, source: MetricsSource): void {
  const { ranks } = source
  const one = (valueIn: (rank: RankSource) => number): Sample[] =>
    ranks.map((rank, index) => ({ labels: page.engineLabels(index), value: valueIn(rank) }))
  /** One series after the other, each by rank. */
  const many = (label: string, valuesOf: (rank: RankSource) => Readonly<Record<string, number>>): Sample[] => {
    const byRank = ranks.map(valuesOf)
    return Object.keys(byRank[0] ?? {}).flatMap((key) =>
      byRank.map((values, index) => ({ labels: page.engineLabels(index, { [label]: key }), value: values[key] ?? 0 })),
    )
  }

  page.counter(
    'vllm:estimated_flops_per_gpu',
    'Estimated floating point operations per GPU.',
    one(() => 0),
  )
  page.counter(
    'vllm:estimated_read_bytes_per_gpu',
    'Estimated bytes read from memory per GPU.',
    one(() => 0),
  )
  page.counter(
    'vllm:estimated_write_bytes_per_gpu',
    'Estimated bytes written to memory per GPU.',
    one(() => 0),
  )
  page.gauge(
    'vllm:num_requests_running',
    'Requests in the running batch.',
    one(({ snapshot }) => snapshot.running),
  )
  page.gauge(
    'vllm:num_requests_waiting',
    'Requests that wait to run.',
    one(({ snapshot }) => snapshot.waiting),
  )
  page.gauge(
    'vllm:num_requests_waiting_by_reason',
    'Requests that wait to run, by what they wait for.',
    many('reason', ({ snapshot: { waiting, deferred } }) => ({ capacity: waiting - deferred, deferred })),
  )
  page.gauge(
    'vllm:engine_sleep_state',
    'Whether the engine is awake, and how deep it sleeps.',
    many('sleep_state', () =>
      Object.fromEntries(SLEEP_STATES.map((state) => [state, state === source.sleepState ? 1 : 0])),
    ),
  )
  page.gauge(
    'vllm:kv_cache_usage_perc',
    'Share of KV blocks in use, 0 to 1.',
    one(({ snapshot }) => snapshot.usedBlocks / snapshot.blocks),
  )
  page.counter(
    'vllm:prefix_cache_queries',
    'Tokens looked up in the prefix cache.',
    one(({ snapshot }) => snapshot.cacheQueriedTokens),
  )
  page.counter(
    'vllm:prefix_cache_hits',
    'Tokens found in the prefix cache.',
    one(({ snapshot }) => snapshot.cacheHitTokens),
  )
  page.counter(
    'vllm:external_prefix_cache_queries',
    'Tokens looked up through the KV connector.',
    one(({ snapshot }) => snapshot.offloadQueriedTokens),
  )
  page.counter(
    'vllm:external_prefix_cache_hits',
    'Tokens found through the KV connector.',
    one(({ snapshot }) => snapshot.offloadHitTokens),
  )
  page.counter(
    'vllm:mm_cache_queries',
    'Items looked up in the multi-modal cache.',
    one(() => 0),
  )
  page.counter(
    'vllm:mm_cache_hits',
    'Items found in the multi-modal cache.',
    one(() => 0),
  )
  page.counter(
    'vllm:num_preemptions',
    'Preemptions by the scheduler.',
    one(({ snapshot }) => snapshot.preemptions),
  )
  page.counter(
    'vllm:prompt_tokens',
    'Prompt tokens processed.',
    one(({ metrics }) => metrics.promptTokens),
  )
  page.counter('vllm:prompt_tokens_by_source', 'Prompt tokens by where they came from.', many('source', sourcesOf))
  page.counter(
    'vllm:prompt_tokens_cached',
    'Prompt tokens that a cache supplied.',
    one(({ metrics }) => metrics.cachedTokens),
  )
  page.counter('vllm:prompt_tokens_cached_by_source', 'Cached prompt tokens by cache tier.', many('source', tiersOf))
  page.counter(
    'vllm:generation_tokens',
    'Tokens generated.',
    one(({ metrics }) => metrics.generationTokens),
  )
  page.counter(
    'vllm:request_success',
    'Requests that ended, by how.',
    many('finished_reason', ({ metrics }) =>
      Object.fromEntries(FINISH_REASONS.map((reason) => [reason, metrics.finishedWith(reason)])),
    ),
  )
  page.counter(
    'vllm:admission_rejections',
    'Requests refused by a queue limit.',
    QUEUE_LIMITS.map((reason) => ({
      labels: { model_name: source.config.model, reason },
      value: source.refused.get(reason) ?? 0,
    })),
  )
  const all = (name: keyof RankMetrics['histograms']) => ranks.map(({ metrics }) => metrics.histograms[name])
  page.histogram('vllm:request_prompt_tokens', 'Prompt tokens of a request.', all('promptTokens'))
  page.histogram('vllm:request_generation_tokens', 'Tokens generated for a request.', all('generationTokens'))
  page.histogram('vllm:iteration_tokens_total', 'Tokens of an engine step.', all('iterationTokens'))
  page.histogram(
    'vllm:request_max_num_generation_tokens',
    'Most tokens generated for a choice of a request.',
    all('maxGenerationTokens'),
  )
  page.histogram('vllm:request_params_n', 'The parameter n of a request.', all('n'))
  page.histogram('vllm:request_params_max_tokens', 'The parameter max_tokens of a request.', all('maxTokens'))
  page.histogram('vllm:time_to_first_token_seconds', 'Time to the first token.', all('timeToFirstToken'))
  page.histogram('vllm:inter_token_latency_seconds', 'Time between two tokens.', all('interToken'))
  page.histogram(
    'vllm:request_time_per_output_token_seconds',
    'Mean time between two tokens of a request.',
    all('timePerToken'),
  )
  page.histogram('vllm:e2e_request_latency_seconds', 'Time from arrival to the end.', all('endToEnd'))
  page.histogram('vllm:request_queue_time_seconds', 'Time spent waiting.', all('queue'))
  page.histogram('vllm:request_inference_time_seconds', 'Time spent running.', all('inference'))
  page.histogram('vllm:request_prefill_time_seconds', 'Time spent in prefill.', all('prefill'))
  page.histogram('vllm:request_decode_time_seconds', 'Time spent in decode.', all('decode'))
  page.histogram('vllm:request_num_preemptions', 'Preemptions of a request.', all('preemptions'))
  page.histogram(
    'vllm:request_prefill_kv_computed_tokens',
    'Prompt tokens computed rather than cached.',
    all('prefillComputedTokens'),
  )
  if (source.lora.length > 0)
    page.gauge('vllm:lora_requests_info', 'Adapters that requests use.', source.lora.map(loraSample))
  page.gauge(
    'vllm:cache_config_info',
    'The settings of the KV cache.',
    ranks.map((_, rank) => ({ labels: cacheConfigLabels(source.config, rank), value: 1 })),
  )
  page.counter('vllm:tool_call_parser_invocations', 'Answers looked through for tool calls.', parserSamples(source))
}

function sourcesOf({
  metrics: { promptTokens, cachedTokens, offloadedTokens },
}: RankSource): Readonly<Record<string, number>> {
  return {
    local_compute: promptTokens - cachedTokens,
    local_cache_hit: cachedTokens - offloadedTokens,
    external_kv_transfer: offloadedTokens,
  }
}

function tiersOf({ metrics: { offloadedTokens }, snapshot }: RankSource): Readonly<Record<string, number>> {
  const known: Readonly<Record<string, number>> = { device: snapshot.cacheHitTokens, host: offloadedTokens }
  return Object.fromEntries(CACHE_TIERS.map((tier) => [tier, known[tier] ?? 0]))
}

function parserSamples({ config, parserCalls }: MetricsSource): readonly Sample[] {
  return PARSER_MODES.flatMap((mode) =>
    PARSER_OUTCOMES.flatMap((outcome) =>
      PARSER_CALLERS.map((caller) => ({
        labels: { mode, model_name: config.model, outcome, request_type: caller },
        value: parserCalls.count(mode, outcome, caller),
      })),
    ),
  )
}

function loraSample({ maxLoras, running, waiting, atSeconds }: LoraUse): Sample {
  const labels = {
    max_lora: String(maxLoras),
    running_lora_adapters: running.join(','),
    waiting_lora_adapters: waiting.join(','),
  }
  return { labels, value: atSeconds }
}

class Page {
  readonly #lines: string[] = []
  readonly #model: string
  readonly #createdSeconds: number

  constructor({ model, createdAtMs }: MetricsConfig) {
    this.#model = model
    this.#createdSeconds = createdAtMs / 1000
  }

  engineLabels(rank: number, more: Labels = {}): Labels {
    return { engine: String(rank), model_name: this.#model, ...more }
  }

  gauge(name: string, help: string, samples: readonly Sample[]): void {
    this.#head(name, 'gauge', help)
    for (const { labels, value } of samples) this.#sample(name, labels, value)
  }

  /** `name` without its `_total`. */
  counter(name: string, help: string, samples: readonly Sample[]): void {
    this.#head(`${name}_total`, 'counter', help)
    for (const { labels, value } of samples) this.#sample(`${name}_total`, labels, value)
    this.#created(name, help, samples)
  }

  /** One histogram for each rank. */
  histogram(name: string, help: string, histograms: readonly Histogram[]): void {
    this.#head(name, 'histogram', help)
    for (const [rank, { bounds, counts, sum }] of histograms.entries()) {
      let count = 0
      for (const [index, added] of counts.entries()) {
        count += added
        const bound = bounds[index]
        const le = bound === undefined ? '+Inf' : goFloat(bound)
        this.#sample(`${name}_bucket`, this.engineLabels(rank, { le }), count)
      }
      this.#sample(`${name}_count`, this.engineLabels(rank), count)
      this.#sample(`${name}_sum`, this.engineLabels(rank), sum)
    }
    this.#created(
      name,
      help,
      histograms.map((_, rank) => ({ labels: this.engineLabels(rank), value: 0 })),
    )
  }

  processFamilies(): void {
    const { rss } = process.memoryUsage()
    const { user, system } = process.cpuUsage()
    const bare = (value: number): Sample[] => [{ labels: {}, value }]
    this.gauge('process_resident_memory_bytes', 'Resident memory in bytes.', bare(rss))
    this.gauge('process_start_time_seconds', 'Start of the process, in seconds since 1970.', bare(this.#createdSeconds))
    this.#head('process_cpu_seconds_total', 'counter', 'User and system CPU time in seconds.')
    this.#sample('process_cpu_seconds_total', {}, (user + system) / 1e6)
  }

  text(): string {
    return `${this.#lines.join('\n')}\n`
  }

  #head(name: string, type: string, help: string): void {
    this.#lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`)
  }

  #created(name: string, help: string, samples: readonly Sample[]): void {
    this.gauge(
      `${name}_created`,
      help,
      samples.map(({ labels }) => ({ labels, value: this.#createdSeconds })),
    )
  }

  #sample(name: string, labels: Labels, value: number): void {
    const pairs = Object.entries(labels)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([label, text]) => `${label}="${escapeLabel(text)}"`)
      .join(',')
    this.#lines.push(`${name}${pairs === '' ? '' : `{${pairs}}`} ${goFloat(value)}`)
  }
}

function escapeLabel(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('"', '\\"')
}
