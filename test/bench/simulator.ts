// Simulated pods under load: many of them in one process, many streams at once. Do they keep the time that they model?
// It cannot pass by being fast: what is compared is each stream's time between tokens with what the model says it takes.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { presetNamed } from '../../cluster/simulator/preset.ts'
import { stepDurationMs } from '../../cluster/simulator/timing.ts'

const HELP = `usage: node test/bench/simulator.ts [--pods N] [--streams N] [--tokens N] [--preset NAME] [--speed X] [--stream-interval N]

  Without flags, three rows: 2,000 streams on 200 pods, told token by token at 0.4 and at full speed, and 16 at a time.`
const PORT = 21_000
const PROMPT_TOKENS = 64
const MAIN = fileURLToPath(new URL('../../cluster/main.ts', import.meta.url))

type Row = {
  readonly pods: number
  readonly streams: number
  readonly tokens: number
  readonly preset: string
  readonly speed: number
  readonly interval: number
}

const { values } = parseArgs({
  options: {
    pods: { type: 'string', default: '200' },
    streams: { type: 'string', default: '2000' },
    tokens: { type: 'string', default: '200' },
    preset: { type: 'string', default: 'h100x4-70b' },
    speed: { type: 'string' },
    'stream-interval': { type: 'string' },
    help: { type: 'boolean', short: 'h' },
  },
})

async function main(): Promise<void> {
  if (values.help) {
    process.stdout.write(`${HELP}\n`)
    return
  }
  const row = (speed: number, interval: number): Row => ({
    pods: Number(values.pods),
    streams: Number(values.streams),
    tokens: Number(values.tokens),
    preset: values.preset,
    speed,
    interval,
  })
  const given = values.speed !== undefined || values['stream-interval'] !== undefined
  const rows = given
    ? [row(Number(values.speed ?? 1), Number(values['stream-interval'] ?? 1))]
    : [row(0.4, 1), row(1, 1), row(1, 16)]
  process.stdout.write('pods streams speed at a time   modelled   median      p99   tokens/s   CPU of the pods\n')
  for (const one of rows) process.stdout.write(`${await measure(one)}\n`)
}

async function measure(row: Row): Promise<string> {
  const { pods, streams, tokens, preset, speed, interval } = row
  const flags = [
    '--pods',
    pods,
    '--port',
    PORT,
    '--kv-events-port',
    'off',
    '--preset',
    preset,
    '--speed',
    speed,
    '--stream-interval',
    interval,
  ]
  const child = spawn(process.execPath, [MAIN, 'simulator', ...flags.map(String)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  try {
    let said = ''
    for await (const text of child.stdout.setEncoding('utf8')) {
      said += text
      if (said.includes('fail:')) break
    }
    const before = await cpuMs(child.pid as number)
    const startedAtMs = performance.now()
    const perToken = await Promise.all(
      Array.from({ length: streams }, (_, index) => stream(PORT + (index % pods), index, tokens)),
    )
    const wallMs = performance.now() - startedAtMs
    const usedMs = (await cpuMs(child.pid as number)) - before
    perToken.sort((a, b) => a - b)
    const at = (share: number) => (perToken[Math.floor(share * (perToken.length - 1))] as number).toFixed(1)
    const cells = [
      String(pods).padStart(4),
      String(streams).padStart(7),
      String(speed).padStart(5),
      String(interval).padStart(9),
      `${modelledMs(row).toFixed(1)} ms`.padStart(10),
      `${at(0.5)} ms`.padStart(8),
      `${at(0.99)} ms`.padStart(8),
      Math.round((streams * tokens) / (wallMs / 1_000))
        .toLocaleString('en')
        .padStart(10),
      `${(usedMs / wallMs).toFixed(2)} cores, ${((1_000 * usedMs) / (streams * tokens)).toFixed(1)} µs a token`.padStart(
        17,
      ),
    ]
    return cells.join(' ')
  } finally {
    child.kill('SIGINT')
    await once(child, 'exit')
  }
}

/** What a decode step takes with its share of the streams, in the middle of their answers. */
function modelledMs({ pods, streams, tokens, preset, speed }: Row): number {
  const seqs = streams / pods
  const context = PROMPT_TOKENS + tokens / 2
  const work = { tokens: seqs, seqs, contextTokens: seqs * context, attentionPairs: seqs * context }
  return stepDurationMs(presetNamed(preset).timing.step, work, speed)
}

/** Resolves with the mean time between tokens, in milliseconds. A raw socket: a client must not be what limits. */
function stream(port: number, index: number, tokens: number): Promise<number> {
  const prompt = Array.from({ length: PROMPT_TOKENS }, (_, place) => 1 + ((index * 31 + place) % 200))
  const body = JSON.stringify({ prompt, max_tokens: tokens, ignore_eos: true, stream: true })
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, '127.0.0.1')
    const head = `POST /v1/completions HTTP/1.1\r\nhost: pod\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n`
    socket.write(head + body)
    let firstAtMs: number | undefined
    let lastAtMs = 0
    let last: Buffer | undefined
    socket.on('data', (bytes) => {
      lastAtMs = performance.now()
      if (firstAtMs === undefined && bytes.includes('data:')) firstAtMs = lastAtMs
      last = bytes
    })
    socket.on('error', reject)
    socket.on('close', () => {
      if (firstAtMs === undefined || !last?.includes('[DONE]')) return reject(new Error('a stream was cut'))
      resolve((lastAtMs - firstAtMs) / (tokens - 1))
    })
  })
}

/** CPU that a process has used, as its kernel counts it. */
async function cpuMs(pid: number): Promise<number> {
  const { readFile } = await import('node:fs/promises')
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  // In hundredths of a second: user and system.
  return (Number(fields[11]) + Number(fields[12])) * 10
}

await main()
