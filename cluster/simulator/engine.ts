// The simulated engine: vLLM's continuous batching with a token budget, chunked prefill, a paged prefix cache and
// preemption by recomputation. It has no clock, no randomness and no I/O: the same calls give the same answers.
import { type BlockHasher, createBlockHasher, type Digest } from './block-hash.ts'
import { type BlockEvent, BlockPool } from './block-pool.ts'
import {
  type Emission,
  type FinishedSequence,
  type FinishReason,
  isDecoding,
  knownTokens,
  type Sequence,
  type SequenceRequest,
  tokensBetween,
  tokensToCompute,
} from './sequence.ts'
import { type StepTiming, type StepWork, stepDurationMs } from './timing.ts'

export type EngineConfig = {
  /** Sequences that may run at once. */
  readonly maxNumSeqs: number
  /** Tokens that one step may compute. */
  readonly maxNumBatchedTokens: number
  /** KV blocks; enough for the longest single request, or it would wait for ever. */
  readonly blocks: number
  readonly blockSizeTokens: number
  /** Pods with the same seed give the same block the same hash. */
  readonly hashSeed: string
  /** Whether steps tell of blocks stored and removed. */
  readonly kvEvents: boolean
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
}

type ScheduledSequence = {
  readonly sequence: Sequence
  readonly tokens: number
  /** Of the sequence when it was scheduled: one that was taken back since has nothing to say. */
  readonly preemptions: number
}

type Step = {
  readonly scheduled: readonly ScheduledSequence[]
  readonly prefillTokens: number
  readonly decodeSeqs: number
  readonly endsAtMs: number
}

/**
 * A sequence is in exactly one of `#waiting` and `#running`, and only running ones hold blocks. A step is `begin`, its
 * duration, then `end`: what is observed between the two is what an engine shows while its GPU works. As in vLLM, blocks
 * are findable from `begin` on: a second sequence of the same step shares what the first one is about to compute.
 */
export class Engine {
  readonly #config: EngineConfig
  readonly #hasher: BlockHasher
  readonly #pool: BlockPool
  readonly #sequences = new Map<string, Sequence>()
  #waiting: Sequence[] = []
  #running: Sequence[] = []
  #steps = 0
  #preemptions = 0
  #cacheQueriedTokens = 0
  #cacheHitTokens = 0
  #step: Step | undefined

  constructor(config: EngineConfig) {
    this.#config = config
    this.#hasher = createBlockHasher(config.blockSizeTokens, config.hashSeed)
    this.#pool = new BlockPool(config.blocks, config.kvEvents)
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
      outputTokenIds: [],
      promptHashes: this.#hasher.prompt(request.promptTokenIds, request.cacheSalt),
      outputHashes: [],
      computedTokens: 0,
      blocks: [],
      cachedBlocks: 0,
      cachedTokens: 0,
      createdTokens: 0,
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

  /**
   * Empties the prefix cache; false while running sequences hold blocks, unless `takeBack` sends those back to the queue
   * first. The next step tells of it, not this call: a pod without traffic says nothing.
   */
  resetPrefixCache(takeBack = false): boolean {
    while (takeBack && this.#running.length > 0) this.#preempt()
    return this.#pool.clear()
  }

  /** Begins a step and tells when it will end; undefined when there is nothing to do. A step must not be open. */
  begin(nowMs: number): number | undefined {
    if (this.#step) throw new Error('a step is open already')
    if (this.#sequences.size === 0) return undefined
    const scheduled: ScheduledSequence[] = []
    let budget = this.#config.maxNumBatchedTokens
    const schedule = (sequence: Sequence, tokens: number) => {
      scheduled.push({ sequence, tokens, preemptions: sequence.preemptions })
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
      if (!sequence || !this.#admit(sequence)) break
      const tokens = Math.min(tokensToCompute(sequence), budget)
      this.#hold(sequence, tokens)
      this.#waiting.shift()
      this.#running.push(sequence)
      sequence.scheduledAtMs ??= nowMs
      schedule(sequence, tokens)
    }
    const decodeSeqs = scheduled.filter(({ sequence }) => isDecoding(sequence)).length
    const prefillTokens = this.#config.maxNumBatchedTokens - budget - decodeSeqs
    const endsAtMs = nowMs + stepDurationMs(this.#config.timing, workOf(scheduled), this.#config.speed)
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
    for (const { sequence, tokens, preemptions } of step.scheduled) {
      // Aborted or taken back while the step ran.
      if (!this.#sequences.has(sequence.request.id) || sequence.preemptions !== preemptions) continue
      sequence.computedTokens += tokens
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
    const blockEvents = this.#pool.takeEvents()
    return { endedAtMs: endsAtMs, prefillTokens, decodeSeqs, emissions, finished, blockEvents }
  }

  snapshot(): EngineSnapshot {
    return {
      running: this.#running.length,
      waiting: this.#waiting.length,
      usedBlocks: this.#pool.used,
      cachedBlocks: this.#pool.cached,
      blocks: this.#config.blocks,
      steps: this.#steps,
      preemptions: this.#preemptions,
      cacheQueriedTokens: this.#cacheQueriedTokens,
      cacheHitTokens: this.#cacheHitTokens,
    }
  }

  #blocksFor(tokens: number): number {
    return Math.ceil(tokens / this.#config.blockSizeTokens)
  }

  /**
   * Gives a waiting sequence the blocks that it finds cached; false when the rest of it does not fit. That looks at all of
   * its tokens, not at its first chunk: half a prompt in memory helps nobody.
   */
  #admit(sequence: Sequence): boolean {
    const { request, preemptions } = sequence
    const { blockSizeTokens } = this.#config
    const known = knownTokens(sequence)
    // One token at least is computed, for the next one follows from it; and blocks are found whole or not at all.
    const most = request.ignoreCache ? 0 : Math.floor((known - 1) / blockSizeTokens)
    const hashes = this.#hashesOf(sequence, most)
    const found = this.#pool.find(hashes, most)
    const needed = this.#blocksFor(known) - found.length + this.#pool.freeAmong(found)
    if (needed > this.#pool.free) return false
    this.#pool.share(found)
    sequence.blocks = found
    sequence.cachedBlocks = found.length
    sequence.computedTokens = found.length * blockSizeTokens
    if (request.reportHits && found.length > 0) this.#announce(sequence, 0, found.length, hashes)
    if (preemptions === 0) {
      sequence.cachedTokens = sequence.computedTokens
      if (!request.ignoreCache) {
        this.#cacheQueriedTokens += known
        this.#cacheHitTokens += sequence.cachedTokens
      }
    }
    return true
  }

  /** Gives a running sequence the blocks for its next tokens; those that came last make room for those before them. */
  #makeRoom(sequence: Sequence, tokens: number): boolean {
    const blocks = this.#blocksFor(sequence.computedTokens + tokens)
    while (blocks - sequence.blocks.length > this.#pool.free) {
      if (this.#preempt() === sequence) return false
    }
    this.#hold(sequence, tokens)
    return true
  }

  /** Takes the blocks for the next tokens; those that will be full are findable at once. */
  #hold(sequence: Sequence, tokens: number): void {
    const { blocks, computedTokens, cachedBlocks } = sequence
    this.#pool.take(this.#blocksFor(computedTokens + tokens) - blocks.length, blocks)
    const full = Math.floor((computedTokens + tokens) / this.#config.blockSizeTokens)
    if (full <= cachedBlocks) return
    const hashes = this.#hashesOf(sequence, full)
    for (let index = cachedBlocks; index < full; index++) {
      this.#pool.cache(blocks[index] as number, hashes[index] as Digest)
    }
    sequence.cachedBlocks = full
    this.#announce(sequence, cachedBlocks, full, hashes)
  }

  #announce(sequence: Sequence, from: number, to: number, hashes: readonly Digest[]): void {
    if (!this.#pool.announces) return
    const { blockSizeTokens } = this.#config
    this.#pool.announce({
      type: 'stored',
      hashes: hashes.slice(from, to),
      parent: hashes[from - 1],
      tokenIds: tokensBetween(sequence, from * blockSizeTokens, to * blockSizeTokens),
      salt: from === 0 ? sequence.request.cacheSalt : undefined,
    })
  }

  /** The hashes of at least the first `blocks` blocks of a sequence, as far as their tokens are known. */
  #hashesOf(sequence: Sequence, blocks: number): readonly Digest[] {
    const { request, promptHashes, outputHashes } = sequence
    const { blockSizeTokens } = this.#config
    if (blocks <= promptHashes.length) return promptHashes
    for (let index = promptHashes.length + outputHashes.length; index < blocks; index++) {
      const parent = outputHashes.at(-1) ?? promptHashes.at(-1)
      const tokenIds = tokensBetween(sequence, index * blockSizeTokens, (index + 1) * blockSizeTokens)
      outputHashes.push(this.#hasher.block(parent, tokenIds, request.cacheSalt))
    }
    return [...promptHashes, ...outputHashes]
  }

  /** Sends the youngest running sequence back to the head of the queue. */
  #preempt(): Sequence {
    const victim = this.#running.pop() as Sequence
    this.#release(victim)
    victim.preemptions++
    this.#preemptions++
    this.#waiting.unshift(victim)
    return victim
  }

  #release(sequence: Sequence): void {
    this.#pool.release(sequence.blocks)
    sequence.blocks = []
    sequence.cachedBlocks = 0
    sequence.computedTokens = 0
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
      caching: { cachedTokens, createdTokens: sequence.createdTokens },
    }
  }

  #leave(sequence: Sequence, reason: FinishReason, nowMs: number): FinishedSequence {
    const { request, cachedTokens, outputTokenIds, preemptions } = sequence
    const { arrivedAtMs, scheduledAtMs, firstTokenAtMs, lastTokenAtMs } = sequence
    this.#release(sequence)
    this.#sequences.delete(request.id)
    return {
      id: request.id,
      reason,
      promptTokens: request.promptTokenIds.length,
      cachedTokens,
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
