// Load tests run on simulated pods: 200 of them in one process, with 2,000 streams at once. None may be cut, lose a token or
// wait for ever. (Whether they keep time is what `npm run bench:simulator` asks, on a machine with nothing else to do.)
import net from 'node:net'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Program, start } from './program.ts'

const PODS = 200
const STREAMS = 2_000
const TOKENS = 20

let pods: Program
let ports: readonly number[]

beforeAll(async () => {
  const flags = [
    '--pods',
    String(PODS),
    '--port',
    '0',
    '--kv-events-port',
    'off',
    '--preset',
    'h100x4-70b',
    '--speed',
    '0.2',
  ]
  pods = start(['simulator', ...flags])
  await pods.says(/make them fail: http/)
  ports = [...pods.said().matchAll(/listens on http:\/\/127\.0\.0\.1:(\d+)/g)].map(([, port]) => Number(port))
}, 60_000)

afterAll(async () => {
  pods.child.kill('SIGINT')
  await pods.ended
})

/** Resolves with all that a pod says to one completion. A raw socket: two thousand clients have to fit beside the pods. */
function complete(port: number, prompt: readonly number[]): Promise<string> {
  const body = JSON.stringify({ prompt, max_tokens: TOKENS, ignore_eos: true, stream: true })
  const head = [
    'POST /v1/completions HTTP/1.1',
    'host: pod',
    'content-type: application/json',
    `content-length: ${body.length}`,
  ]
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, '127.0.0.1')
    const chunks: Buffer[] = []
    socket.write(`${[...head, 'connection: close'].join('\r\n')}\r\n\r\n${body}`)
    socket.on('data', (chunk) => chunks.push(chunk))
    socket.on('error', reject)
    socket.on('close', () => resolve(Buffer.concat(chunks).toString()))
  })
}

it('every one of 2,000 streams gets all its tokens, ten at each pod at the same time', async () => {
  expect(new Set(ports).size).toBe(PODS)
  const answers = await Promise.all(
    Array.from({ length: STREAMS }, (_, index) => complete(ports[index % PODS] as number, [1 + (index % 200), 2, 3])),
  )
  for (const answer of answers) {
    expect(answer.match(/"text":/g)).toHaveLength(TOKENS)
    expect(answer).toContain('"finish_reason":"length"')
    expect(answer).toContain('data: [DONE]')
  }
  const pages = await Promise.all(ports.map(async (port) => (await fetch(`http://127.0.0.1:${port}/metrics`)).text()))
  for (const page of pages) {
    expect(page).toMatch(new RegExp(`^vllm:generation_tokens_total\\{.*\\} ${(TOKENS * STREAMS) / PODS}\\.0$`, 'm'))
    // Together, not one after the other: a step told of several.
    expect(Number(/^vllm:iteration_tokens_total_count\{.*\} (\S+)$/m.exec(page)?.[1])).toBeLessThan(
      (TOKENS * STREAMS) / PODS / 2,
    )
  }
}, 120_000)
