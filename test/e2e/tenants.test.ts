// Twenty tenants ask the same questions at once, through the real edge and the real router, while callers leave and engines
// break off. What one tenant was answered must never reach another, and what was cut must never look whole.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { storeLocalKeys } from '../../cluster/keys.ts'
import { mintApiKey } from '../../shared/api-key.ts'
import { createRandom, randomInteger } from '../../shared/random.ts'
import { freePort, type Program, start } from './program.ts'

const TENANTS = 20
const QUESTIONS = 6
const ROUNDS = 8
const SEED = 20_261_123
const PIECES = 6
/** Of one that broke off three times in a row, the router expects nothing for a while: others go on. */
const ENGINES = 4
const CUT_SHARE = 0.15
/** The last piece of every whole answer. */
const END = 'the-end'

const random = createRandom(SEED)
const engines = Array.from({ length: ENGINES }, () => createServer())
const tenants: { readonly key: string; nonce: string }[] = []
let program: Program
let url = ''
/** How the engine treats answers from now on. */
let breaks = false
let generated = 0

type Shape = 'chat' | 'messages'

/**
 * Its words name the tenant, whose cache_salt it was sent, and the question. So equal questions of two tenants have
 * different answers, and any mix-up is seen.
 */
async function generate(shape: Shape, body: Record<string, unknown>, res: ServerResponse): Promise<void> {
  generated++
  const [{ content: question = '' } = {}] = body.messages as { content?: string }[]
  const pieces = [`tenant:${body.cache_salt} `, `${question} `, ...Array.from({ length: PIECES }, () => 'word '), END]
  const cut = breaks && random() < CUT_SHARE ? randomInteger(random, 0, pieces.length) : undefined
  const waitMs = breaks ? randomInteger(random, 0, 4) : 0
  const dies = random() < 0.5
  if (body.stream !== true) {
    await delay(waitMs * pieces.length)
    const text = JSON.stringify(wholeAnswer(shape, pieces.join('')))
    res.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
    if (cut === undefined) res.end(text)
    else res.write(text.slice(0, text.length / 2), () => res.socket?.destroy())
    return
  }
  res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
  const events = streamedAnswer(shape, pieces)
  for (const [index, event] of events.entries()) {
    if (res.destroyed) return
    if (index === cut) {
      if (dies) res.socket?.destroy()
      else res.end()
      return
    }
    res.write(event)
    if (waitMs > 0) await delay(waitMs)
  }
  res.end()
}

const CHAT_USAGE = { prompt_tokens: 3, total_tokens: 12, completion_tokens: 9 }

function wholeAnswer(shape: Shape, text: string): object {
  if (shape === 'messages') {
    const content = [{ type: 'text', text }]
    const rest = { model: 'm', stop_reason: 'end_turn', usage: { input_tokens: 3, output_tokens: 9 } }
    return { id: `chatcmpl-${generated}`, type: 'message', role: 'assistant', content, ...rest }
  }
  const message = { role: 'assistant', content: text }
  const choices = [{ index: 0, message, logprobs: null, finish_reason: 'stop', stop_reason: null }]
  return { id: `chatcmpl-${generated}`, object: 'chat.completion', created: 1, model: 'm', choices, usage: CHAT_USAGE }
}

function streamedAnswer(shape: Shape, pieces: readonly string[]): string[] {
  const id = `chatcmpl-${generated}`
  if (shape === 'messages') {
    const event = (data: { type: string } & Record<string, unknown>) =>
      `event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`
    const usage = { input_tokens: 3, output_tokens: 0 }
    return [
      event({ type: 'message_start', message: { id, content: [], model: 'm', usage } }),
      event({ type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } }),
      ...pieces.map((text) => event({ type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text } })),
      event({ type: 'content_block_stop', index: 0 }),
      event({ type: 'message_delta', delta: { stop_reason: 'end_turn' }, usage: { ...usage, output_tokens: 9 } }),
      event({ type: 'message_stop' }),
    ]
  }
  const head = { id, object: 'chat.completion.chunk', created: 1, model: 'm' }
  const event = (data: object) => `data: ${JSON.stringify({ ...head, ...data })}\n\n`
  const chunk = (delta: object, finish: string | null = null) =>
    event({ choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }] })
  return [
    chunk({ role: 'assistant', content: '' }),
    ...pieces.map((content) => chunk({ content })),
    chunk({}, 'stop'),
    event({ choices: [], usage: CHAT_USAGE }),
    'data: [DONE]\n\n',
  ]
}

beforeAll(async () => {
  const urls = await Promise.all(engines.map(listen))
  const port = await freePort()
  url = `http://127.0.0.1:${port}`
  const given = urls.flatMap((each) => ['--engine', each])
  program = start(['up', ...given, '--port', String(port), '--router-port', '0', '--admin-port', '0'])
  await program.says('Ctrl-C stops everything.')
  const keys = new Map<string, { tenant: string }>()
  for (let index = 0; index < TENANTS; index++) {
    const key = mintApiKey(randomBytes)
    tenants.push({ key, nonce: '' })
    keys.set(key, { tenant: `tenant-${index}-${randomBytes(4).toString('hex')}` })
  }
  await storeLocalKeys(keys)
  for (const tenant of tenants) {
    const { text } = await ask(tenant.key, 'chat', 'who am I', false, { 'cache-control': 'no-store' })
    tenant.nonce = /tenant:([\w-]+)/.exec(text)?.[1] ?? ''
  }
}, 120_000)

afterAll(async () => {
  program.child.kill('SIGTERM')
  await program.ended
  for (const engine of engines) {
    engine.closeAllConnections()
    engine.close()
  }
})

async function listen(engine: Server): Promise<string> {
  engine.on('request', (req, res) => {
    if (req.url === '/v1/models') return res.end('{"object":"list","data":[{"id":"m","object":"model","root":"m"}]}')
    if (req.method === 'GET') return res.writeHead(req.url === '/metrics' ? 200 : 404).end()
    let text = ''
    req.setEncoding('utf8').on('data', (piece: string) => {
      text += piece
    })
    req.on('end', () => {
      generate(req.url === '/v1/messages' ? 'messages' : 'chat', JSON.parse(text), res).catch(() => res.destroy())
    })
  })
  engine.listen(0, '127.0.0.1')
  await once(engine, 'listening')
  return `http://127.0.0.1:${(engine.address() as AddressInfo).port}`
}

type Given = {
  /** 0: the caller left, or the connection broke before a head. */
  readonly status: number
  readonly text: string
  /** The body ended in good order. */
  readonly ended: boolean
  readonly cache: string
}

async function ask(
  key: string,
  shape: Shape,
  question: string,
  stream: boolean,
  headers: Record<string, string> = {},
  leaveAfterMs?: number,
): Promise<Given> {
  const body = { model: 'm', temperature: 0, max_tokens: 50, stream, messages: [{ role: 'user', content: question }] }
  const signal = leaveAfterMs === undefined ? null : AbortSignal.timeout(leaveAfterMs)
  let [status, text, cache] = [0, '', '']
  try {
    const answer = await fetch(`${url}${shape === 'chat' ? '/v1/chat/completions' : '/v1/messages'}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
      signal,
    })
    status = answer.status
    cache = answer.headers.get('cache-status') ?? ''
    const decoder = new TextDecoder()
    for await (const chunk of answer.body ?? []) text += decoder.decode(chunk, { stream: true })
    return { status, text, cache, ended: true }
  } catch {
    return { status, text, cache, ended: false }
  }
}

/** Says what is wrong with an answer; undefined when nothing is. */
function faultOf({ status, text, ended }: Given, nonce: string, question: string, stream: boolean): string | undefined {
  for (const [, theirs] of text.matchAll(/tenant:([\w-]+)/g)) {
    if (theirs !== nonce) return `another tenant’s answer: ${text.slice(0, 300)}`
  }
  if (status !== 200) return undefined
  const told = text.includes(`tenant:${nonce} `)
  if (told && ended && !text.includes('error') && !text.includes(question)) return `another question’s answer: ${text}`
  const claims = stream ? text.includes('[DONE]') || text.includes('message_stop') : ended
  return claims && !text.includes(END) ? `called whole, and is not: ${text.slice(0, 300)}` : undefined
}

it('nobody gets another tenant’s answer, and no answer that was cut looks whole', { timeout: 180_000 }, async () => {
  expect(new Set(tenants.map(({ nonce }) => nonce)).size).toBe(TENANTS)
  breaks = true
  const faults: string[] = []
  const seen = { whole: 0, hits: 0, left: 0, broken: 0 }
  const callers = tenants.map(async ({ key, nonce }) => {
    for (let turn = 0; turn < ROUNDS * QUESTIONS; turn++) {
      const question = `question-${randomInteger(random, 1, QUESTIONS)}.`
      const stream = random() < 0.5
      const shape = random() < 0.7 ? 'chat' : 'messages'
      const leaves = random() < 0.15 ? randomInteger(random, 1, 30) : undefined
      const given = await ask(key, shape, question, stream, {}, leaves)
      const fault = faultOf(given, nonce, question, stream)
      if (fault) faults.push(fault)
      if (given.cache.includes('hit')) seen.hits++
      if (given.status === 200 && given.text.includes(END) && given.ended) seen.whole++
      else if (leaves === undefined) seen.broken++
      else seen.left++
    }
  })
  await Promise.all(callers)
  expect(faults).toEqual([])
  // It was a storm, and the caches were in it.
  for (const count of Object.values(seen)) expect(count).toBeGreaterThan(20)

  // What is stored now is whole, and its owner's.
  breaks = false
  let stored = 0
  for (const { key, nonce } of tenants) {
    for (let index = 1; index <= QUESTIONS; index++) {
      const question = `question-${index}.`
      const given = await ask(key, 'chat', question, false, { 'cache-control': 'only-if-cached' })
      expect([200, 504]).toContain(given.status)
      if (given.status === 504) continue
      stored++
      expect(given.text).toContain(`tenant:${nonce} ${question} `)
      expect(given.text).toContain(END)
    }
  }
  // Some were never answered whole: those that were are nearly all here.
  expect(stored).toBeGreaterThan((TENANTS * QUESTIONS) / 2)
})
