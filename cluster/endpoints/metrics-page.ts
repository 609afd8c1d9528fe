// What a vLLM /metrics page says, read without parsing the other nine tenths of it: one regular expression finds the
// lines that matter, and only those are taken apart. Whatever a page lacks stays undefined, and no page makes it throw.

/** Totals of a histogram in seconds; `sum / count` is the mean since the engine started. */
export type DurationTotals = { readonly sum: number; readonly count: number }

/** Adapters by name, as the engine last reported them. */
export type LoraAdapters = {
  readonly running: readonly string[]
  readonly waiting: readonly string[]
  /** How many may run at once. */
  readonly max: number | undefined
}

/**
 * One engine process. Its data-parallel ranks are added up, `kvUsage` is their mean. A member is undefined when the page
 * does not have the series or has no usable number in it: missing is not zero.
 */
export type EngineMetrics = {
  readonly running: number | undefined
  readonly waiting: number | undefined
  /** Those of the waiting that wait for room, not for a KV transfer or an adapter. */
  readonly waitingForCapacity: number | undefined
  /** 0 to 1. */
  readonly kvUsage: number | undefined
  readonly kvCacheTokens: number | undefined
  readonly blockSizeTokens: number | undefined
  /** Engine steps so far: the heartbeat that grows while anything runs. */
  readonly steps: number | undefined
  readonly promptTokens: number | undefined
  readonly generationTokens: number | undefined
  /** Prompt tokens that were looked up in the prefix cache, and those found there. */
  readonly prefixCacheQueries: number | undefined
  readonly prefixCacheHits: number | undefined
  readonly preemptions: number | undefined
  /** Requests that ended in any way: the engine counts aborts and errors in as well. */
  readonly requestsFinished: number | undefined
  readonly ttft: DurationTotals | undefined
  readonly e2e: DurationTotals | undefined
  readonly lora: LoraAdapters | undefined
  /** Distinct `model_name` labels of the series above, in the page's order. */
  readonly modelNames: readonly string[] | undefined
}

/** Series whose values are added up, less the `vllm:` before the name. */
const SUM_OF_SERIES = {
  num_requests_running: 'running',
  num_requests_waiting: 'waiting',
  iteration_tokens_total_count: 'steps',
  prompt_tokens_total: 'promptTokens',
  generation_tokens_total: 'generationTokens',
  prefix_cache_queries_total: 'prefixCacheQueries',
  prefix_cache_hits_total: 'prefixCacheHits',
  num_preemptions_total: 'preemptions',
  request_success_total: 'requestsFinished',
  time_to_first_token_seconds_sum: 'ttftSum',
  time_to_first_token_seconds_count: 'ttftCount',
  e2e_request_latency_seconds_sum: 'e2eSum',
  e2e_request_latency_seconds_count: 'e2eCount',
} as const

type SumName = (typeof SUM_OF_SERIES)[keyof typeof SUM_OF_SERIES]

const SPECIAL_SERIES = [
  'num_requests_waiting_by_reason',
  'kv_cache_usage_perc',
  'cache_config_info',
  'lora_requests_info',
] as const

const SERIES = [...Object.keys(SUM_OF_SERIES), ...SPECIAL_SERIES]
const LINE_START = new RegExp(`^vllm:(${SERIES.join('|')})(?=[{ \\t])`, 'gm')

/** Reads a /metrics page in the Prometheus text format. Never throws. */
export function parseMetricsPage(page: Buffer): EngineMetrics {
  // One copy to a one-byte string pays: V8 searches strings faster than Node searches buffers.
  const text = page.toString('latin1')
  const sums: Partial<Record<SumName, number>> = {}
  const models = new Set<string>()
  let lastModel: string | undefined
  let waitingForCapacity: number | undefined
  let kvUsageSum = 0
  let kvUsageCount = 0
  let kvCacheTokens: number | undefined
  let blockSizeTokens: number | undefined
  let newestLora: { readonly labels: Labels; readonly seconds: number } | undefined

  for (const match of text.matchAll(LINE_START)) {
    // In multiline mode `^` also stands after a lone carriage return.
    if (match.index > 0 && text.charCodeAt(match.index - 1) !== LF) continue
    const series = match[1] as keyof typeof SUM_OF_SERIES | (typeof SPECIAL_SERIES)[number]
    const sample = readSample(text, match.index + match[0].length)
    if (sample === undefined) continue
    const { labels, value } = sample

    const model = labels.get('model_name')
    if (model !== undefined && model !== lastModel) {
      models.add(labelText(model))
      lastModel = model
    }

    switch (series) {
      case 'cache_config_info': {
        const blockSize = positive(labels.get('block_size'))
        const tokens =
          positive(labels.get('kv_cache_size_tokens')) ?? product(positive(labels.get('num_gpu_blocks')), blockSize)
        if (tokens !== undefined) kvCacheTokens = sum(kvCacheTokens, tokens)
        blockSizeTokens ??= blockSize
        break
      }
      case 'num_requests_waiting_by_reason':
        if (labels.get('reason') === 'capacity') waitingForCapacity = sum(waitingForCapacity, value)
        break
      case 'kv_cache_usage_perc':
        kvUsageSum += Math.min(1, value)
        kvUsageCount++
        break
      case 'lora_requests_info':
        // The engine leaves a series behind for every combination it was in; the value is when.
        if (newestLora === undefined || value >= newestLora.seconds) newestLora = { labels, seconds: value }
        break
      default:
        sums[SUM_OF_SERIES[series]] = sum(sums[SUM_OF_SERIES[series]], value)
    }
  }

  return {
    running: sums.running,
    waiting: sums.waiting,
    waitingForCapacity,
    kvUsage: kvUsageCount > 0 ? kvUsageSum / kvUsageCount : undefined,
    kvCacheTokens,
    blockSizeTokens,
    steps: sums.steps,
    promptTokens: sums.promptTokens,
    generationTokens: sums.generationTokens,
    prefixCacheQueries: sums.prefixCacheQueries,
    prefixCacheHits: sums.prefixCacheHits,
    preemptions: sums.preemptions,
    requestsFinished: sums.requestsFinished,
    ttft: durationTotals(sums.ttftSum, sums.ttftCount),
    e2e: durationTotals(sums.e2eSum, sums.e2eCount),
    lora: newestLora && loraAdapters(newestLora.labels),
    modelNames: models.size > 0 ? [...models] : undefined,
  }
}

const TAB = 0x09
const LF = 0x0a
const CR = 0x0d
const SPACE = 0x20
const QUOTE = 0x22
const COMMA = 0x2c
const EQUALS = 0x3d
const BACKSLASH = 0x5c
const OPEN = 0x7b
const CLOSE = 0x7d

/** Values as they stand in the page: escaped, and UTF-8 read byte by byte. `labelText` makes text of one. */
type Labels = ReadonlyMap<string, string>
type Sample = { readonly labels: Labels; readonly value: number }

const NO_LABELS: Labels = new Map()

/**
 * The rest of a line after the series' name. Undefined when it is malformed, when its value is no count or duration
 * (NaN, infinite, negative), or when no newline ends it: a page cut off inside a number would show a smaller one.
 */
function readSample(text: string, afterName: number): Sample | undefined {
  const lineEnd = text.indexOf('\n', afterName)
  if (lineEnd === -1) return undefined
  let at = afterName
  let labels = NO_LABELS
  if (text.charCodeAt(at) === OPEN) {
    const read = new Map<string, string>()
    at = readLabels(text, at + 1, lineEnd, read)
    if (at === -1) return undefined
    labels = read
  }
  while (isBlank(text.charCodeAt(at))) at++
  const start = at
  while (at < lineEnd && !isBlank(text.charCodeAt(at)) && text.charCodeAt(at) !== CR) at++
  if (at === start) return undefined
  const value = Number(text.slice(start, at))
  return value >= 0 && value < Number.POSITIVE_INFINITY ? { labels, value } : undefined
}

/** Reads `name="value",…}` from `from` into `into`; the position after the brace, or -1 when it is malformed. */
function readLabels(text: string, from: number, lineEnd: number, into: Map<string, string>): number {
  let at = from
  while (at < lineEnd) {
    const code = text.charCodeAt(at)
    if (code === CLOSE) return at + 1
    if (code === COMMA || isBlank(code)) {
      at++
      continue
    }
    const nameStart = at
    while (at < lineEnd && text.charCodeAt(at) !== EQUALS) at++
    const name = text.slice(nameStart, at)
    if (text.charCodeAt(at + 1) !== QUOTE) return -1
    at += 2
    const valueStart = at
    while (at < lineEnd && text.charCodeAt(at) !== QUOTE) at += text.charCodeAt(at) === BACKSLASH ? 2 : 1
    if (at >= lineEnd) return -1
    into.set(name, text.slice(valueStart, at))
    at++
  }
  return -1
}

function isBlank(code: number): boolean {
  return code === SPACE || code === TAB
}

/** The text that a label's value stands for. A copy: a slice would keep the whole page in memory. */
function labelText(value: string): string {
  const decoded = Buffer.from(value, 'latin1').toString('utf8')
  if (!decoded.includes('\\')) return decoded
  return decoded.replace(/\\(.)/g, (whole, escaped) =>
    escaped === 'n' ? '\n' : escaped === '"' || escaped === '\\' ? escaped : whole,
  )
}

function loraAdapters(labels: Labels): LoraAdapters {
  return {
    running: names(labels.get('running_lora_adapters')),
    waiting: names(labels.get('waiting_lora_adapters')),
    max: positive(labels.get('max_lora')),
  }
}

function names(list: string | undefined): readonly string[] {
  return list ? labelText(list).split(',') : []
}

/** Undefined for the "None" that stands for null, too. */
function positive(value: string | undefined): number | undefined {
  const number = Number(value)
  return number > 0 && number < Number.POSITIVE_INFINITY ? number : undefined
}

function sum(a: number | undefined, b: number): number {
  return a === undefined ? b : a + b
}

function product(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? undefined : a * b
}

function durationTotals(sum: number | undefined, count: number | undefined): DurationTotals | undefined {
  return sum === undefined || count === undefined ? undefined : { sum, count }
}
