// What the engine's tests share: sequences that say given tokens, and an engine stepped until it is idle.
import type { Engine, EngineConfig, StepResult } from '../../../cluster/simulator/engine.ts'
import type { BatchOptions } from '../../../cluster/simulator/kv-events.ts'
import { PRESET_DEFAULT, presetNamed } from '../../../cluster/simulator/preset.ts'
import type { Emission, SequenceRequest } from '../../../cluster/simulator/sequence.ts'

/** As the captures were taken: blocks of 32, PYTHONHASHSEED 0. */
export const RECORDED_CONFIG: EngineConfig = {
  maxNumSeqs: 16,
  maxNumBatchedTokens: 2048,
  policy: 'fcfs',
  maxLoras: 1,
  blocks: 32_768,
  blockSizeTokens: 32,
  hashSeed: '0',
  kvEvents: true,
  timing: presetNamed(PRESET_DEFAULT).timing.step,
  speed: 0,
}

export const RECORDED_BATCHES: BatchOptions = { blockSizeTokens: 32, rank: 0, form: 'map', hashes: 'int' }

/** `count` whole numbers from `from` on. */
export function range(from: number, count: number): number[] {
  return Array.from({ length: count }, (_, index) => from + index)
}

let requests = 0

/** Says the given tokens; 1 where none are left. */
export function request(
  promptTokenIds: readonly number[],
  maxTokens = 1,
  more: Partial<SequenceRequest> = {},
  says: readonly number[] = [],
): SequenceRequest {
  let said = 0
  return {
    id: `r${requests++}`,
    promptTokenIds,
    maxTokens,
    ...more,
    speak: (isLast) => ({
      tokenId: says[said++] ?? 1,
      text: '',
      finish: isLast ? { reason: 'length', stopReason: null } : undefined,
    }),
  }
}

/** Steps until there is nothing left to do. */
export function drain(engine: Engine): StepResult[] {
  const steps: StepResult[] = []
  while (engine.begin(0) !== undefined) steps.push(engine.end())
  return steps
}

/** Serves one request after the other; each one's first token. */
export function serve(engine: Engine, ...served: readonly SequenceRequest[]): Emission[] {
  return served.flatMap((one) => {
    engine.add(one, 0)
    return drain(engine)
      .flatMap(({ emissions }) => emissions)
      .filter(({ timeToFirstTokenMs }) => timeToFirstTokenMs !== undefined)
  })
}

export const cachedTokens = (emissions: readonly Emission[]) => emissions.map(({ caching }) => caching.cachedTokens)
