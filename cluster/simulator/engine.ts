// The simulated engine: vLLM's continuous batching with a token budget, chunked prefill, a paged prefix cache and
// preemption by recomputation. It has no clock, no randomness and no I/O: the same calls give the same answers.
import type { BlockEvent } from './block-pool.ts'
import { KvCache, type KvCacheConfig } from './kv-cache.ts'
import { enqueue, leastUrgent, requeue, type SchedulingPolicy } from './policy.ts'
import {
  type Emission,
  type FinishedSequence,
  type FinishReason,
  isDecoding,
  knownTokens,
  loraNames,
  newSequence,
  queuedTokens,
  type Sequence,
  type SequenceRequest,
  tokensToCompute,
} from './sequence.ts'
import { type StepTiming, type StepWork, stepDurationMs } from './timing.ts'

export type EngineConfig = KvCacheConfig & {
  /** Sequences that may run at once. */
  readonly maxNumSeqs: number
  /** Tokens that one step may compute. */
  readonly maxNumBatchedTokens: number
  /** Who is served first, and taken back last: who came first, or whose priority is lowest. */
  readonly policy: SchedulingPolicy
  /** Different adapters that one step may use. */
  readonly maxLoras: number
  readonly timing: StepTiming
  readonly speed: number
}

export type StepResult = {
  readonly endedAtMs: number
  readonly prefillTokens: number
  readonly decodeSeqs: number
  readonly emissions: readonly Emission[]
  readonly finished: readonly FinishedSequence[]
  /** What became of KV blocks since the step before, in order; empty without `kvEvents`. */
  readonly blockEvents: readonly BlockEvent[]
}

export type EngineSnapshot = {
  readonly running: number
  readonly waiting: number
  /** Those of the waiting that were passed over for another reason than room. */
  readonly deferred: number
  /** Prompt tokens of requests that have no token yet. */
  readonly queuedTokens: number
  /** Names of adapters whose requests have got a token and not their last. */
  readonly runningLoras: readonly string[]
  /** Blocks that running sequences hold. */
  readonly usedBlocks: number
  /** Blocks that the prefix cache can find, held or not. */
  readonly cachedBlocks: number
  readonly blocks: number
  readonly steps: number
  readonly preemptions: number
  /** Tokens looked up in the prefix cache, and those found, of sequences on their first admission. */
  readonly cacheQueriedTokens: number
  readonly cacheHitTokens: number
  /** The same of the host's memory: what the prefix cache did not have. */
  readonly offloadQueriedTokens: number
  readonly offloadHitTokens: number
}

type ScheduledSequence = {
  readonly sequence: Sequence
  readonly tokens: number
  /** Of the sequence when it was scheduled: one that was taken back since has nothing to say. */
  readonly preemptions: number
}

/** What is begun: everything, nothing that waits, or nothing at all. */
export type Pause = 'none' | 'new' | 'all'

type Step = {
  readonly scheduled: readonly ScheduledSequence[]
  readonly prefillTokens: number
  readonly decodeSeqs: number
  readonly endsAtMs: number
}

/**
 * A sequence is in exactly one of `#waiting`, `#loading` and `#running`, and waiting ones hold no blocks. A step is `begin`, its
 * duration, then `end`: what is observed between the two is what an engine shows while its GPU works. As in vLLM, blocks
 * are findable from `begin` on: a second sequence of the same step shares what the first one is about to compute.
 */
export class Engine {
  readonly #config: EngineConfig
  readonly #cache: KvCache
  readonly #sequences = new Map<string, Sequence>()
  #waiting: Sequence[] = []
  /** Those to which blocks are copied from the host's memory, by when that is done. */
  #loading: Sequence[] = []
  #running: Sequence[] = []
  #steps = 0
  #preemptions = 0
  #cacheQueriedTokens = 0
  #cacheHitTokens = 0
  #offloadQueriedTokens = 0
  #offloadHitTokens = 0
  #step: Step | undefined
  #pause: Pause = 'none'

  constructor(config: EngineConfig) {
    this.#config = config
    this.#cache = new KvCache(config)
  }

  /** Takes a request to the end of the queue. Its id must be new; prompt and output must fit the KV cache. */
  add(request: SequenceRequest, nowMs: number): void {
    if (this.#sequences.has(request.id)) throw new Error(`request ${request.id} is in the engine already`)
    const sequence = newSequence(request, nowMs, this.#cache.promptHashes(request))
    this.#sequences.set(request.id, sequence)
    enqueue(this.#waiting, sequence, this.#config.policy)
  }

  /** Drops a request and frees its blocks at once; undefined when it is not there (any more). */
  abort(id: string, nowMs: number, reason: 'abort' | 'error' = 'abort'): FinishedSequence | undefined {
    const sequence = this.#sequences.get(id)
    if (!sequence) return undefined
    this.#running = this.#running.filter((other) => other !== sequence)
    this.#waiting = this.#waiting.filter((other) => other !== sequence)
    this.#loading = this.#loading.filter((other) => other !== sequence)
    return this.#leave(sequence, reason, nowMs)
  }

  /** Drops every request, and frees their blocks at once. */
  abortAll(nowMs: number): readonly FinishedSequence[] {
    const all = [...this.#sequences.values()]
    this.#running = []
    this.#waiting = []
    this.#loading = []
    return all.map((sequence) => this.#leave(sequence, 'abort', nowMs))
  }

  /** Says what may be begun from the next step on. */
  pause(pause: Pause): void {
    this.#pause = pause
  }

  /**
   * Empties the prefix cache; false while running sequences hold blocks, unless `takeBack` sends those back to the queue
   * first. The next step tells of it, not this call: a pod without traffic says nothing.
   */
  resetPrefixCache(takeBack = false, offloaded = false): boolean {
    if (offloaded) this.#cache.clearOffloaded()
    while (takeBack && this.#running.length > 0) this.#preempt(this.#running.length - 1)
    return this.#cache.clear()
  }

  /**
   * Begins a step and tells when it will end; undefined when there is nothing to do. A step must not be open. `stretch`
   * makes it last so many times as long.
   */
  begin(nowMs: number, stretch = 1): number | undefined {
    if (this.#step) throw new Error('a step is open already')
    if (this.#pause === 'all' || this.#sequences.size === 0) return undefined
    const scheduled: ScheduledSequence[] = []
    let budget = this.#config.maxNumBatchedTokens
    const schedule = (sequence: Sequence, tokens: number) => {
      scheduled.push({ sequence, tokens, preemptions: sequence.preemptions })
      budget -= tokens
    }
    /** Takes back the least urgent of the running; gives its place. */
    const makeRoom = (): number => {
      const index = leastUrgent(this.#running, this.#config.policy)
      const victim = this.#preempt(index)
      const place = scheduled.findIndex(({ sequence }) => sequence === victim)
      for (const { tokens } of place < 0 ? [] : scheduled.splice(place, 1)) budget += tokens
      return index
    }
    const preemptionsBefore = this.#preemptions
    for (let index = 0; index < this.#running.length && budget > 0; index++) {
      const sequence = this.#running[index] as Sequence
      const tokens = Math.min(tokensToCompute(sequence), budget)
      while (this.#running[index] === sequence && !this.#cache.hasRoom(sequence, tokens)) {
        if (makeRoom() < index) index--
      }
      if (this.#running[index] !== sequence) break
      this.#cache.hold(sequence, tokens)
      schedule(sequence, tokens)
    }
    // Blocks that a preemption freed belong to those that run: admitting now would take them away again.
    if (this.#preemptions === preemptionsBefore && this.#pause === 'none') {
      const loras = new Set(scheduled.map(({ sequence }) => sequence.request.lora?.id))
      loras.delete(undefined)
      const hasSlot = () => budget > 0 && this.#running.length < this.#config.maxNumSeqs
      const run = (sequence: Sequence) => {
        const tokens = Math.min(tokensToCompute(sequence), budget)
        this.#cache.hold(sequence, tokens)
        this.#running.push(sequence)
        sequence.scheduledAtMs ??= nowMs
        schedule(sequence, tokens)
      }
      // Whoever holds blocks already comes before all others.
      while (hasSlot() && isLoaded(this.#loading[0], nowMs)) {
        const sequence = this.#loading[0] as Sequence
        const tokens = Math.min(tokensToCompute(sequence) + 1, budget)
        if (!this.#cache.hasRoom(sequence, tokens)) break
        this.#loading.shift()
        this.#cache.endLoad(sequence)
        run(sequence)
      }
      for (let place = 0; hasSlot(); ) {
        const sequence = this.#waiting[place]
        if (!sequence) break
        const lora = sequence.request.lora?.id
        sequence.isDeferred = lora !== undefined && loras.size >= this.#config.maxLoras && !loras.has(lora)
        if (sequence.isDeferred) {
          place++
          continue
        }
        if (!this.#admit(sequence, nowMs)) break
        this.#waiting.splice(place, 1)
        if (sequence.loadedAtMs !== undefined) {
          this.#loading.push(sequence)
          this.#loading.sort((a, b) => (a.loadedAtMs as number) - (b.loadedAtMs as number))
          continue
        }
        run(sequence)
        if (lora !== undefined) loras.add(lora)
      }
    }
    if (scheduled.length === 0) {
      // Whoever had to go made room for those that wait.
      return this.#preemptions > preemptionsBefore ? this.begin(nowMs, stretch) : this.#awaitLoad(nowMs)
    }
    const decodeSeqs = scheduled.filter(({ sequence }) => isDecoding(sequence)).length
    const prefillTokens = this.#config.maxNumBatchedTokens - budget - decodeSeqs
    const endsAtMs = nowMs + stretch * stepDurationMs(this.#config.timing, workOf(scheduled), this.#config.speed)
    this.#step = { scheduled, prefillTokens, decodeSeqs, endsAtMs }
    return endsAtMs
  }

  /** Ends the open step: every sequence whose tokens are all computed says its next one. */
  end(): StepResult {
    const step = this.#step
    if (!step) throw new Error('no step is open')
    this.#step = undefined
    if (step.scheduled.length > 0) this.#steps++
    const emissions: Emission[] = []
    const finished: FinishedSequence[] = []
    for (const { sequence, tokens, preemptions } of step.scheduled) {
      // Aborted or taken back while the step ran.
      if (!this.#sequences.has(sequence.request.id) || sequence.preemptions !== preemptions) continue
      sequence.computedTokens += tokens
      this.#cache.offload(sequence)
      if (tokensToCompute(sequence) > 0) continue
      const emission = this.#emit(sequence, step.endsAtMs)
      emissions.push(emission)
      const { finish } = emission.utterance
      if (finish) finished.push(this.#leave(sequence, finish.reason, step.endsAtMs))
    }
    if (finished.length > 0) {
      this.#running = this.#running.filter(({ request }) => this.#sequences.has(request.id))
    }
    const { prefillTokens, decodeSeqs, endsAtMs } = step
    const blockEvents = this.#cache.takeEvents()
    return { endedAtMs: endsAtMs, prefillTokens, decodeSeqs, emissions, finished, blockEvents }
  }

  snapshot(): EngineSnapshot {
    return {
      running: this.#running.length,
      waiting: this.#waiting.length + this.#loading.length,
      deferred: this.#waiting.reduce((count, { isDeferred }) => count + (isDeferred ? 1 : 0), this.#loading.length),
      queuedTokens: queuedTokens([this.#waiting, this.#loading, this.#running]),
      runningLoras: loraNames(this.#running),
      usedBlocks: this.#cache.usedBlocks,
      cachedBlocks: this.#cache.cachedBlocks,
      blocks: this.#config.blocks,
      steps: this.#steps,
      preemptions: this.#preemptions,
      cacheQueriedTokens: this.#cacheQueriedTokens,
      cacheHitTokens: this.#cacheHitTokens,
      offloadQueriedTokens: this.#offloadQueriedTokens,
      offloadHitTokens: this.#offloadHitTokens,
    }
  }

  /** Whether there was room for a waiting sequence; it holds what it found cached then. */
  #admit(sequence: Sequence, nowMs: number): boolean {
    if (!this.#cache.admit(sequence, nowMs)) return false
    if (sequence.preemptions > 0) return true
    const found = sequence.cachedBlocks * this.#config.blockSizeTokens
    sequence.offloadedTokens = sequence.computedTokens - found
    sequence.cachedTokens = sequence.computedTokens
    if (sequence.request.ignoreCache) return true
    this.#cacheQueriedTokens += knownTokens(sequence)
    this.#cacheHitTokens += found
    if (this.#config.offload) this.#offloadQueriedTokens += knownTokens(sequence) - found
    this.#offloadHitTokens += sequence.offloadedTokens
    return true
  }

  /** With nothing else to do: a step without work that lasts until the next copy is done. */
  #awaitLoad(nowMs: number): number | undefined {
    const doneAtMs = this.#loading[0]?.loadedAtMs
    if (doneAtMs === undefined || this.#pause !== 'none' || doneAtMs <= nowMs) return undefined
    this.#step = { scheduled: [], prefillTokens: 0, decodeSeqs: 0, endsAtMs: doneAtMs }
    return doneAtMs
  }

  /** Sends a running sequence back to the head of the queue. */
  #preempt(index: number): Sequence {
    const [victim] = this.#running.splice(index, 1) as [Sequence]
    this.#cache.release(victim)
    victim.preemptions++
    this.#preemptions++
    requeue(this.#waiting, victim, this.#config.policy)
    return victim
  }

  #emit(sequence: Sequence, atMs: number): Emission {
    const { request, arrivedAtMs, lastTokenAtMs, cachedTokens, outputTokenIds } = sequence
    const promptTokens = request.promptTokenIds.length
    if (lastTokenAtMs === undefined) {
      const cachedNow = Math.min(sequence.cachedBlocks * this.#config.blockSizeTokens, promptTokens)
      sequence.createdTokens = Math.max(0, cachedNow - cachedTokens)
    }
    const utterance = request.speak(outputTokenIds.length + 1 >= request.maxTokens)
    const isToken = request.isPooled !== true
    if (isToken) outputTokenIds.push(utterance.tokenId)
    sequence.firstTokenAtMs ??= atMs
    sequence.lastTokenAtMs = atMs
    return {
      id: request.id,
      utterance,
      isToken,
      atMs,
      timeToFirstTokenMs: lastTokenAtMs === undefined ? atMs - arrivedAtMs : undefined,
      interTokenMs: lastTokenAtMs === undefined ? undefined : atMs - lastTokenAtMs,
      promptTokens,
      caching: { cachedTokens, offloadedTokens: sequence.offloadedTokens, createdTokens: sequence.createdTokens },
    }
  }

  #leave(sequence: Sequence, reason: FinishReason, nowMs: number): FinishedSequence {
    const { request, cachedTokens, offloadedTokens, outputTokenIds, preemptions } = sequence
    const { arrivedAtMs, scheduledAtMs, firstTokenAtMs, lastTokenAtMs } = sequence
    this.#cache.release(sequence)
    this.#sequences.delete(request.id)
    return {
      id: request.id,
      reason,
      promptTokens: request.promptTokenIds.length,
      cachedTokens,
      offloadedTokens,
      outputTokens: outputTokenIds.length,
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

function isLoaded(sequence: Sequence | undefined, nowMs: number): boolean {
  return sequence?.loadedAtMs !== undefined && sequence.loadedAtMs <= nowMs
}

function workOf(scheduled: readonly ScheduledSequence[]): StepWork {
  let tokens = 0
  let contextTokens = 0
  let attentionPairs = 0
  for (const { sequence, tokens: own } of scheduled) {
    tokens += own
    contextTokens += sequence.computedTokens + own
    // The first of them attends to all before it and itself, each one after it to one more.
    attentionPairs += own * sequence.computedTokens + (own * (own + 1)) / 2
  }
  return { tokens, seqs: scheduled.length, contextTokens, attentionPairs }
}
