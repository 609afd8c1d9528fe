// The routes of a simulated pod and what answers each of them, as vLLM 0.32 does.
import { createHash, randomUUID, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { serveEmbedding } from './embedding-exchange.ts'
import { parseEmbedding } from './embedding-request.ts'
import {
  ApiError,
  anthropicError,
  badRequest,
  METHOD_NOT_ALLOWED,
  NOT_FOUND,
  pythonFloat,
  refusalWithStatus,
  SCALE_OUT_DISABLED,
  UNAUTHORIZED,
  unsupportedMediaType,
} from './errors.ts'
import { sendFailure, sendJson, serveGeneration } from './exchange.ts'
import type { Faults } from './faults.ts'
import { type GenerationDeps, reportFault } from './generation.ts'
import type { KvEventSource } from './kv-publisher.ts'
import { parseMessage, parseMessageCount } from './message-request.ts'
import type { Runner, Settings } from './options.ts'
import type { ModelLimits } from './prompt.ts'
import { parseChat, parseCompletion, parseDetokenize, parseTokenize } from './request.ts'
import { cancelResponse, followResponse, keptResponse, type ResponseDeps, serveResponse } from './response-exchange.ts'
import { parseResponse } from './response-request.ts'
import { parseQuery } from './schema.ts'

type Method = 'GET' | 'POST'
/** `id` is what stands in the path where the route has a place for it. */
type Handler = (pod: Pod, req: IncomingMessage, res: ServerResponse, id: string) => void

/** What the routes of one pod work with. */
export type Pod = {
  readonly settings: Settings
  readonly limits: ModelLimits
  readonly exchange: GenerationDeps
  readonly responses: ResponseDeps
  /** Where KV events can be had; undefined when they are off. */
  readonly kvEventSource: () => KvEventSource | undefined
  readonly faults: () => Faults
  readonly startedAtMs: number
}

export const VLLM_VERSION = '0.32.0'
/** Twice what the edge and the router pass on; more would hold up every pod of the process. */
const BODY_BYTES_MAX = 16 * 1024 * 1024
const METRICS_CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
/** The prefixes that `--api-key` protects: everything else stays open. */
const PROTECTED_PATHS = ['/v1', '/v2', '/inference']

type Routes = Readonly<Record<string, Partial<Record<Method, Handler>>>>

/** Of every pod. */
const ROUTES: Routes = {
  '/health': { GET: answerEmpty },
  '/ping': { GET: answerEmpty, POST: answerEmpty },
  '/version': { GET: (_pod, _req, res) => sendJson(res, 200, { version: VLLM_VERSION }) },
  '/load': { GET: (_pod, _req, res) => sendJson(res, 200, { server_load: 0 }) },
  '/metrics': { GET: answerMetrics },
  '/v1/models': { GET: answerModels },
  '/tokenize': { POST: answerTokenize },
  '/detokenize': { POST: answerDetokenize },
  '/kv_event_sources': { GET: answerKvEventSources },
  '/reset_prefix_cache': { POST: resetPrefixCache },
}

/** What else a pod has, by its runner. */
const RUNNER_ROUTES: Readonly<Record<Runner, Routes>> = {
  generate: {
    '/v1/chat/completions': { POST: (pod, req, res) => generate(pod, parseChat, req, res) },
    '/v1/completions': { POST: (pod, req, res) => generate(pod, parseCompletion, req, res) },
    '/v1/responses': { POST: answerResponse },
    '/v1/messages': { POST: (pod, req, res) => generate(pod, parseMessage, req, res, anthropicError) },
    '/v1/messages/count_tokens': { POST: countMessageTokens },
    '/v1/chat/completions/render': { POST: refuseScaleOut },
    '/v1/chat/completions/derender': { POST: refuseScaleOut },
    '/v1/completions/render': { POST: refuseScaleOut },
    '/v1/completions/derender': { POST: refuseScaleOut },
    '/v1/responses/render': { POST: refuseScaleOut },
    '/inference/v1/generate': { POST: refuseScaleOut },
  },
  pooling: {
    '/v1/embeddings': { POST: answerEmbedding },
  },
}

/** Routes of generating pods with an id in their path. */
const ID_ROUTES: readonly (readonly [path: RegExp, methods: Partial<Record<Method, Handler>>])[] = [
  [/^\/v1\/responses\/([^/]+)$/, { GET: answerKeptResponse }],
  [
    /^\/v1\/responses\/([^/]+)\/cancel$/,
    { POST: (pod, _req, res, id) => sendResponse(res, cancelResponse(pod.responses, id)) },
  ],
]

/** Answers a request of any path. */
export function route(pod: Pod, req: IncomingMessage, res: ServerResponse): void {
  // uvicorn says nothing about the connection.
  res.removeHeader('connection')
  res.setHeader('server', 'uvicorn')
  res.setHeader('vary', 'Origin')
  if (pod.settings.requestIdHeaders) {
    res.setHeader('x-request-id', headerOf(req, 'x-request-id') ?? randomUUID().replaceAll('-', ''))
  }
  const path = (req.url ?? '/').split('?', 1)[0] as string
  if (!isAuthorized(pod.settings.apiKey, path, req)) return refuse(res, UNAUTHORIZED)
  const { methods, id } = routeOf(path, pod.settings.runner)
  if (!methods) return refuse(res, NOT_FOUND)
  const handler = methods[req.method as Method]
  if (handler) return handler(pod, req, res, id)
  res.setHeader('allow', Object.keys(methods).join(', '))
  refuse(res, METHOD_NOT_ALLOWED)
}

function routeOf(
  path: string,
  runner: Runner,
): {
  readonly methods: Partial<Record<Method, Handler>> | undefined
  readonly id: string
} {
  for (const routes of [ROUTES, RUNNER_ROUTES[runner]]) {
    if (Object.hasOwn(routes, path)) return { methods: routes[path], id: '' }
  }
  if (runner === 'pooling') return { methods: undefined, id: '' }
  for (const [pattern, methods] of ID_ROUTES) {
    const id = pattern.exec(path)?.[1]
    if (id !== undefined) return { methods, id: decoded(id) }
  }
  return { methods: undefined, id: '' }
}

function decoded(id: string): string {
  try {
    return decodeURIComponent(id)
  } catch {
    return id
  }
}

function isAuthorized(apiKey: string | undefined, path: string, req: IncomingMessage): boolean {
  if (apiKey === undefined || !PROTECTED_PATHS.some((prefix) => path.startsWith(prefix))) return true
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(headerOf(req, 'authorization') ?? ''), digest(`Bearer ${apiKey}`))
}

function refuse(res: ServerResponse, { status, body }: ApiError): void {
  sendJson(res, status, body)
}

function refuseScaleOut(_pod: Pod, _req: IncomingMessage, res: ServerResponse): void {
  refuse(res, SCALE_OUT_DISABLED)
}

function answerEmpty(_pod: Pod, _req: IncomingMessage, res: ServerResponse): void {
  res.writeHead(200, { 'content-length': 0 })
  res.end()
}

function answerKvEventSources({ kvEventSource }: Pod, _req: IncomingMessage, res: ServerResponse): void {
  const source = kvEventSource()
  sendJson(res, 200, source ? { 0: source } : {})
}

function resetPrefixCache({ exchange }: Pod, req: IncomingMessage, res: ServerResponse): void {
  const query = parseQuery(req.url, { reset_running_requests: 'boolean' })
  if (query instanceof ApiError) return refuse(res, query)
  sendJson(res, 200, { success: exchange.engine.resetPrefixCache(query.reset_running_requests === true) })
  exchange.wake()
}

function answerMetrics({ exchange, faults }: Pod, _req: IncomingMessage, res: ServerResponse): void {
  const page = Buffer.from(exchange.metrics.page(exchange.engine.snapshot(), !faults().noMetrics))
  res.writeHead(200, { 'content-length': page.length, 'content-type': METRICS_CONTENT_TYPE })
  res.end(page)
}

function answerModels({ settings, startedAtMs }: Pod, _req: IncomingMessage, res: ServerResponse): void {
  const { models, maxModelLen } = settings
  const created = Math.floor(startedAtMs / 1000)
  const data = models.map((id) => ({
    id,
    object: 'model',
    created,
    owned_by: 'vllm',
    root: models[0],
    parent: null,
    max_model_len: maxModelLen,
    permission: [
      {
        id: `modelperm-${randomUUID().replaceAll('-', '').slice(0, 16)}`,
        object: 'model_permission',
        created,
        allow_create_engine: false,
        allow_sampling: true,
        allow_logprobs: true,
        allow_search_indices: false,
        allow_view: true,
        allow_fine_tuning: false,
        organization: '*',
        group: null,
        is_blocking: false,
      },
    ],
  }))
  sendJson(res, 200, { object: 'list', data })
}

function answerTokenize({ limits, settings }: Pod, req: IncomingMessage, res: ServerResponse): void {
  withJson(req, res, (text) => {
    const parsed = parseTokenize(text, limits)
    if (parsed instanceof ApiError) return refuse(res, parsed)
    const { ids, strs } = parsed
    sendJson(res, 200, {
      count: ids.length,
      max_model_len: settings.maxModelLen,
      tokens: ids,
      token_strs: strs ? ids.map(limits.tokenizer.spelling) : null,
    })
  })
}

function answerDetokenize({ limits }: Pod, req: IncomingMessage, res: ServerResponse): void {
  withJson(req, res, (text) => {
    const ids = parseDetokenize(text, limits)
    if (ids instanceof ApiError) return refuse(res, ids)
    sendJson(res, 200, { prompt: limits.tokenizer.decode(ids) })
  })
}

function generate(
  { exchange, limits, faults }: Pod,
  parse: typeof parseChat,
  req: IncomingMessage,
  res: ServerResponse,
  worded: (refusal: ApiError) => ApiError = (refusal) => refusal,
): void {
  const { refuseStatus } = faults()
  withJson(req, res, (text) => {
    if (refuseStatus !== undefined) return refuse(res, worded(refusalWithStatus(refuseStatus)))
    const request = parse(text, limits)
    if (request instanceof ApiError) return refuse(res, request)
    const rank = headerOf(req, 'x-data-parallel-rank')
    if (rank !== undefined && /^\d+$/.test(rank) && Number(rank) > 0) {
      return refuse(res, worded(badRequest(`data_parallel_rank ${Number(rank)} is out of range [0, 1).`)))
    }
    const loadHeader = () => loadHeaderOf(exchange, headerOf(req, 'endpoint-load-metrics-format'))
    serveGeneration(exchange, request, headerOf(req, 'x-request-id'), loadHeader, res)
  })
}

function countMessageTokens({ limits, faults }: Pod, req: IncomingMessage, res: ServerResponse): void {
  const { refuseStatus } = faults()
  withJson(req, res, (text) => {
    if (refuseStatus !== undefined) return refuse(res, anthropicError(refusalWithStatus(refuseStatus)))
    const count = parseMessageCount(text, limits)
    if (count instanceof ApiError) return refuse(res, count)
    sendJson(res, 200, { input_tokens: count, context_management: { original_input_tokens: count } })
  })
}

function answerResponse({ responses, limits, faults }: Pod, req: IncomingMessage, res: ServerResponse): void {
  const { refuseStatus } = faults()
  withJson(req, res, (text) => {
    if (refuseStatus !== undefined) return refuse(res, refusalWithStatus(refuseStatus))
    const request = parseResponse(text, limits, responses.store)
    if (request instanceof ApiError) return refuse(res, request)
    serveResponse(responses, request, res)
  })
}

function answerEmbedding({ exchange, limits, faults }: Pod, req: IncomingMessage, res: ServerResponse): void {
  const { refuseStatus } = faults()
  withJson(req, res, (text) => {
    if (refuseStatus !== undefined) return refuse(res, refusalWithStatus(refuseStatus))
    const request = parseEmbedding(text, limits)
    if (request instanceof ApiError) return refuse(res, request)
    serveEmbedding(exchange, request, headerOf(req, 'x-request-id'), res)
  })
}

function answerKeptResponse({ responses }: Pod, req: IncomingMessage, res: ServerResponse, id: string): void {
  const query = parseQuery(req.url, { starting_after: 'integer', stream: 'boolean' })
  if (query instanceof ApiError) return refuse(res, query)
  const kept = keptResponse(responses, id)
  if (kept instanceof ApiError || query.stream !== true) return sendResponse(res, kept)
  followResponse(responses, id, query.starting_after as number | undefined, res)
}

function sendResponse(res: ServerResponse, found: unknown): void {
  if (found instanceof ApiError) refuse(res, found)
  else sendJson(res, 200, found)
}

/** The load report that a caller may ask for (ORCA), in either of its two spellings. */
function loadHeaderOf({ engine }: GenerationDeps, format: string | undefined): string | undefined {
  const { waiting, usedBlocks, blocks } = engine.snapshot()
  const values = { num_requests_waiting: pythonFloat(waiting), kv_cache_usage_perc: pythonFloat(usedBlocks / blocks) }
  const entries = Object.entries(values)
  switch (format?.toUpperCase()) {
    case 'TEXT':
      return `TEXT ${entries.map(([name, value]) => `named_metrics.${name}=${value}`).join(', ')}`
    case 'JSON':
      return `JSON {"named_metrics": {${entries.map(([name, value]) => `"${name}": ${value}`).join(', ')}}}`
    default:
      return undefined
  }
}

/** Reads a JSON body's text; answers by itself what is no JSON body. */
function withJson(req: IncomingMessage, res: ServerResponse, use: (text: string) => void): void {
  const chunks: Buffer[] = []
  let length = 0
  req.on('data', (chunk: Buffer) => {
    length += chunk.length
    if (length <= BODY_BYTES_MAX) chunks.push(chunk)
    else chunks.length = 0
  })
  req.on('end', () => {
    if (length > BODY_BYTES_MAX) return sendJson(res, 413, { detail: 'Request Entity Too Large' })
    const mediaType = headerOf(req, 'content-type')?.split(';', 1)[0]?.trim().toLowerCase()
    if (mediaType !== 'application/json') return refuse(res, unsupportedMediaType())
    try {
      use(Buffer.concat(chunks).toString('utf8'))
    } catch (error) {
      // A fault of ours, met by one request: the other requests of the pod, and whoever shares the process, go on.
      reportFault(error)
      sendFailure(res)
    }
  })
  // A client that goes away with half a body said nothing to answer.
  req.on('error', () => undefined)
}

function headerOf(req: IncomingMessage, name: string): string | undefined {
  const value = req.headers[name]
  return Array.isArray(value) ? value[0] : value
}
