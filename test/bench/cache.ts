// What an answer from a cache costs, and forwarding beside it: `node test/bench/cache.ts`. In interleaved rounds, CPU time
// of the subject's process; latencies with one caller, so that none of them is spent in a queue.
import { parseArgs } from 'node:util'
import { type Case, ROWS, type Row, type RowName } from './cache-rows.ts'
import { between, figure, median, print, quantile } from './figures.ts'
import { measureLoad } from './measure.ts'
import { createProcesses, leaveCoreToSubjects, notesOf, type Processes } from './processes.ts'
import { measureRepeats, REPEAT_ABOUT, type RepeatResult } from './repeat.ts'

const REPEAT = 'repeat'
type Name = RowName | typeof REPEAT
const NAMES: readonly Name[] = [...(Object.keys(ROWS) as RowName[]), REPEAT]

const ROUNDS = 4
const ROUNDS_MAX = 50
const SECONDS = 1.2
/** The edge takes a router's word about a model for a minute: an answer that is stored before a stretch outlasts it. */
const SECONDS_MAX = 15
/** The first run of a case also compiles it. */
const FIRST_WARM_UP_MS = 1_500
const WARM_UP_MS = 300
const ALONE_WARM_UP_MS = 50
/** Of a stretch, for one caller alone. */
const ALONE_SHARE = 0.4

const HELP = `usage: npm run bench:cache [-- NAME… --rounds N --seconds N --json]

What a hit costs at the edge, in the router's memory and in Redis, and what forwarding costs beside it.
${NAMES.map((name) => `  ${name.padEnd(12)}${name === REPEAT ? REPEAT_ABOUT : ROWS[name].about}`).join('\n')}

  --rounds N    rounds, each with all cases of a row, their order rotated (default ${ROUNDS}, at most ${ROUNDS_MAX})
  --seconds N   measured seconds of each case (default ${SECONDS}, at most ${SECONDS_MAX}), and ${100 * ALONE_SHARE} % of that with one caller
  --json        one line of JSON in the tables' place
`

type Sample = {
  readonly cpuUs: number
  readonly perSecond: number
  /** Of one core, by the subject. */
  readonly busyShare: number
  readonly p50Us: number
  readonly p99Us: number
}

type CaseResult = Sample & {
  readonly name: string
  /** Medians of each round's ratio of CPU times, by base. */
  readonly ratios: Readonly<Record<string, number | undefined>>
  readonly residentMb: number
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: String(ROUNDS) },
      seconds: { type: 'string', default: String(SECONDS) },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return
  }
  const rounds = Math.round(between('--rounds', values.rounds, 1, ROUNDS_MAX))
  const seconds = between('--seconds', values.seconds, 0.1, SECONDS_MAX)
  const names = positionals.length > 0 ? positionals.map(rowName) : NAMES

  const pin = leaveCoreToSubjects()
  let processes: Processes | undefined
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => void processes?.stop().finally(() => process.exit(130)))
  }
  const all: Partial<Record<Name, readonly (CaseResult | RepeatResult)[]>> = {}
  const notes = notesOf(pin)
  for (const name of names) {
    processes = createProcesses(pin)
    try {
      const row = await (name === REPEAT ? repeatRow(processes) : measureRow(name, processes, rounds, seconds))
      all[name] = row.results
      notes.push(...row.notes)
      if (!values.json) row.print()
    } catch (error) {
      throw new Error(`${name}, ${(error as Error).message}\n${processes.complaints()}`)
    } finally {
      await processes.stop()
    }
  }
  const told = [...new Set(notes)]
  if (values.json) {
    process.stdout.write(`${JSON.stringify({ node: process.version, rounds, seconds, notes: told, results: all })}\n`)
  } else {
    process.stdout.write('\n')
    for (const note of told) process.stdout.write(`note: ${note}\n`)
  }
}

async function repeatRow(processes: Processes) {
  process.stderr.write(`${REPEAT}\n`)
  const { results, notes } = await measureRepeats(processes)
  return { results, notes, print: () => printRepeats(results) }
}

async function measureRow(name: RowName, processes: Processes, rounds: number, seconds: number) {
  const row: Row = ROWS[name]
  const { cases, notes } = await row.start(processes)
  const samples = cases.map((): Sample[] => [])
  const missed = new Map<string, number>()
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < cases.length; turn++) {
      const index = (turn + round) % cases.length
      const one = cases[index] as Case
      process.stderr.write(`${name}: round ${round + 1} of ${rounds}, ${one.name}\n`)
      const sample = await measure(one, row.connections, round === 0, seconds * 1_000, missed).catch((error: Error) => {
        throw new Error(`${one.name}: ${error.message}`)
      })
      samples[index]?.push(sample)
    }
  }
  const results = cases.map((one, index) => resultOf(one, samples[index] ?? [], ratiosOf(row, cases, samples, index)))
  const late = [...missed].map(
    ([of, count]) => `${name}: ${count} answers of "${of}" were forwarded, a look-up was late`,
  )
  return { results, notes: [...notes, ...late], print: () => printRow(row, results) }
}

async function measure(
  { name, subject, request, expected }: Case,
  connections: number,
  first: boolean,
  measuredMs: number,
  missed: Map<string, number>,
): Promise<Sample> {
  const hits = await expected()
  const stretch = { subject, request, expected: hits }
  const { counts, usedMs, elapsedMs } = await measureLoad(
    { ...stretch, connections },
    first ? FIRST_WARM_UP_MS : WARM_UP_MS,
    measuredMs,
  )
  const alone = await measureLoad({ ...stretch, connections: 1 }, ALONE_WARM_UP_MS, measuredMs * ALONE_SHARE)
  if (counts.answers === 0 || alone.counts.answers === 0) throw new Error('nothing was answered')
  const late = 'counts' in hits ? hits.counts().missed : 0
  if (late > 0) missed.set(name, (missed.get(name) ?? 0) + late)
  return {
    cpuUs: (usedMs * 1_000) / counts.answers,
    perSecond: (counts.answers * 1_000) / elapsedMs,
    busyShare: usedMs / elapsedMs,
    p50Us: quantile(alone.counts.latenciesUs, 0.5),
    p99Us: quantile(alone.counts.latenciesUs, 0.99),
  }
}

function ratiosOf(
  { bases }: Row,
  cases: readonly Case[],
  samples: readonly (readonly Sample[])[],
  index: number,
): CaseResult['ratios'] {
  const ratioTo = (base: string): number | undefined => {
    const baseSamples = samples[cases.findIndex(({ name }) => name === base)]
    if (!baseSamples) return undefined
    const ratios = samples[index]?.map(({ cpuUs }, round) => cpuUs / (baseSamples[round]?.cpuUs ?? Number.NaN))
    return median(ratios ?? [])
  }
  return Object.fromEntries(bases.map((base) => [base, ratioTo(base)]))
}

function resultOf({ name, subject }: Case, samples: readonly Sample[], ratios: CaseResult['ratios']): CaseResult {
  const over = (pick: (sample: Sample) => number) => median(samples.map(pick))
  return {
    name,
    ratios,
    cpuUs: over(({ cpuUs }) => cpuUs),
    perSecond: over(({ perSecond }) => perSecond),
    busyShare: over(({ busyShare }) => busyShare),
    p50Us: over(({ p50Us }) => p50Us),
    p99Us: over(({ p99Us }) => p99Us),
    residentMb: subject.residentMb(),
  }
}

function printRow({ about, bases }: Row, results: readonly CaseResult[]): void {
  const columns = ['µs CPU/request', ...bases.map((base) => `× ${base}`), 'requests/s', 'of a core']
  print(
    about,
    ['', ...columns, 'alone: p50 µs', 'p99 µs', 'RSS MB'],
    results.map((result) => [
      result.name,
      result.cpuUs.toFixed(result.cpuUs < 1_000 ? 1 : 0),
      ...bases.map((base) => result.ratios[base]?.toFixed(2) ?? '-'),
      figure(result.perSecond),
      `${(100 * result.busyShare).toFixed(0)} %`,
      figure(result.p50Us),
      figure(result.p99Us),
      figure(result.residentMb),
    ]),
  )
}

function printRepeats(results: readonly RepeatResult[]): void {
  print(
    REPEAT_ABOUT,
    ['again from', 'first ms', 'again p50 ms', 'p99 ms', '× faster'],
    results.map(({ place, firstMs, againMs, againP99Ms, timesFaster }) => [
      place,
      figure(firstMs),
      againMs.toFixed(2),
      againP99Ms.toFixed(2),
      figure(timesFaster),
    ]),
  )
}

function rowName(name: string): Name {
  const found = NAMES.find((one) => one === name)
  if (found) return found
  throw new Error(`there is no row ${name}; there are ${NAMES.join(', ')}`)
}

main().catch((error: unknown) => {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`)
  process.exit(1)
})
