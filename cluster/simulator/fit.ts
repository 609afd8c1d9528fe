// Fits the constants of a preset to a recording: the recorded requests run through the very engine that the pods use, and
// its constants are moved until it takes as long as the real one did.
import { Engine } from './engine.ts'
import { minimize } from './minimize.ts'
import { promptTokenIds, type RecordedRequest, type Recording } from './recording.ts'
import type { SequenceRequest } from './sequence.ts'
import { requestDurationMs, type StepTiming, type Timing } from './timing.ts'

export type Fitted = {
  readonly timing: Timing
  /** Of the half of the recording that was not fitted to. */
  readonly held: Comparison
  /** In words, for whoever ran the fit. */
  readonly report: string
}

export type Times = { readonly firstTokenMs: number; readonly interTokenMs: number }

export type Comparison = {
  readonly requests: number
  /** Medians of what was recorded, and of what the fitted engine takes for the same requests. */
  readonly recorded: Times
  readonly simulated: Times
}

/** Above it a fit is not to be trusted, and says so. */
export const ERROR_MAX = 0.1

const EVALUATIONS_MAX = 250
/** Each begins anew where the one before it ended: a simplex that has collapsed moves on. */
const SEARCHES = 2
/** Of a constant that the recording says nothing of, in milliseconds. */
const NOTHING_MS = 1e-9

/**
 * Fits to every other round of episodes, and compares with the rest. What the recording cannot tell apart stays small:
 * the weights' own time is a part of the overhead.
 */
export function fitRecording(recording: Recording): Fitted {
  const rounds = roundsOf(recording.requests)
  const fitted = prepare(rounds.filter((_, index) => index % 2 === 0).flat())
  const held = prepare(rounds.filter((_, index) => index % 2 === 1).flat())
  const kinds = [...Map.groupBy(fitted.keys(), (index) => (fitted[index] as Prepared).recorded.kind).values()]
  const loss = (logs: readonly number[]) => {
    const simulated = simulate(recording, fitted, timingOf(logs))
    return meanError(fitted, simulated) + medianError(kinds, fitted, simulated)
  }
  let at = firstGuess(fitted)
  for (let search = 0; search < SEARCHES; search++) at = minimize(loss, at, EVALUATIONS_MAX).at
  const timing = timingOf(at)
  const comparison = compare(held, simulate(recording, held, timing))
  return { timing, held: comparison, report: reportOf(recording, fitted.length, comparison) }
}

/** The text of a preset file. */
export function presetText({ head }: Recording, { timing, held }: Fitted, source: string): string {
  const yaml = (values: Readonly<Record<string, number>>) =>
    Object.entries(values).map(([name, value]) => `  ${name}: ${Number(value.toPrecision(4))}`)
  return `${[
    `# Fitted to ${source.split('/').at(-1)}: ${head.engine}, model ${head.model}.`,
    `# On the half that it was not fitted to: ${errorsInWords(held)}.`,
    'step:',
    ...yaml(timing.step),
    'request:',
    ...yaml(timing.request),
    `kvCacheTokens: ${head.kvCacheTokens}`,
    `maxModelLen: ${head.maxModelLen}`,
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
        firstTokenMs: recorded.firstTokenMs,
        interTokenMs: (recorded.lastTokenMs - recorded.firstTokenMs) / (recorded.outputTokens - 1),
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
    sum += Math.abs(Math.log(interTokenMs / Math.max(times.interTokenMs, NOTHING_MS)))
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
    sum += Math.abs(Math.log(ours.interTokenMs / Math.max(recorded.interTokenMs, NOTHING_MS)))
  }
  return sum / kinds.length
}

function compare(requests: readonly Prepared[], simulated: readonly Times[]): Comparison {
  const recorded = requests.map(({ times }) => times)
  return { requests: requests.length, recorded: medians(recorded), simulated: medians(simulated) }
}

function medians(times: readonly Times[]): Times {
  return {
    firstTokenMs: median(times.map(({ firstTokenMs }) => firstTokenMs)),
    interTokenMs: median(times.map(({ interTokenMs }) => interTokenMs)),
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  if (sorted.length % 2 === 1) return sorted[middle] ?? 0
  return ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2
}

/** The constants as the search moves them: logarithms, for none is negative and their sizes differ by a million. */
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

function reportOf({ head }: Recording, fittedRequests: number, held: Comparison): string {
  const { recorded, simulated } = held
  const row = (what: string, of: (times: Times) => number) =>
    `  ${what.padEnd(22)} recorded ${of(recorded).toFixed(1).padStart(8)} ms   simulated ${of(simulated).toFixed(1).padStart(8)} ms`
  const worst = Math.max(...errorsOf(held))
  const verdict =
    worst <= ERROR_MAX
      ? ''
      : `\nThat is more than ${ERROR_MAX * 100} % off: record for longer, on a machine with nothing else to do.`
  return `${head.engine}, model ${head.model}: fitted to ${fittedRequests} requests, compared with ${held.requests} others
${row('time to first token', ({ firstTokenMs }) => firstTokenMs)}
${row('time between tokens', ({ interTokenMs }) => interTokenMs)}
Medians: ${errorsInWords(held)}.${verdict}`
}

function errorsInWords(held: Comparison): string {
  const [first, inter] = errorsOf(held).map((error) => `${(error * 100).toFixed(1)} %`)
  return `time to first token ${first} off, time between tokens ${inter}`
}

/** How far the medians are off, as shares of what was recorded. */
export function errorsOf({ recorded, simulated }: Comparison): readonly [first: number, inter: number] {
  const off = (one: number, other: number) => Math.abs(one - other) / Math.max(other, NOTHING_MS)
  return [off(simulated.firstTokenMs, recorded.firstTokenMs), off(simulated.interTokenMs, recorded.interTokenMs)]
}
