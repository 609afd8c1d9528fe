// The /metrics page of a vLLM 0.32, folded from what the engine's steps return and written as prometheus_client writes
// it: labels sorted by name, floats in its spelling, a `_created` gauge beside every counter and histogram.
import type { EngineSnapshot, StepResult } from './engine.ts'
import type { FinishedSequence, FinishReason } from './sequence.ts'

export type MetricsConfig = {
  readonly model: string
  readonly maxModelLen: number
  readonly blockSizeTokens: number
  readonly blocks: number
  readonly createdAtMs: number
}

type Labels = Readonly<Record<string, string>>
type Sample = { readonly labels: Labels; readonly value: number }

const FINISH_REASONS: readonly FinishReason[] = ['stop', 'length', 'abort', 'error', 'repetition']
const CACHE_TIERS = ['device', 'host', 'p2p', 'disk', 'external_unspecified'] as const
const QUEUE_LIMITS = ['max_num_queued_reqs', 'max_num_queued_tokens'] as const
const PARSER_MODES = ['streaming', 'non_streaming'] as const
const PARSER_OUTCOMES = ['tool_call', 'no_tool_call'] as const
const PARSER_CALLERS = ['chat_completions', 'responses', 'other'] as const

const TTFT_BUCKETS = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
]
const TOKEN_TIME_BUCKETS = [
  0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
]
const REQUEST_TIME_BUCKETS = [
  0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
]
const ITERATION_BUCKETS = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
const N_BUCKETS = [1, 2, 5, 10, 20]
const PREEMPTION_BUCKETS = [1, 2, 3, 4, 5, 10, 20]

/** 1, 2, 5, 10, 20, 50, … up to the longest context. */
function tokenBuckets(maxModelLen: number): readonly number[] {
  const buckets: number[] = []
  for (let decade = 1; decade <= maxModelLen; decade *= 10) {
    for (const digit of [1, 2, 5]) if (digit * decade <= maxModelLen) buckets.push(digit * decade)
  }
  return buckets
}

class Histogram {
  readonly bounds: readonly number[]
  /** Not cumulative; the last one counts what is above every bound. */
  readonly counts: number[]
  sum = 0

  constructor(bounds: readonly number[]) {
    this.bounds = bounds
    this.counts = new Array(bounds.length + 1).fill(0)
  }

  observe(value: number): void {
    const found = this.bounds.findIndex((bound) => value <= bound)
    const bucket = found < 0 ? this.bounds.length : found
    this.counts[bucket] = (this.counts[bucket] ?? 0) + 1
    this.sum += value
  }
}

export class EngineMetrics {
  readonly #config: MetricsConfig
  readonly #finished = new Map<FinishReason, number>(FINISH_REASONS.map((reason) => [reason, 0]))
  readonly #parserCalls = new Map<string, number>()
  readonly #histograms
  #promptTokens = 0
  #cachedTokens = 0
  #generationTokens = 0

  constructor(config: MetricsConfig) {
    this.#config = config
    const tokens = tokenBuckets(config.maxModelLen)
    this.#histograms = {
      promptTokens: new Histogram(tokens),
      generationTokens: new Histogram(tokens),
      iterationTokens: new Histogram(ITERATION_BUCKETS),
      maxGenerationTokens: new Histogram(tokens),
      n: new Histogram(N_BUCKETS),
      maxTokens: new Histogram(tokens),
      timeToFirstToken: new Histogram(TTFT_BUCKETS),
      interToken: new Histogram(TOKEN_TIME_BUCKETS),
      timePerToken: new Histogram(TOKEN_TIME_BUCKETS),
      endToEnd: new Histogram(REQUEST_TIME_BUCKETS),
      queue: new Histogram(REQUEST_TIME_BUCKETS),
      inference: new Histogram(REQUEST_TIME_BUCKETS),
      prefill: new Histogram(REQUEST_TIME_BUCKETS),
      decode: new Histogram(REQUEST_TIME_BUCKETS),
      preemptions: new Histogram(PREEMPTION_BUCKETS),
      prefillComputedTokens: new Histogram(tokens),
    }
  }

  recordStep({ emissions, finished }: StepResult): void {
    const { iterationTokens, timeToFirstToken, interToken } = this.#histograms
    let tokens = 0
    for (const { isToken, timeToFirstTokenMs, interTokenMs, promptTokens, caching } of emissions) {
      if (isToken) {
        tokens++
        this.#generationTokens++
      }
      if (timeToFirstTokenMs !== undefined) {
        // A prompt counts as a whole in the step that ends its prefill, however many steps it took.
        tokens += promptTokens - caching.cachedTokens
        this.#promptTokens += promptTokens
        this.#cachedTokens += caching.cachedTokens
        timeToFirstToken.observe(seconds(timeToFirstTokenMs))
      } else if (interTokenMs !== undefined) interToken.observe(seconds(interTokenMs))
    }
    iterationTokens.observe(tokens)
    for (const sequence of finished) this.recordFinished(sequence)
  }

  recordFinished(sequence: FinishedSequence): void {
    const { reason, promptTokens, cachedTokens, outputTokens, maxTokens, preemptions } = sequence
    const { arrivedAtMs, scheduledAtMs, firstTokenAtMs, lastTokenAtMs, finishedAtMs } = sequence
    const histograms = this.#histograms
    this.#finished.set(reason, this.finishedWith(reason) + 1)
    histograms.promptTokens.observe(promptTokens)
    histograms.generationTokens.observe(outputTokens)
    if (maxTokens > 0) histograms.maxTokens.observe(maxTokens)
    histograms.preemptions.observe(preemptions)
    histograms.endToEnd.observe(seconds(finishedAtMs - arrivedAtMs))
    if (scheduledAtMs === undefined || firstTokenAtMs === undefined || lastTokenAtMs === undefined) return
    const decodeMs = lastTokenAtMs - firstTokenAtMs
    histograms.queue.observe(seconds(scheduledAtMs - arrivedAtMs))
    histograms.prefill.observe(seconds(firstTokenAtMs - scheduledAtMs))
    histograms.decode.observe(seconds(decodeMs))
    histograms.inference.observe(seconds(lastTokenAtMs - scheduledAtMs))
    histograms.timePerToken.observe(outputTokens > 1 ? seconds(decodeMs) / (outputTokens - 1) : 0)
    histograms.prefillComputedTokens.observe(promptTokens - cachedTokens)
  }

  /** A request whose sequences have all left: `n` counts once for all of them. */
  recordRequest(n: number, longestOutputTokens: number): void {
    this.#histograms.n.observe(n)
    this.#histograms.maxGenerationTokens.observe(longestOutputTokens)
  }

  /** Streams count once a chunk, other answers once a choice. */
  recordToolParser(
    mode: (typeof PARSER_MODES)[number],
    outcome: (typeof PARSER_OUTCOMES)[number],
    caller: (typeof PARSER_CALLERS)[number],
  ): void {
    const key = `${mode} ${outcome} ${caller}`
    this.#parserCalls.set(key, (this.#parserCalls.get(key) ?? 0) + 1)
  }

  finishedWith(reason: FinishReason): number {
    return this.#finished.get(reason) ?? 0
  }

  /** The page; without `engine` as a vLLM with its statistics switched off. */
  page(snapshot: EngineSnapshot, withEngine: boolean): string {
    const page = new Page(this.#config)
    page.processFamilies()
    if (withEngine) this.#engineFamilies(page, snapshot)
    return page.text()
  }

  #engineFamilies(page: Page, snapshot: EngineSnapshot): void {
    const { running, waiting, usedBlocks, blocks, preemptions, cacheQueriedTokens, cacheHitTokens } = snapshot
    const promptTokens = this.#promptTokens
    const cachedTokens = this.#cachedTokens
    const one = (value: number, labels: Labels = {}): Sample[] => [{ labels: page.engineLabels(labels), value }]
    const many = (label: string, values: Readonly<Record<string, number>>): Sample[] =>
      Object.entries(values).map(([key, value]) => ({ labels: page.engineLabels({ [label]: key }), value }))

    page.counter('vllm:estimated_flops_per_gpu', 'Estimated floating point operations per GPU.', one(0))
    page.counter('vllm:estimated_read_bytes_per_gpu', 'Estimated bytes read from memory per GPU.', one(0))
    page.counter('vllm:estimated_write_bytes_per_gpu', 'Estimated bytes written to memory per GPU.', one(0))
    page.gauge('vllm:num_requests_running', 'Requests in the running batch.', one(running))
    page.gauge('vllm:num_requests_waiting', 'Requests that wait to run.', one(waiting))
    page.gauge(
      'vllm:num_requests_waiting_by_reason',
      'Requests that wait to run, by what they wait for.',
      many('reason', { capacity: waiting, deferred: 0 }),
    )
    page.gauge(
      'vllm:engine_sleep_state',
      'Whether the engine is awake, and how deep it sleeps.',
      many('sleep_state', { awake: 1, weights_offloaded: 0, discard_all: 0 }),
    )
    page.gauge('vllm:kv_cache_usage_perc', 'Share of KV blocks in use, 0 to 1.', one(usedBlocks / blocks))
    page.counter('vllm:prefix_cache_queries', 'Tokens looked up in the prefix cache.', one(cacheQueriedTokens))
    page.counter('vllm:prefix_cache_hits', 'Tokens found in the prefix cache.', one(cacheHitTokens))
    page.counter('vllm:external_prefix_cache_queries', 'Tokens looked up through the KV connector.', one(0))
    page.counter('vllm:external_prefix_cache_hits', 'Tokens found through the KV connector.', one(0))
    page.counter('vllm:mm_cache_queries', 'Items looked up in the multi-modal cache.', one(0))
    page.counter('vllm:mm_cache_hits', 'Items found in the multi-modal cache.', one(0))
    page.counter('vllm:num_preemptions', 'Preemptions by the scheduler.', one(preemptions))
    page.counter('vllm:prompt_tokens', 'Prompt tokens processed.', one(promptTokens))
    const sources = {
      local_compute: promptTokens - cachedTokens,
      local_cache_hit: cachedTokens,
      external_kv_transfer: 0,
    }
    page.counter('vllm:prompt_tokens_by_source', 'Prompt tokens by where they came from.', many('source', sources))
    page.counter('vllm:prompt_tokens_cached', 'Prompt tokens that a cache supplied.', one(cachedTokens))
    const tiers = Object.fromEntries(CACHE_TIERS.map((tier) => [tier, tier === 'device' ? cacheHitTokens : 0]))
    page.counter('vllm:prompt_tokens_cached_by_source', 'Cached prompt tokens by cache tier.', many('source', tiers))
    page.counter('vllm:generation_tokens', 'Tokens generated.', one(this.#generationTokens))
    page.counter(
      'vllm:request_success',
      'Requests that ended, by how.',
      many('finished_reason', Object.fromEntries(this.#finished)),
    )
    page.counter(
      'vllm:admission_rejections',
      'Requests refused by a queue limit.',
      QUEUE_LIMITS.map((reason) => ({ labels: { model_name: this.#config.model, reason }, value: 0 })),
    )
    const histograms = this.#histograms
    page.histogram('vllm:request_prompt_tokens', 'Prompt tokens of a request.', histograms.promptTokens)
    page.histogram('vllm:request_generation_tokens', 'Tokens generated for a request.', histograms.generationTokens)
    page.histogram('vllm:iteration_tokens_total', 'Tokens of an engine step.', histograms.iterationTokens)
    page.histogram(
      'vllm:request_max_num_generation_tokens',
      'Most tokens generated for a choice of a request.',
      histograms.maxGenerationTokens,
    )
    page.histogram('vllm:request_params_n', 'The parameter n of a request.', histograms.n)
    page.histogram('vllm:request_params_max_tokens', 'The parameter max_tokens of a request.', histograms.maxTokens)
    page.histogram('vllm:time_to_first_token_seconds', 'Time to the first token.', histograms.timeToFirstToken)
    page.histogram('vllm:inter_token_latency_seconds', 'Time between two tokens.', histograms.interToken)
    page.histogram(
      'vllm:request_time_per_output_token_seconds',
      'Mean time between two tokens of a request.',
      histograms.timePerToken,
    )
    page.histogram('vllm:e2e_request_latency_seconds', 'Time from arrival to the end.', histograms.endToEnd)
    page.histogram('vllm:request_queue_time_seconds', 'Time spent waiting.', histograms.queue)
    page.histogram('vllm:request_inference_time_seconds', 'Time spent running.', histograms.inference)
    page.histogram('vllm:request_prefill_time_seconds', 'Time spent in prefill.', histograms.prefill)
    page.histogram('vllm:request_decode_time_seconds', 'Time spent in decode.', histograms.decode)
    page.histogram('vllm:request_num_preemptions', 'Preemptions of a request.', histograms.preemptions)
    page.histogram(
      'vllm:request_prefill_kv_computed_tokens',
      'Prompt tokens computed rather than cached.',
      histograms.prefillComputedTokens,
    )
    page.gauge('vllm:cache_config_info', 'The settings of the KV cache.', [
      { labels: cacheConfigLabels(this.#config), value: 1 },
    ])
    page.counter('vllm:tool_call_parser_invocations', 'Answers looked through for tool calls.', this.#parserSamples())
  }

  #parserSamples(): readonly Sample[] {
    return PARSER_MODES.flatMap((mode) =>
      PARSER_OUTCOMES.flatMap((outcome) =>
        PARSER_CALLERS.map((caller) => ({
          labels: { mode, model_name: this.#config.model, outcome, request_type: caller },
          value: this.#parserCalls.get(`${mode} ${outcome} ${caller}`) ?? 0,
        })),
      ),
    )
  }
}

class Page {
  readonly #lines: string[] = []
  readonly #engine: Labels
  readonly #createdSeconds: number

  constructor({ model, createdAtMs }: MetricsConfig) {
    this.#engine = { engine: '0', model_name: model }
    this.#createdSeconds = createdAtMs / 1000
  }

  engineLabels(more: Labels): Labels {
    return { ...this.#engine, ...more }
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

  histogram(name: string, help: string, { bounds, counts, sum }: Histogram): void {
    this.#head(name, 'histogram', help)
    let count = 0
    for (const [index, added] of counts.entries()) {
      count += added
      const bound = bounds[index]
      const le = bound === undefined ? '+Inf' : goFloat(bound)
      this.#sample(`${name}_bucket`, this.engineLabels({ le }), count)
    }
    this.#sample(`${name}_count`, this.#engine, count)
    this.#sample(`${name}_sum`, this.#engine, sum)
    this.#created(name, help, [{ labels: this.#engine, value: 0 }])
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

function seconds(ms: number): number {
  return Math.max(0, ms) / 1000
}

function escapeLabel(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('"', '\\"')
}

/** A float as prometheus_client spells it: `10.0`, `1.5`, `1.048576e+06`. */
export function goFloat(value: number): string {
  if (value >= 1e6) {
    const [mantissa = '', exponent = ''] = value.toExponential().split('e+')
    return `${mantissa}e+${exponent.padStart(2, '0')}`
  }
  return Number.isInteger(value) ? `${value}.0` : String(value)
}

/** Python's spelling of the KV cache's settings, as labels. */
function cacheConfigLabels({ blockSizeTokens, blocks, maxModelLen }: MetricsConfig): Labels {
  const tokens = blocks * blockSizeTokens
  return {
    _block_size_resolved: 'True',
    block_size: String(blockSizeTokens),
    cache_dtype: 'auto',
    cache_hit_alignment_tokens: 'None',
    effective_attention_block_size: String(blockSizeTokens),
    enable_mamba_shared_prefix_checkpoint: 'False',
    enable_prefix_caching: 'True',
    engine: '0',
    gpu_memory_utilization: '0.92',
    hash_block_size: 'None',
    is_attention_free: 'False',
    kv_cache_dtype_skip_layers: '[]',
    kv_cache_layout: 'None',
    kv_cache_max_concurrency: goFloat(tokens / maxModelLen),
    kv_cache_memory_bytes: 'None',
    kv_cache_size_tokens: String(tokens),
    kv_offloading_backend: 'native',
    kv_offloading_size: 'None',
    kv_sharing_fast_prefill: 'False',
    mamba_block_size: 'None',
    mamba_cache_dtype: 'auto',
    mamba_cache_mode: 'none',
    mamba_page_size_padded: 'None',
    mamba_ssm_cache_dtype: 'auto',
    num_cpu_blocks: 'None',
    num_gpu_blocks: String(blocks),
    num_gpu_blocks_override: 'None',
    prefix_cache_retention_interval: '0',
    prefix_caching_hash_algo: 'sha256_cbor',
    prefix_match_unit: 'None',
    replayssm_buffer_len: '16',
    skip_page_size_padded: 'None',
    sliding_window: 'None',
    swa_bounded_replay: 'True',
    use_kda_recoverssm: 'False',
    use_replayssm: 'False',
    user_specified_block_size: 'False',
  }
}
