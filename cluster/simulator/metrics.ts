// What a pod counts, folded from what its engines' steps return: the numbers behind /metrics.
import type { StepResult } from './engine.ts'
import type { FinishedSequence, FinishReason } from './sequence.ts'

export const FINISH_REASONS: readonly FinishReason[] = ['stop', 'length', 'abort', 'error', 'repetition']
export const PARSER_MODES = ['streaming', 'non_streaming'] as const
export const PARSER_OUTCOMES = ['tool_call', 'no_tool_call'] as const
export const PARSER_CALLERS = ['chat_completions', 'responses', 'other'] as const

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

export class Histogram {
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

/** Of one rank. */
export class RankMetrics {
  readonly #finished = new Map<FinishReason, number>(FINISH_REASONS.map((reason) => [reason, 0]))
  readonly histograms
  #promptTokens = 0
  #cachedTokens = 0
  #offloadedTokens = 0
  #generationTokens = 0
  #left = 0

  constructor(maxModelLen: number) {
    const tokens = tokenBuckets(maxModelLen)
    this.histograms = {
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
    const { iterationTokens, timeToFirstToken, interToken } = this.histograms
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
        this.#offloadedTokens += caching.offloadedTokens
        timeToFirstToken.observe(seconds(timeToFirstTokenMs))
      } else if (interTokenMs !== undefined) interToken.observe(seconds(interTokenMs))
    }
    iterationTokens.observe(tokens)
    for (const sequence of finished) this.recordFinished(sequence)
  }

  recordFinished(sequence: FinishedSequence): void {
    const { reason, promptTokens, cachedTokens, outputTokens, maxTokens, preemptions } = sequence
    const { arrivedAtMs, scheduledAtMs, firstTokenAtMs, lastTokenAtMs, finishedAtMs } = sequence
    const histograms = this.histograms
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
    this.histograms.n.observe(n)
    this.histograms.maxGenerationTokens.observe(longestOutputTokens)
  }

  /** A sequence whose client went away: no series tells of it. */
  recordLeft(): void {
    this.#left++
  }

  get left(): number {
    return this.#left
  }

  finishedWith(reason: FinishReason): number {
    return this.#finished.get(reason) ?? 0
  }

  get promptTokens(): number {
    return this.#promptTokens
  }

  get cachedTokens(): number {
    return this.#cachedTokens
  }

  get offloadedTokens(): number {
    return this.#offloadedTokens
  }

  get generationTokens(): number {
    return this.#generationTokens
  }
}

export const QUEUE_LIMITS = ['max_num_queued_reqs', 'max_num_queued_tokens'] as const
export type QueueLimit = (typeof QUEUE_LIMITS)[number]

/** Answers that were looked through for tool calls, by mode, outcome and caller. */
export class ToolParserCalls {
  readonly #calls = new Map<string, number>()

  /** Streams count once a chunk, other answers once a choice. */
  record(
    mode: (typeof PARSER_MODES)[number],
    outcome: (typeof PARSER_OUTCOMES)[number],
    caller: (typeof PARSER_CALLERS)[number],
  ): void {
    const key = `${mode} ${outcome} ${caller}`
    this.#calls.set(key, (this.#calls.get(key) ?? 0) + 1)
  }

  count(mode: string, outcome: string, caller: string): number {
    return this.#calls.get(`${mode} ${outcome} ${caller}`) ?? 0
  }
}

function seconds(ms: number): number {
  return Math.max(0, ms) / 1000
}
