// The router's CPU time per unit of work beside nginx's and a bare relay's, in interleaved runs on this machine.
// CPU time, and ratios of one run, survive a noisy machine; requests per second do not.
import { parseArgs } from 'node:util'
import { JSON_ANSWER, streamSize } from './answers.ts'
import { between, figure, median, print, quantile } from './figures.ts'
import type { Expected, LoadCounts } from './load.ts'
import { measureLoad } from './measure.ts'
import { measureParts } from './micro.ts'
import { type Machine, startMachine } from './peers.ts'
import { leaveCoreToSubjects, type Subject } from './processes.ts'
import { chatRequest, type Request } from './requests.ts'

type Row = {
  readonly about: string
  readonly unit: 'request' | 'chunk'
  readonly connections: number
  readonly request: Request
  readonly expected: Expected
}

const TOKENS = 200
const INTERVAL_MS = 5
const WHOLE: Expected = { bytes: JSON_ANSWER.length, events: 0 }

const ROWS = {
  small: {
    about: '2 KB chat, JSON answer, 64 callers',
    unit: 'request',
    connections: 64,
    request: chatRequest(2_048, false),
    expected: WHOLE,
  },
  chunk: {
    about: `100 streams of ${TOKENS} tokens, one each ${INTERVAL_MS} ms`,
    unit: 'chunk',
    connections: 100,
    request: chatRequest(2_048, true),
    expected: streamSize(TOKENS),
  },
  body400k: {
    about: '400 KB chat, JSON answer, 16 callers',
    unit: 'request',
    connections: 16,
    request: chatRequest(400_000, false),
    expected: WHOLE,
  },
} as const satisfies Record<string, Row>

type RowName = keyof typeof ROWS
const ROW_NAMES = Object.keys(ROWS) as RowName[]

const ROUNDS = 5
const ROUNDS_MAX = 50
const SECONDS = 3
const SECONDS_MAX = 60
/** The first run of a subject also compiles it. */
const FIRST_WARM_UP_MS = 2_000
const WARM_UP_MS = 500

const HELP = `usage: npm run bench [-- NAME… --rounds N --seconds N --micro --json]

CPU time of the router for each unit of work, beside nginx's and a bare TCP relay's, in interleaved runs.
${ROW_NAMES.map((name) => `  ${name.padEnd(10)}${ROWS[name].about}`).join('\n')}

  --rounds N    rounds, each with all subjects, their order rotated (default ${ROUNDS}, at most ${ROUNDS_MAX})
  --seconds N   measured seconds of each run (default ${SECONDS}, at most ${SECONDS_MAX})
  --micro       only the parts that need no process: metrics page, body scan
  --json        one line of JSON in the tables' place
`

type Sample = { readonly cpuUs: number; readonly perSecond: number; readonly p50Us: number; readonly p99Us: number }

type SubjectResult = {
  readonly subject: string
  /** Medians over the rounds; ratios are medians of each round's ratio. */
  readonly cpuUs: number
  readonly toNginx: number | undefined
  readonly toRelay: number | undefined
  readonly perSecond: number
  readonly p50Us: number
  readonly p99Us: number
  readonly residentMb: number
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: String(ROUNDS) },
      seconds: { type: 'string', default: String(SECONDS) },
      micro: { type: 'boolean', default: false },
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
  const names = positionals.length > 0 ? positionals.map(rowName) : ROW_NAMES

  if (values.micro) {
    const parts = measureParts()
    if (values.json) process.stdout.write(`${JSON.stringify({ node: process.version, micro: parts })}\n`)
    else
      print(
        'parts',
        ['part', 'size KB', 'µs CPU', 'MB/s'],
        parts.map((part) => [
          part.name,
          (part.bytes / 1e3).toFixed(1),
          part.cpuUs.toFixed(2),
          figure(part.bytes / part.cpuUs),
        ]),
      )
    return
  }

  const pin = leaveCoreToSubjects()
  let machine: Machine | undefined
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => void machine?.stop().finally(() => process.exit(130)))
  }
  const results: Partial<Record<RowName, readonly SubjectResult[]>> = {}
  for (const name of names) {
    // Fresh processes for each row: after a million small requests nginx pays half as much again for a large one,
    // because its allocator then maps and unmaps every buffer.
    machine = await startMachine({ tokens: TOKENS, intervalMs: INTERVAL_MS }, pin)
    try {
      results[name] = await measureRow(name, machine, rounds, seconds)
    } finally {
      await machine.stop()
    }
    if (!values.json) printRow(name, results[name] ?? [])
  }
  const notes = machine?.notes ?? []
  if (values.json) {
    process.stdout.write(`${JSON.stringify({ node: process.version, rounds, seconds, notes, results })}\n`)
  } else {
    for (const note of notes) process.stdout.write(`note: ${note}\n`)
  }
}

async function measureRow(name: RowName, machine: Machine, rounds: number, seconds: number): Promise<SubjectResult[]> {
  const { subjects } = machine
  const samples = subjects.map((): Sample[] => [])
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < subjects.length; turn++) {
      const index = (turn + round) % subjects.length
      const subject = subjects[index]
      if (!subject) continue
      process.stderr.write(`${name}: round ${round + 1} of ${rounds}, ${subject.name}\n`)
      const warmUpMs = round === 0 ? FIRST_WARM_UP_MS : WARM_UP_MS
      samples[index]?.push(
        await measure(ROWS[name], subject, warmUpMs, seconds * 1000).catch((error: Error) => {
          throw new Error(`${name}, ${subject.name}: ${error.message}\n${machine.complaints()}`)
        }),
      )
    }
  }
  const ratiosTo = (index: number, peer: string): number | undefined => {
    const peerSamples = samples[subjects.findIndex((subject) => subject.name === peer)]
    if (!peerSamples) return undefined
    return median(
      (samples[index] ?? []).map((sample, round) => sample.cpuUs / (peerSamples[round]?.cpuUs ?? Number.NaN)),
    )
  }
  return subjects.map((subject, index) => {
    const over = (pick: (sample: Sample) => number) => median((samples[index] ?? []).map(pick))
    return {
      subject: subject.name,
      cpuUs: over((sample) => sample.cpuUs),
      toNginx: ratiosTo(index, 'nginx'),
      toRelay: ratiosTo(index, 'relay'),
      perSecond: over((sample) => sample.perSecond),
      p50Us: over((sample) => sample.p50Us),
      p99Us: over((sample) => sample.p99Us),
      residentMb: subject.residentMb(),
    }
  })
}

async function measure(row: Row, subject: Subject, warmUpMs: number, measuredMs: number): Promise<Sample> {
  const { counts, usedMs, elapsedMs } = await measureLoad({ ...row, subject }, warmUpMs, measuredMs)
  return sampleOf(row, counts, usedMs, elapsedMs)
}

function sampleOf(row: Row, counts: LoadCounts, usedMs: number, elapsedMs: number): Sample {
  const units = row.unit === 'chunk' ? counts.events : counts.answers
  if (units === 0) throw new Error('nothing was answered')
  return {
    cpuUs: (usedMs * 1000) / units,
    perSecond: (units * 1000) / elapsedMs,
    p50Us: quantile(counts.latenciesUs, 0.5),
    p99Us: quantile(counts.latenciesUs, 0.99),
  }
}

function printRow(name: RowName, results: readonly SubjectResult[]): void {
  const { about, unit } = ROWS[name]
  const latency = unit === 'chunk' ? 'transit' : 'latency'
  print(
    `${name}: ${about}`,
    ['subject', `µs CPU/${unit}`, '× nginx', '× relay', `${unit}s/s`, `${latency} p50 µs`, 'p99 µs', 'RSS MB'],
    results.map((result) => [
      result.subject,
      result.cpuUs.toFixed(1),
      result.toNginx?.toFixed(2) ?? '-',
      result.toRelay?.toFixed(2) ?? '-',
      figure(result.perSecond),
      figure(result.p50Us),
      figure(result.p99Us),
      figure(result.residentMb),
    ]),
  )
}

function rowName(name: string): RowName {
  if (name in ROWS) return name as RowName
  throw new Error(`there is no row ${name}; there are ${ROW_NAMES.join(', ')}`)
}

main().catch((error: unknown) => {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`)
  process.exit(1)
})
