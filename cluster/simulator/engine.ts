// The simulated engine: vLLM's continuous batching with a token budget, chunked prefill, paged KV blocks and preemption
// by recomputation. It has no clock, no randomness and no I/O: the same calls give the same answers.
import { type StepTiming, stepDurationMs } from './timing.ts'

export type EngineConfig = {
  /** Sequences that may run at once. */
  readonly maxNumSeqs: number
  /** Tokens that one step may compute. */
  readonly maxNumBatchedTokens: number
  /** KV blocks; enough for the longest single request, or it would wait for ever. */
  readonly blocks: number
  readonly blockSizeTokens: number
  readonly timing: StepTiming
  readonly speed: number
}

export type FinishReason = 'stop' | 'length' | 'abort' | 'error' | 'repetition'

export type Finish = {
  readonly reason: FinishReason
  /** The stop string or stop token that ended it; null for the end of the text itself and for every other reason. */
  readonly stopReason: string | number | null
}

export type Utterance = {
  readonly tokenId: number
  /** What the token adds to the text: nothing while a character or a possible stop string is incomplete. */
  readonly text: string
  readonly finish: Finish | undefined
}

export type SequenceRequest = {
  readonly id: string
  readonly promptTokenIds: readonly number[]
  /** At least 1. */
  readonly maxTokens: number
  /** Says the next token; `isLast` when no more may follow, and then it must finish. */
  readonly speak: (isLast: boolean) => Utterance
}

export type Emission = {
  readonly id: string
  readonly utterance: Utterance
  readonly atMs: number
  /** Set on the first token: the time from arrival. */
  readonly timeToFirstTokenMs: number | undefined
  /** Set on every later token: the time from the token before. */
  readonly interTokenMs: number | undefined
  readonly promptTokens: number
}

/** What is known of a sequence when it has left the engine. Times that it never reached are undefined. */
export type FinishedSequence = {
  readonly id: string
  readonly reason: FinishReason
  readonly promptTokens: number
  readonly outputTokens: number
  readonly maxTokens: number
  readonly preemptions: number
  readonly arrivedAtMs: number
  readonly scheduledAtMs: number | undefined
  readonly firstTokenAtMs: number | undefined
  readonly lastTokenAtMs: number | undefined
  readonly finishedAtMs: number
}

export type StepResult = {
  readonly endedAtMs: number
  readonly prefillTokens: number
  readonly decodeSeqs: number
  readonly emissions: readonly Emission[]
  readonly finished: readonly FinishedSequence[]
}

export type EngineSnapshot = {
  readonly running: number
  readonly waiting: number
  readonly usedBlocks: number
  readonly blocks: number
  readonly steps: number
  readonly preemptions: number
}

type Sequence = {
  readonly request: SequenceRequest
  readonly arrivedAtMs: number
  scheduledAtMs: number | undefined
  firstTokenAtMs: number | undefined
  lastTokenAtMs: number | undefined
  outputTokens: number
  /** Tokens, prompt or output, whose keys and values are in the sequence's blocks. */
  computedTokens: number
  blocks: number
  preemptions: number
}

type ScheduledSequence = { readonly sequence: Sequence; readonly tokens: number }

type Step = {
  readonly scheduled: readonly ScheduledSequence[]
  readonly prefillTokens: number
  readonly decodeSeqs: number
  readonly endsAtMs: number
}

/**
 * A sequence is in exactly one of `#waiting` and `#running`; the blocks of all sequences add up to `#usedBlocks`, and
 * only running ones hold any. A step is `begin`, its duration, then `end`: what is observed between the two is what an
 * engine shows while its GPU works.
 */
export class Engine {
  readonly #config: EngineConfig
  readonly #sequences = new Map<string, Sequence>()
  #waiting: Sequence[] = []
  #running: Sequence[] = []
  #usedBlocks = 0
  #steps = 0
  #preemptions = 0
  #step: Step | undefined

  constructor(config: EngineConfig) {
    this.#config = config
  }

  /** Takes a request to the end of the queue. Its id must be new; prompt and output must fit the KV cache. */
  add(request: SequenceRequest, nowMs: number): void {
    if (this.#sequences.has(request.id)) throw new Error(`request ${request.id} is in the engine already`)
    const sequence: Sequence = {
      request,
      arrivedAtMs: nowMs,
      scheduledAtMs: undefined,
      firstTokenAtMs: undefined,
      lastTokenAtMs: undefined,
      outputTokens: 0,
      computedTokens: 0,
      blocks: 0,
      preemptions: 0,
    }
    this.#sequences.set(request.id, sequence)
    this.#waiting.push(sequence)
  }

  /** Drops a request and frees its blocks at once; undefined when it is not there (any more). */
  abort(id: string, nowMs: number, reason: 'abort' | 'error' = 'abort'): FinishedSequence | undefined {
    const sequence = this.#sequences.get(id)
    if (!sequence) return undefined
    this.#running = this.#running.filter((other) => other !== sequence)
    this.#waiting = this.#waiting.filter((other) => other !== sequence)
    return this.#leave(sequence, reason, nowMs)
  }

  /** Begins a step and tells when it will end; undefined when there is nothing to do. A step must not be open. */
  begin(nowMs: number): number | undefined {
    if (this.#step) throw new Error('a step is open already')
    if (this.#sequences.size === 0) return undefined
    const scheduled: ScheduledSequence[] = []
    let budget = this.#config.maxNumBatchedTokens
    const schedule = (sequence: Sequence, tokens: number) => {
      scheduled.push({ sequence, tokens })
      budget -= tokens
    }
    const preemptionsBefore = this.#preemptions
    for (let index = 0; index < this.#running.length && budget > 0; index++) {
      const sequence = this.#running[index] as Sequence
      const tokens = Math.min(tokensToCompute(sequence), budget)
      if (this.#makeRoom(sequence, tokens)) schedule(sequence, tokens)
    }
    // Blocks that a preemption freed belong to those that run: admitting now would take them away again.
    while (this.#preemptions === preemptionsBefore && budget > 0 && this.#running.length < this.#config.maxNumSeqs) {
      const sequence = this.#waiting[0]
      if (!sequence || !this.#fits(sequence)) break
      const tokens = Math.min(tokensToCompute(sequence), budget)
      this.#hold(sequence, this.#blocksFor(tokens))
      this.#waiting.shift()
      this.#running.push(sequence)
      sequence.scheduledAtMs ??= nowMs
      schedule(sequence, tokens)
    }
    const decodeSeqs = scheduled.filter(({ sequence }) => isDecoding(sequence)).length
    const prefillTokens = this.#config.maxNumBatchedTokens - budget - decodeSeqs
    const durationMs = stepDurationMs(this.#config.timing, { prefillTokens, decodeSeqs }, this.#config.speed)
    const endsAtMs = nowMs + durationMs
    this.#step = { scheduled, prefillTokens, decodeSeqs, endsAtMs }
    return endsAtMs
  }

  /** Ends the open step: every sequence whose tokens are all computed says its next one. */
  end(): StepResult {
    const step = this.#step
    if (!step) throw new Error('no step is open')
    this.#step = undefined
    this.#steps++
    const emissions: Emission[] = []
    const finished: FinishedSequence[] = []
    for (const { sequence, tokens } of step.scheduled) {
      // Aborted while the step ran.
      if (!this.#sequences.has(sequence.request.id)) continue
      sequence.computedTokens += tokens
      if (tokensToCompute(sequence) > 0) continue
      const emission = emit(sequence, step.endsAtMs)
      emissions.push(emission)
      const { finish } = emission.utterance
      if (finish) finished.push(this.#leave(sequence, finish.reason, step.endsAtMs))
    }
    if (finished.length > 0) {
      this.#running = this.#running.filter(({ request }) => this.#sequences.has(request.id))
    }
    const { prefillTokens, decodeSeqs, endsAtMs } = step
    return { endedAtMs: endsAtMs, prefillTokens, decodeSeqs, emissions, finished }
  }

  snapshot(): EngineSnapshot {
    return {
      running: this.#running.length,
      waiting: this.#waiting.length,
      usedBlocks: this.#usedBlocks,
      blocks: this.#config.blocks,
      steps: this.#steps,
      preemptions: this.#preemptions,
    }
  }

  #blocksFor(tokens: number): number {
    return Math.ceil(tokens / this.#config.blockSizeTokens)
  }

  /** Admission looks at the whole prompt, not at its first chunk: half a prompt in memory helps nobody. */
  #fits(sequence: Sequence): boolean {
    return this.#usedBlocks + this.#blocksFor(tokensToCompute(sequence)) <= this.#config.blocks
  }

  #hold(sequence: Sequence, blocks: number): void {
    this.#usedBlocks += blocks - sequence.blocks
    sequence.blocks = blocks
  }

  /** Gives a running sequence the blocks for its next tokens; those that came last make room for those before them. */
  #makeRoom(sequence: Sequence, tokens: number): boolean {
    const blocks = this.#blocksFor(sequence.computedTokens + tokens)
    while (this.#usedBlocks + blocks - sequence.blocks > this.#config.blocks) {
      const victim = this.#running.pop() as Sequence
      this.#hold(victim, 0)
      victim.computedTokens = 0
      victim.preemptions++
      this.#preemptions++
      this.#waiting.unshift(victim)
      if (victim === sequence) return false
    }
    this.#hold(sequence, blocks)
    return true
  }

  #leave(sequence: Sequence, reason: FinishReason, nowMs: number): FinishedSequence {
    const { request, outputTokens, preemptions, arrivedAtMs, scheduledAtMs, firstTokenAtMs, lastTokenAtMs } = sequence
    this.#hold(sequence, 0)
    this.#sequences.delete(request.id)
    return {
      id: request.id,
      reason,
      promptTokens: request.promptTokenIds.length,
      outputTokens,
      maxTokens: request.maxTokens,
      preemptions,
      arrivedAtMs,
      scheduledAtMs,
      firstTokenAtMs,
      lastTokenAtMs,
      finishedAtMs: nowMs,
    }
  }
}

/** Prefill, decode and recomputation after a preemption are one thing: tokens known less tokens computed. */
function tokensToCompute({ request, outputTokens, computedTokens }: Sequence): number {
  return request.promptTokenIds.length + outputTokens - computedTokens
}

function isDecoding(sequence: Sequence): boolean {
  return sequence.outputTokens > 0 && tokensToCompute(sequence) === 1
}

function emit(sequence: Sequence, atMs: number): Emission {
  const { request, arrivedAtMs, lastTokenAtMs } = sequence
  sequence.outputTokens++
  const utterance = request.speak(sequence.outputTokens >= request.maxTokens)
  sequence.firstTokenAtMs ??= atMs
  sequence.lastTokenAtMs = atMs
  return {
    id: request.id,
    utterance,
    atMs,
    timeToFirstTokenMs: lastTokenAtMs === undefined ? atMs - arrivedAtMs : undefined,
    interTokenMs: lastTokenAtMs === undefined ? undefined : atMs - lastTokenAtMs,
    promptTokens: request.promptTokenIds.length,
  }
}
