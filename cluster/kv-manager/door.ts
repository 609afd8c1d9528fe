// The KV-Cache Manager's door: what pods hold of a prompt, what happens in their caches, and the whole index for another
// replica. The command of that name serves it, and so does a router.
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { CacheEvent, EventFeed } from '../kv/event-feed.ts'
import type { MatchPrefix, PrefixMatch } from '../kv/prefix-match.ts'
import type { Tokenize } from '../tokens/tokenizer.ts'
import { type ReadScore, readScoreBody, readScoreQuery, type ScoreFault } from './score-request.ts'

export type KvDoorDeps = {
  /** Base models whose pods are known. */
  readonly models: () => readonly string[]
  /** The base model that an adapter belongs to; undefined when it is no adapter. */
  readonly adapterOf: (name: string) => string | undefined
  readonly tokenize: Tokenize
  readonly match: MatchPrefix
  readonly feed: EventFeed
  readonly snapshot: () => AsyncIterable<Buffer>
}

/** Answers what is asked of `/score`, `/events` and `/snapshot`; false for any other path, which it leaves alone. */
export type KvDoor = (url: URL, req: IncomingMessage, res: ServerResponse) => boolean

export const KV_PATHS = '/score, /events and /snapshot'

/** A server that has nothing but this door. */
export function createScoreServer(door: KvDoor): Server {
  return createServer((req, res) => {
    // An unusual path like `//` is no URL to the parser.
    const url = URL.parse(req.url ?? '/', 'http://kv')
    if (url && door(url, req, res)) return
    refuse(res, 404, { message: `Here are ${KV_PATHS}.`, param: null })
  })
}

/** A million token ids. */
const BODY_BYTES_MAX = 8 * 1024 * 1024
/** What a slow reader of events may leave unread. */
const UNREAD_BYTES_MAX = 1024 * 1024
const KEEP_ALIVE_MS = 15_000

export function createKvDoor(deps: KvDoorDeps): KvDoor {
  return (url, req, res) => {
    switch (url.pathname) {
      case '/score':
        if (!allowed(req, res, ['GET', 'POST'])) return true
        score(deps, url, req, res).catch(() => res.destroy())
        return true
      case '/events':
        if (allowed(req, res, ['GET'])) tellEvents(deps.feed, url, req, res)
        return true
      case '/snapshot':
        if (allowed(req, res, ['GET'])) sendSnapshot(deps, res).catch(() => res.destroy())
        return true
      default:
        return false
    }
  }
}

function allowed(req: IncomingMessage, res: ServerResponse, methods: readonly string[]): boolean {
  if (methods.includes(req.method ?? '')) return true
  res.setHeader('allow', methods.join(', '))
  refuse(res, 405, { message: `Only ${methods.join(' and ')} here.`, param: null })
  return false
}

async function score(deps: KvDoorDeps, url: URL, req: IncomingMessage, res: ServerResponse): Promise<void> {
  const read = req.method === 'GET' ? readScoreQuery(url.searchParams) : await readBody(req)
  if (read === undefined) {
    res.setHeader('connection', 'close')
    return refuse(res, 413, { message: `The body has more than ${BODY_BYTES_MAX} bytes.`, param: null })
  }
  if (!read.ok) return refuse(res, 400, read.fault)
  const { request } = read
  const models = deps.models()
  const model = request.model ?? (models.length === 1 ? models[0] : undefined)
  if (model === undefined) {
    const message =
      models.length === 0
        ? 'No pod has said yet which model it serves.'
        : `Say which model: ${models.slice(0, 20).join(', ')}.`
    return refuse(res, models.length === 0 ? 503 : 400, { message, param: 'model' })
  }
  const base = deps.adapterOf(model)
  if (base === undefined && models.length > 0 && !models.includes(model)) {
    const message = `No pod serves ${JSON.stringify(model)}: there are ${models.slice(0, 20).join(', ')}.`
    return refuse(res, 404, { message, param: 'model' })
  }
  const tokens = await deps.tokenize(model, request.prompt)
  if (!tokens.ok) {
    return refuse(res, 503, { message: `The prompt's token ids are not known: ${tokens.because}.`, param: null })
  }
  const lora = request.lora ?? (base === undefined ? undefined : model)
  const { ids: tokenIds } = tokens
  const matches = deps.match({ tokenIds, model: base ?? model, lora, cacheSalt: request.cacheSalt })
  sendJson(res, 200, tellScores(model, tokenIds.length, matches))
}

export function tellScores(model: string, promptTokens: number, matches: readonly PrefixMatch[]): unknown {
  return {
    model,
    promptTokens,
    scores: [...matches]
      .sort((a, b) => b.matchedTokens - a.matchedTokens || b.gpuTokens - a.gpuTokens)
      .map(({ endpoint, rank, matchedTokens, gpuTokens, complete }) => ({
        endpoint,
        rank,
        matchedTokens,
        score: promptTokens === 0 ? 0 : matchedTokens / promptTokens,
        tiers: { gpu: gpuTokens, cpu: matchedTokens - gpuTokens },
        stale: !complete,
      })),
  }
}

/** Undefined when it is too large. What is left of it is not read: the connection ends with the answer. */
function readBody(req: IncomingMessage): Promise<ReadScore | undefined> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let bytes = 0
    req.on('data', (chunk: Buffer) => {
      bytes += chunk.length
      if (bytes > BODY_BYTES_MAX) {
        req.pause()
        resolve(undefined)
      } else chunks.push(chunk)
    })
    req.on('end', () => resolve(readScoreBody(Buffer.concat(chunks, bytes))))
    req.on('error', reject)
  })
}

/** Server-sent events: `?endpoint=host:port` and `?type=kv_alloc` choose among them, each may repeat. */
function tellEvents(feed: EventFeed, url: URL, req: IncomingMessage, res: ServerResponse): void {
  const endpoints = new Set(url.searchParams.getAll('endpoint'))
  const types = new Set(url.searchParams.getAll('type'))
  let missed = 0
  const stop = feed.watch((event) => {
    if (endpoints.size > 0 && !endpoints.has(event.endpoint)) return
    if (types.size > 0 && !types.has(event.event_type)) return
    if (res.writableLength > UNREAD_BYTES_MAX) {
      missed++
      return
    }
    if (missed > 0) res.write(`event: lagged\ndata: {"missed":${missed}}\n\n`)
    missed = 0
    res.write(eventOf(event))
  })
  if (stop === undefined) {
    return refuse(res, 503, { message: 'Too many watch the events already: try again later.', param: null })
  }
  res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
  res.write(': events of KV caches\n\n')
  const timer = setInterval(() => res.write(': still here\n\n'), KEEP_ALIVE_MS)
  const over = (): void => {
    clearInterval(timer)
    stop()
  }
  res.on('close', over)
  req.on('error', over)
}

function eventOf(event: CacheEvent): string {
  return `event: ${event.event_type}\ndata: ${JSON.stringify(event)}\n\n`
}

async function sendSnapshot({ snapshot }: KvDoorDeps, res: ServerResponse): Promise<void> {
  res.writeHead(200, { 'content-type': 'application/octet-stream', 'cache-control': 'no-store' })
  for await (const part of snapshot()) {
    if (res.destroyed) return
    if (part.length > 0 && !res.write(part)) await Promise.race([once(res, 'drain'), once(res, 'close')])
  }
  res.end()
}

function refuse(res: ServerResponse, status: number, { message, param }: ScoreFault): void {
  const type = status >= 500 ? 'service_unavailable' : 'invalid_request_error'
  if (status === 503) res.setHeader('retry-after', '1')
  sendJson(res, status, { error: { message, type, param } })
}

function sendJson(res: ServerResponse, status: number, value: unknown): void {
  res.writeHead(status, { 'content-type': 'application/json' })
  res.end(`${JSON.stringify(value)}\n`)
}
