// Fits the constants of a preset to a recording: the recorded requests run through the very engine that the pods use, and
// its constants are moved until it takes as long as the real one did.
import { UserError } from '../user-error.ts'
import {
  type Comparison,
  compare,
  comparisonTable,
  ERROR_MAX,
  errorsInWords,
  errorsOf,
  kindsTooFarOff,
  LEAST_MS,
  median,
  medians,
  type Times,
} from './comparison.ts'
import { Engine } from './engine.ts'
import { minimize } from './minimize.ts'
import { promptTokenIds, type RecordedRequest, type Recording } from './recording.ts'
import type { SequenceRequest } from './sequence.ts'
import { requestDurationMs, type StepTiming, type Timing } from './timing.ts'

export type Fitted = {
  readonly timing: Timing
  /** Of the half of the recording that was not fitted to. */
  readonly held: Comparison
  /** Of the same half, by kind of episode: what is off to either side shows here, where medians over all hide it. */
  readonly heldByKind: ReadonlyMap<string, Comparison>
  /** Constants that nothing in the recording depends on: they are 0. */
  readonly untold: readonly string[]
  /** In words, for whoever ran the fit. */
  readonly report: string
}

const EVALUATIONS_MAX = 250
/** Each begins anew where the one before it ended: a simplex that has collapsed moves on. */
const SEARCHES = 2
/** Nothing depends on a constant without which times are no further off than by this share more. */
const UNTOLD_ERROR = 0.001

/**
 * Fits to every other round of episodes, and compares with the rest. The weights' own time is a part of the overhead:
 * no request tells them apart. Throws UserError when either half has no request to compare.
 */
export function fitRecording(recording: Recording): Fitted {
  const rounds = roundsOf(recording.requests)
  const fitted = prepare(rounds.filter((_, index) => index % 2 === 0).flat())
  const held = prepare(rounds.filter((_, index) => index % 2 === 1).flat())
  if (fitted.length === 0 || held.length === 0) {
    throw new UserError(
      'the recording is too short to fit to one half and compare with the other: it needs each kind of episode twice, with answers of two tokens or more; record for longer',
    )
  }
  const kinds = [...indexesByKind(fitted).values()]
  const loss = (logs: readonly number[]) => {
    const simulated = simulate(recording, fitted, timingOf(logs))
    return meanError(fitted, simulated) + medianError(kinds, fitted, simulated)
  }
  let at = firstGuess(fitted)
  for (let search = 0; search < SEARCHES; search++) at = minimize(loss, at, EVALUATIONS_MAX).at
  const { told, untold } = withoutUntold(loss, at)
  const timing = timingOf(told)
  const near = compare(timesOf(fitted), simulate(recording, fitted, timing))
  const simulated = simulate(recording, held, timing)
  const heldByKind = new Map(
    [...indexesByKind(held)].map(([kind, indexes]) => [
      kind,
      compare(
        indexes.map((index) => (held[index] as Prepared).times),
        indexes.map((index) => simulated[index] as Times),
      ),
    ]),
  )
  const result = { timing, held: compare(timesOf(held), simulated), heldByKind, untold }
  return { ...result, report: reportOf(recording, near, result) }
}

function timesOf(requests: readonly Prepared[]): readonly Times[] {
  return requests.map(({ times }) => times)
}

function indexesByKind(requests: readonly Prepared[]): ReadonlyMap<string, readonly number[]> {
  return Map.groupBy(requests.keys(), (index) => (requests[index] as Prepared).recorded.kind)
}

/** Takes out, one after the other, the constants that nothing is lost without. */
function withoutUntold(
  loss: (logs: readonly number[]) => number,
  at: readonly number[],
): { readonly told: readonly number[]; readonly untold: readonly string[] } {
  const lossMax = loss(at) + UNTOLD_ERROR
  let told = at
  const untold = CONSTANTS.filter((_, index) => {
    const without = told.with(index, Number.NEGATIVE_INFINITY)
    if (!(loss(without) <= lossMax)) return false
    told = without
    return true
  })
  return { told, untold }
}

/** The text of a preset file. */
export function presetText({ head }: Recording, { timing, held, heldByKind }: Fitted, source: string): string {
  const yaml = (values: Readonly<Record<string, number>>) =>
    Object.entries(values).map(([name, value]) => `  ${name}: ${Number(value.toPrecision(4))}`)
  return `${[
    `# Fitted to ${source.split('/').at(-1)}: ${head.engine}, model ${head.model}.`,
    `# On the half that it was not fitted to: ${errorsInWords(held)}.`,
    ...kindsTooFarOff(heldByKind).map((kind) => `# ${kind}`),
    'step:',
    ...yaml(timing.step),
    'request:',
    ...yaml(timing.request),
    `kvCacheTokens: ${head.kvCacheTokens}`,
    // An engine whose blocks were set by hand may promise more than they hold.
    `maxModelLen: ${Math.min(head.maxModelLen, head.kvCacheTokens - (head.kvCacheTokens % head.blockSize))}`,
    `maxNumSeqs: ${head.maxNumSeqs}`,
    `maxNumBatchedTokens: ${head.maxNumBatchedTokens}`,
    `blockSize: ${head.blockSize}`,
  ].join('\n')}\n`
}

/** Episodes in rounds: each begins where the first kind comes again. */
function roundsOf(requests: readonly RecordedRequest[]): readonly (readonly RecordedRequest[])[] {
  const kindOf = new Map(requests.map(({ episode, kind }) => [episode, kind]))
  const kinds = [...kindOf.values()]
  // The length of a round is the shortest after which all kinds repeat.
  let length = 1
  while (length < kinds.length && kinds.some((kind, index) => index >= length && kind !== kinds[index - length]))
    length++
  const places = new Map([...kindOf.keys()].map((episode, index) => [episode, Math.floor(index / length)]))
  const rounds: RecordedRequest[][] = []
  for (const request of requests) {
    const round = places.get(request.episode) as number
    rounds[round] ??= []
    rounds[round].push(request)
  }
  return rounds
}

type Prepared = {
  readonly recorded: RecordedRequest
  readonly tokenIds: readonly number[]
  readonly times: Times
}

/** Token ids are made once: every evaluation uses them. Of one token there is nothing between tokens to compare. */
function prepare(requests: readonly RecordedRequest[]): readonly Prepared[] {
  return requests
    .filter(({ outputTokens }) => outputTokens > 1)
    .map((recorded) => ({
      recorded,
      tokenIds: promptTokenIds(recorded.prompt),
      times: {
        firstTokenMs: Math.max(recorded.firstTokenMs, LEAST_MS),
        interTokenMs: Math.max((recorded.lastTokenMs - recorded.firstTokenMs) / (recorded.outputTokens - 1), LEAST_MS),
      },
    }))
}

/** What the engine with these constants takes for each request, episode by episode, each with an idle engine. */
function simulate({ head }: Recording, requests: readonly Prepared[], timing: Timing): readonly Times[] {
  const engine = new Engine({
    maxNumSeqs: head.maxNumSeqs,
    maxNumBatchedTokens: head.maxNumBatchedTokens,
    policy: 'fcfs',
    maxLoras: 0,
    blocks: Math.floor(head.kvCacheTokens / head.blockSize),
    blockSizeTokens: head.blockSize,
    hashSeed: '0',
    kvEvents: false,
    timing: timing.step,
    speed: 1,
  })
  const seen = requests.map(() => ({ firstAtMs: 0, lastAtMs: 0 }))
  const episodes = Map.groupBy(requests.keys(), (index) => (requests[index] as Prepared).recorded.episode)
  for (const indexes of episodes.values()) {
    const arrivals = indexes
      .map((index) => {
        const { recorded, tokenIds } = requests[index] as Prepared
        return { index, tokenIds, atMs: recorded.sentAtMs + requestDurationMs(timing.request, tokenIds.length, 1) }
      })
      .sort((a, b) => a.atMs - b.atMs)
    runEpisode(engine, arrivals, requests, (index, atMs) => {
      const times = seen[index] as { firstAtMs: number; lastAtMs: number }
      times.firstAtMs ||= atMs
      times.lastAtMs = atMs
    })
  }
  return requests.map(({ recorded }, index) => {
    const { firstAtMs, lastAtMs } = seen[index] as { firstAtMs: number; lastAtMs: number }
    return {
      firstTokenMs: firstAtMs - recorded.sentAtMs,
      interTokenMs: (lastAtMs - firstAtMs) / (recorded.outputTokens - 1),
    }
  })
}

type Arrival = { readonly index: number; readonly tokenIds: readonly number[]; readonly atMs: number }

/** Virtual time: from step to step, and over idle times at once. */
function runEpisode(
  engine: Engine,
  arrivals: readonly Arrival[],
  requests: readonly Prepared[],
  onToken: (index: number, atMs: number) => void,
): void {
  let next = 0
  let nowMs = 0
  const admitUntil = (atMs: number) => {
    for (; next < arrivals.length && (arrivals[next] as Arrival).atMs <= atMs; next++) {
      const { index, tokenIds, atMs: arrivedAtMs } = arrivals[next] as Arrival
      engine.add(sequenceOf(index, tokenIds, (requests[index] as Prepared).recorded.outputTokens), arrivedAtMs)
    }
  }
  for (;;) {
    admitUntil(nowMs)
    const endsAtMs = engine.begin(nowMs)
    if (endsAtMs === undefined) {
      if (next === arrivals.length) return
      nowMs = (arrivals[next] as Arrival).atMs
      continue
    }
    admitUntil(endsAtMs)
    for (const { id, atMs } of engine.end().emissions) onToken(Number(id), atMs)
    nowMs = endsAtMs
  }
}

function sequenceOf(index: number, promptTokenIds: readonly number[], maxTokens: number): SequenceRequest {
  return {
    id: String(index),
    promptTokenIds,
    maxTokens,
    speak: (isLast) => ({
      tokenId: 1,
      text: '',
      finish: isLast ? { reason: 'length', stopReason: null } : undefined,
    }),
  }
}

/** How far off a request is, on average, as a ratio's logarithm: a request that stood still for once counts no more. */
function meanError(requests: readonly Prepared[], simulated: readonly Times[]): number {
  let sum = 0
  for (const [index, { times }] of requests.entries()) {
    const { firstTokenMs, interTokenMs } = simulated[index] as Times
    sum += Math.abs(Math.log(firstTokenMs / times.firstTokenMs))
    sum += Math.abs(Math.log(interTokenMs / times.interTokenMs))
  }
  return sum / requests.length
}

/** How far off the medians of each kind are, on average: what most requests saw, whatever the slowest of them met. */
function medianError(
  kinds: readonly (readonly number[])[],
  requests: readonly Prepared[],
  simulated: readonly Times[],
): number {
  let sum = 0
  for (const indexes of kinds) {
    const recorded = medians(indexes.map((index) => (requests[index] as Prepared).times))
    const ours = medians(indexes.map((index) => simulated[index] as Times))
    sum += Math.abs(Math.log(ours.firstTokenMs / recorded.firstTokenMs))
    sum += Math.abs(Math.log(ours.interTokenMs / recorded.interTokenMs))
  }
  return sum / kinds.length
}

/** The constants in the order in which the search moves them. */
const CONSTANTS = [
  'overheadMs',
  'perSeqMs',
  'perTokenMs',
  'perContextTokenMs',
  'perAttentionPairMs',
  'perRequestMs',
  'perPromptTokenMs',
]

/** The search moves logarithms, for no constant is negative and their sizes differ by a million. */
function timingOf(logs: readonly number[]): Timing {
  const [overheadMs, perSeqMs, perTokenMs, perContextTokenMs, perAttentionPairMs, perRequestMs, perPromptTokenMs] =
    logs.map(Math.exp) as [number, number, number, number, number, number, number]
  const step: StepTiming = {
    overheadMs,
    perSeqMs,
    weightsMs: 0,
    expertSpread: 1,
    perContextTokenMs,
    perTokenMs,
    perAttentionPairMs,
  }
  return { step, request: { perRequestMs, perPromptTokenMs } }
}

/** From requests that were alone: what a decode step takes, and what a prompt's tokens add. */
function firstGuess(requests: readonly Prepared[]): readonly number[] {
  const alone = requests.filter(({ recorded }) => recorded.kind === 'alone')
  const known = alone.length >= 2 ? alone : requests
  const stepMs = median(known.map(({ times }) => times.interTokenMs))
  const byLength = [...known].sort((a, b) => a.tokenIds.length - b.tokenIds.length)
  const half = Math.ceil(byLength.length / 2)
  const short = byLength.slice(0, half)
  const long = byLength.slice(-half)
  const lengths = (of: readonly Prepared[]) => median(of.map(({ tokenIds }) => tokenIds.length))
  const firsts = (of: readonly Prepared[]) => median(of.map(({ times }) => times.firstTokenMs))
  const perTokenMs = Math.max((firsts(long) - firsts(short)) / Math.max(1, lengths(long) - lengths(short)), 1e-4)
  const perRequestMs = Math.max(firsts(short) - stepMs - perTokenMs * lengths(short), stepMs / 10)
  const overheadMs = Math.max(stepMs, 1e-3)
  const guesses = [
    overheadMs,
    overheadMs / 20,
    perTokenMs / 2,
    overheadMs / 10_000,
    perTokenMs / 10_000,
    perRequestMs,
    perTokenMs / 2,
  ]
  return guesses.map(Math.log)
}

function reportOf({ head }: Recording, near: Comparison, { held, heldByKind, untold }: Omit<Fitted, 'report'>): string {
  const isTooFar = Math.max(...errorsOf(held)) > ERROR_MAX
  return [
    `${head.engine}, model ${head.model}: fitted to ${near.requests} requests, compared with ${held.requests} others, by medians`,
    ...comparisonTable([
      ['fitted to', near],
      ['compared with', held],
      ...Array.from(heldByKind, ([kind, comparison]) => [`  ${kind}`, comparison] as const),
    ]),
    ...kindsTooFarOff(heldByKind),
    ...(untold.length === 0 ? [] : [`Nothing that was recorded depends on ${untold.join(', ')}: 0.`]),
    `Medians: ${errorsInWords(held)}.`,
    ...(isTooFar
      ? [`That is more than ${ERROR_MAX * 100} % off: record for longer, on a machine with nothing else to do.`]
      : []),
  ].join('\n')
}
