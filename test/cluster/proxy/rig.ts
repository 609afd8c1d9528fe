// A router over real sockets, engines that do what a test scripts, and a caller that sees every byte.
import { once } from 'node:events'
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import https from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { onTestFinished } from 'vitest'
import { loadRouterConfig, type RouterConfig } from '../../../cluster/config.ts'
import { parseConfigText } from '../../../cluster/config-file.ts'
import { createLog } from '../../../cluster/log.ts'
import { type Router, startRouter } from '../../../cluster/router.ts'

export type Generation = {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly body: string
  readonly socket: Socket
}

export type ScriptedEngine = {
  readonly url: string
  readonly port: number
  /** Generations that reached it, probes included. */
  readonly seen: Generation[]
  /** What it does with the next ones; answers a small chat by default. */
  script: (generation: Generation) => void
  /** Its /metrics page; undefined: 404. */
  metrics: string | undefined
  readonly close: () => Promise<void>
}

export const TOKEN = 'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
export const USAGE =
  'data: {"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":5,"total_tokens":6,"completion_tokens":1}}\n\n'
export const DONE = 'data: [DONE]\n\n'

export function answerChat({ res, body }: Generation): void {
  if (/"stream":\s*true/.test(body)) {
    res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
    res.end(`${TOKEN}${USAGE}${DONE}`)
    return
  }
  const answer = {
    id: 'chatcmpl-1',
    object: 'chat.completion',
    choices: [],
    usage: { prompt_tokens: 5, completion_tokens: 1 },
  }
  res.writeHead(200, { 'content-type': 'application/json' })
  res.end(JSON.stringify(answer))
}

export function startStream(generation: Generation): void {
  generation.res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
  generation.res.write(TOKEN)
}

/** An engine for the length of a test. */
export async function startEngine(
  script: (generation: Generation) => void = answerChat,
  tls?: { readonly key: string; readonly cert: string; readonly apiKey: string },
): Promise<ScriptedEngine> {
  const seen: Generation[] = []
  const handle = (req: IncomingMessage, res: ServerResponse): void => {
    if (tls && req.url !== '/metrics' && req.headers.authorization !== `Bearer ${tls.apiKey}`) {
      res.writeHead(401, { 'content-type': 'application/json' }).end('{"error":"Unauthorized"}')
      return
    }
    if (req.url === '/v1/models') {
      res.end(JSON.stringify({ object: 'list', data: [{ id: 'm', object: 'model', owned_by: 'vllm' }] }))
      return
    }
    if (req.url === '/metrics') {
      res.writeHead(engine.metrics === undefined ? 404 : 200).end(engine.metrics)
      return
    }
    // It publishes no KV events.
    if (req.url === '/kv_event_sources') {
      res.writeHead(404).end('{"detail":"Not Found"}')
      return
    }
    let body = ''
    req.setEncoding('utf8').on('data', (piece: string) => {
      body += piece
    })
    req.on('end', () => {
      const generation = { req, res, body, socket: req.socket }
      seen.push(generation)
      engine.script(generation)
    })
  }
  const server = tls ? https.createServer(tls, handle) : http.createServer(handle)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const engine: ScriptedEngine = {
    url: `${tls ? 'https' : 'http'}://127.0.0.1:${port}`,
    port,
    seen,
    script,
    metrics: '',
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
  onTestFinished(engine.close)
  return engine
}

export type Rig = Router & { readonly url: string; readonly adminUrl: string }

/** A router for the length of a test, before the given engines in that order of preference. */
export async function startRig(
  engines: readonly { readonly url: string }[],
  { yaml = '', ...more }: { readonly yaml?: string } & Partial<RouterConfig> = {},
): Promise<Rig> {
  parseConfigText(yaml, 'test')
  const base = loadRouterConfig(undefined, { port: 0, adminPort: 0, endpoints: engines.map(({ url }) => url), seed: 1 })
  const router = await startRouter({ ...base, ...more }, createLog('silent'))
  onTestFinished(() => router.close({ drainNoticeMs: 0, drainMs: 0 }))
  await router.firstRound
  return Object.assign(router, {
    url: `http://127.0.0.1:${router.port}`,
    adminUrl: `http://127.0.0.1:${router.adminPort}`,
  })
}

export type Answer = {
  readonly status: number
  readonly headers: http.IncomingHttpHeaders
  readonly text: string
  readonly whole: boolean
}

export type Call = {
  readonly req: http.ClientRequest
  /** Resolves with the head. */
  readonly head: Promise<IncomingMessage>
  /** Resolves when the answer ended, or was cut. */
  readonly answer: Promise<Answer>
}

const CHAT = { model: 'm', messages: [{ role: 'user', content: 'hi' }] }

/** A chat from a caller that keeps what it got. */
export function chat(url: string, body: unknown = CHAT, headers: Record<string, string> = {}): Call {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  return call(`${url}/v1/chat/completions`, 'POST', text, { 'content-type': 'application/json', ...headers })
}

export const streamed = { ...CHAT, stream: true }

export function call(url: string, method: string, body?: string, headers: Record<string, string> = {}): Call {
  const req = http.request(url, { method, headers, agent: false })
  const head = new Promise<IncomingMessage>((resolve, reject) => req.once('response', resolve).once('error', reject))
  const answer = head.then(
    (res) =>
      new Promise<Answer>((resolve) => {
        let text = ''
        res.setEncoding('utf8').on('data', (piece: string) => {
          text += piece
        })
        res.once('close', () =>
          resolve({ status: res.statusCode ?? 0, headers: res.headers, text, whole: res.complete }),
        )
        res.on('error', () => undefined)
      }),
  )
  head.catch(() => undefined)
  answer.catch(() => undefined)
  req.on('error', () => undefined)
  req.end(body)
  return { req, head, answer }
}

/** An error answer in OpenAI's shape. */
export function parse(text: string) {
  return JSON.parse(text) as { error: { message: string; type: string; param: unknown; code: unknown } }
}

/** The decision behind an answer, as the admin door tells it. */
export async function decisionOf(
  { adminUrl }: Rig,
  id: unknown,
): Promise<Record<string, unknown> & { readonly words: string }> {
  const answer = await fetch(`${adminUrl}/decisions/${String(id)}`)
  return (await answer.json()) as Record<string, unknown> & { readonly words: string }
}

/** Resolves as soon as the condition holds; what never comes true fails by the test's own timeout. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 5))
}
