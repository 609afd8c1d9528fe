// One data-parallel rank of a pod: an engine of its own, with what drives it, counts what it does and publishes its events.
// A pod without data parallelism has one.
import { createDriver, type Driver } from './driver.ts'
import { Engine, type EngineConfig, type EngineSnapshot } from './engine.ts'
import type { BatchFate, KvPublisher } from './kv-publisher.ts'
import { RankMetrics } from './metrics.ts'
import type { Emission, FinishedSequence } from './sequence.ts'
import type { PauseMode } from './sleep.ts'

export type Rank = {
  readonly index: number
  readonly engine: Engine
  readonly metrics: RankMetrics
  readonly driver: Driver
  /** Whom to tell of a sequence's tokens, by the sequence's id. */
  readonly listeners: Map<string, (emission: Emission) => void>
  /** Where its KV events go; undefined when they are off. */
  readonly publisher: () => KvPublisher | undefined
  readonly publishTo: (publisher: KvPublisher) => void
  /** As of the end of the last step: what vLLM's gauges tell, which nothing but a step refreshes. */
  readonly told: () => EngineSnapshot
  /** Ends one sequence, and tells its listener. */
  readonly abort: (id: string) => void
  /** Ends what is in flight without a word: whoever listened is gone. */
  readonly drop: () => void
  /** Begins no request more; resolves when nothing is worked on. */
  readonly pause: (mode: PauseMode) => Promise<void>
  readonly resume: () => void
}

export type RankDeps = {
  readonly nowMs: () => number
  /** Told of the engine as each step leaves it. */
  readonly onStep: (snapshot: EngineSnapshot) => void
  /** What becomes of the next batch of events. */
  readonly fateOfEvents: () => BatchFate
}

export function createRank(index: number, config: EngineConfig, maxModelLen: number, deps: RankDeps): Rank {
  const { nowMs } = deps
  const engine = new Engine(config)
  const metrics = new RankMetrics(maxModelLen)
  const listeners = new Map<string, (emission: Emission) => void>()
  let told = engine.snapshot()
  const idleWaiters: (() => void)[] = []
  let publisher: KvPublisher | undefined
  const driver = createDriver(engine, {
    nowMs,
    onStep: (result) => {
      metrics.recordStep(result)
      told = engine.snapshot()
      deps.onStep(told)
      if (result.blockEvents.length > 0) publisher?.publish(result.blockEvents, deps.fateOfEvents())
      for (const emission of result.emissions) listeners.get(emission.id)?.(emission)
      if (idleWaiters.length > 0 && engine.snapshot().running === 0) for (const go of idleWaiters.splice(0)) go()
    },
  })
  const abort = (id: string) => {
    const atMs = nowMs()
    const listener = listeners.get(id)
    const finished = engine.abort(id, atMs)
    if (!finished) return
    metrics.recordFinished(finished)
    listener?.(abortion(finished, atMs))
  }
  return {
    index,
    engine,
    metrics,
    driver,
    listeners,
    publisher: () => publisher,
    publishTo: (opened) => {
      publisher = opened
    },
    told: () => told,
    abort,
    drop: () => {
      listeners.clear()
      for (const _ of engine.abortAll(nowMs())) metrics.recordLeft()
    },
    pause: async (mode) => {
      if (mode === 'abort') for (const id of [...listeners.keys()]) abort(id)
      engine.pause(mode === 'keep' ? 'all' : 'new')
      if (engine.snapshot().running > 0 && mode === 'wait')
        await new Promise<void>((resolve) => idleWaiters.push(resolve))
    },
    resume: () => {
      engine.pause('none')
      driver.wake()
    },
  }
}

/** Queues of a rank with full KV cache move slowly: from half full on, each one waiting weighs up to so much more. */
const FULL_CACHE_WEIGHT = 6
const CACHE_IS_HALF_FULL = 0.5

/**
 * The rank for a new sequence: the least loaded one, as vLLM's `DPLBAsyncMPClient.get_core_engine_for_request` counts it,
 * and of equals the first from a place that moves on, so that an idle pod's ranks are used in turn.
 */
export function leastLoaded(ranks: readonly Rank[], from: number): Rank {
  let best = ranks[from % ranks.length] as Rank
  let least = Number.POSITIVE_INFINITY
  for (let offset = 0; offset < ranks.length; offset++) {
    const rank = ranks[(from + offset) % ranks.length] as Rank
    const { waiting, running, usedBlocks, blocks } = rank.engine.snapshot()
    const pressure = Math.max(0, usedBlocks / blocks - CACHE_IS_HALF_FULL)
    const load = waiting + running + waiting * FULL_CACHE_WEIGHT * pressure
    if (load >= least) continue
    least = load
    best = rank
  }
  return best
}

/** What an engine says last of a sequence that it was told to end. */
function abortion({ id, promptTokens, cachedTokens, offloadedTokens }: FinishedSequence, atMs: number): Emission {
  return {
    id,
    utterance: { tokenId: 0, text: '', finish: { reason: 'abort', stopReason: null } },
    isToken: false,
    atMs,
    timeToFirstTokenMs: undefined,
    interTokenMs: undefined,
    promptTokens,
    caching: { cachedTokens, offloadedTokens, createdTokens: 0 },
  }
}
