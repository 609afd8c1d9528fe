// Streaming and aborts through the built Worker over real TCP on both sides: test doubles of `fetch` carry neither.
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import { afterAll, beforeAll, expect, it, vi } from 'vitest'
import { unstable_readConfig } from 'wrangler'
import { keyDigest, keyRecordName, mintApiKey } from '../../shared/api-key.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const PEPPER = 'a pepper for tests and for nothing else'
const ABORT_MS_MAX = 200
const TOKEN_MS = 10
const CHUNK = 'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
const DONE = 'data: [DONE]\n\n'

type Exchange = { readonly req: IncomingMessage; readonly res: ServerResponse }

const key = mintApiKey(randomBytes)
const waiting: ((exchange: Exchange) => void)[] = []
const origin = createServer((req, res) => {
  req.resume()
  waiting.shift()?.({ req, res })
})
const logged: string[] = []
let directory: string
let worker: Miniflare
let port: number

beforeAll(async () => {
  origin.listen(0, '127.0.0.1')
  await once(origin, 'listening')
  directory = await mkdtemp(join(tmpdir(), 'warmpath-edge-'))
  const wrangler = join(ROOT, 'node_modules/wrangler/bin/wrangler.js')
  await promisify(execFile)(process.execPath, [wrangler, 'deploy', '--dry-run', '--outdir', directory], {
    cwd: ROOT,
    env: { ...process.env, WRANGLER_SEND_METRICS: 'false' },
  })
  const config = unstable_readConfig({ config: join(ROOT, 'wrangler.toml') }, { hideWarnings: true })
  worker = new Miniflare(
    convertV4MiniflareOptions({
      host: '127.0.0.1',
      port: 0,
      cf: false,
      handleStructuredLogs: ({ message }) => logged.push(message),
      modules: [
        { type: 'ESModule', path: 'worker.js', contents: await readFile(join(directory, 'worker.js'), 'utf8') },
      ],
      compatibilityDate: config.compatibility_date ?? '',
      compatibilityFlags: config.compatibility_flags,
      kvNamespaces: ['KEYS'],
      bindings: {
        KEY_PEPPER: PEPPER,
        EDGE_SIGNING_KEYS: 'k1:the-signing-secret-of-these-tests-32',
        ROUTER_URL: `http://127.0.0.1:${(origin.address() as AddressInfo).port}`,
      },
    }),
  )
  port = Number((await worker.ready).port)
  const record = JSON.stringify({ tenant: 'acme', createdAt: '2026-11-01T00:00:00Z' })
  const keys = await worker.getKVNamespace('KEYS')
  await keys.put(keyRecordName(await keyDigest(PEPPER, key)), record)
})

afterAll(async () => {
  await worker?.dispose()
  origin.closeAllConnections()
  origin.close()
  await rm(directory, { recursive: true, force: true })
})

/** The next request that reaches the origin. */
function arrival(): Promise<Exchange> {
  return new Promise((resolve) => waiting.push(resolve))
}

/** The log line of a request. It comes by another way than the answer, a little later. */
async function logLineOf(requestId: string): Promise<unknown> {
  const line = await vi.waitUntil(() => logged.find((one) => one.includes(requestId)), { timeout: 5_000 })
  return JSON.parse(line)
}

/** A caller on a bare socket: only that can leave the way a crashed client does. */
function caller(): {
  requestId: string
  socket: Socket
  received: (text: string) => Promise<string>
  ended: Promise<string>
} {
  const body = JSON.stringify({ model: 'tiny', messages: [], stream: true })
  const requestId = randomBytes(8).toString('hex')
  const socket = connect(port, '127.0.0.1')
  socket.write(
    [
      'POST /v1/chat/completions HTTP/1.1',
      'host: edge',
      'connection: close',
      'content-type: application/json',
      `authorization: Bearer ${key}`,
      `x-request-id: ${requestId}`,
      `content-length: ${body.length}`,
      '',
      body,
    ].join('\r\n'),
  )
  let text = ''
  socket.setEncoding('utf8')
  socket.on('data', (chunk) => {
    text += chunk
  })
  async function received(wanted: string): Promise<string> {
    while (!text.includes(wanted)) await once(socket, 'data')
    return text
  }
  const ended = new Promise<string>((resolve) => socket.once('end', () => resolve(text)))
  return { requestId, socket, received, ended }
}

/** Milliseconds until the origin sees its connection go. */
async function untilClosed({ res }: Exchange, leave: () => void): Promise<number> {
  const closed = once(res, 'close')
  const start = performance.now()
  leave()
  await closed
  return performance.now() - start
}

function startStream({ res }: Exchange): void {
  res.writeHead(200, { 'content-type': 'text/event-stream' })
  res.write(CHUNK)
}

/** Goes on as a model does: a caller who merely closes is noticed by the next write to it. */
function keepStreaming({ res }: Exchange): void {
  const beat = setInterval(() => res.write(CHUNK), TOKEN_MS)
  res.once('close', () => clearInterval(beat))
}

it('passes each event on when it comes', async () => {
  const arrived = arrival()
  const { received, ended } = caller()
  const exchange = await arrived
  startStream(exchange)
  expect(await received('"content":"a"')).not.toContain('[DONE]')
  exchange.res.end(DONE)
  expect(await ended).toContain('[DONE]')
})

it.each([
  ['closes', (socket: Socket) => socket.destroy()],
  ['resets', (socket: Socket) => socket.resetAndDestroy()],
])('aborts the origin when a caller %s in mid-stream', async (_, leave) => {
  const arrived = arrival()
  const { requestId, socket, received } = caller()
  const exchange = await arrived
  startStream(exchange)
  await received('"content":"a"')
  keepStreaming(exchange)
  expect(await untilClosed(exchange, () => leave(socket))).toBeLessThan(ABORT_MS_MAX)
  expect(await logLineOf(requestId)).toMatchObject({ status: 499, outcome: 'client_abort' })
})

it('aborts the origin when a caller resets before the first byte', async () => {
  const arrived = arrival()
  const { socket } = caller()
  const exchange = await arrived
  expect(await untilClosed(exchange, () => socket.resetAndDestroy())).toBeLessThan(ABORT_MS_MAX)
})

it('tells of an origin that dies in mid-stream, and does not end the stream as if it were whole', async () => {
  const arrived = arrival()
  const { received, ended } = caller()
  const exchange = await arrived
  startStream(exchange)
  await received('"content":"a"')
  exchange.req.socket.resetAndDestroy()
  const text = await ended
  expect(text).toContain('"code":"upstream_lost"')
  expect(text).not.toContain('[DONE]')
})

it('refuses with 503 when the origin resets before the first byte', async () => {
  const arrived = arrival()
  const { ended } = caller()
  ;(await arrived).req.socket.resetAndDestroy()
  const text = await ended
  expect(text).toContain('HTTP/1.1 503')
  expect(text).toContain('"code":"router_unreachable"')
})
