// The routes of a simulated pod and what answers each of them, as vLLM 0.32 does.
import { createHash, randomUUID, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Adapters } from './adapters.ts'
import type { Admission } from './admission.ts'
import { headerOf, refuse, withJson } from './body.ts'
import { isPaused, isSleeping, pause, resetNothing, resetPrefixCache, resume, sleep, wakeUp } from './dev-routes.ts'
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
} from './errors.ts'
import { sendJson, serveGeneration } from './exchange.ts'
import type { LivingFaults } from './faults.ts'
import type { GenerationDeps } from './generation.ts'
import { parseMessage, parseMessageCount } from './message-request.ts'
import { answerModels, changeAdapters } from './model-routes.ts'
import type { Runner, Settings } from './options.ts'
import type { ModelLimits } from './prompt.ts'
import type { Rank } from './rank.ts'
import { parseChat, parseCompletion, parseDetokenize, parseTokenize } from './request.ts'
import { cancelResponse, followResponse, keptResponse, type ResponseDeps, serveResponse } from './response-exchange.ts'
import { parseResponse } from './response-request.ts'
import { parseQuery } from './schema.ts'
import type { Sleep } from './sleep.ts'

type Method = 'GET' | 'POST'
/** `id` is what stands in the path where the route has a place for it. */
type Handler = (pod: Pod, req: IncomingMessage, res: ServerResponse, id: string) => void

/** What the routes of one pod work with. */
export type Pod = {
  readonly settings: Settings
  readonly limits: ModelLimits
  readonly exchange: GenerationDeps
  readonly responses: ResponseDeps
  /** In their order; one without data parallelism. */
  readonly ranks: readonly Rank[]
  readonly adapters: Adapters
  readonly admission: Admission
  readonly sleep: Sleep
  /** The page of all ranks; without their families as a vLLM with its statistics switched off. */
  readonly metricsPage: (withEngine: boolean) => string
  /** A page of before that is still told, where that is set. */
  readonly stalePage: () => string | undefined
  /** Requests that are being served, where it is told (`--enable-server-load-tracking`). */
  readonly serverLoad: () => number
  readonly faults: () => LivingFaults
  readonly startedAtMs: number
}

export const VLLM_VERSION = '0.32.0'
const METRICS_CONTENT_TYPE = 'text/plain; version=1.0.0; charset=utf-8'
const MOUNTED_METRICS_CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
/** The prefixes that `--api-key` protects: everything else stays open. */
const PROTECTED_PATHS = ['/v1', '/v2', '/inference']

type Routes = Readonly<Record<string, Partial<Record<Method, Handler>>>>

/** Of every pod. */
const ROUTES: Routes = {
  '/health': { GET: answerHealth },
  '/ping': { GET: answerEmpty, POST: answerEmpty },
  '/version': { GET: (_pod, _req, res) => sendJson(res, 200, { version: VLLM_VERSION }) },
  '/load': { GET: ({ serverLoad }, _req, res) => sendJson(res, 200, { server_load: serverLoad() }) },
  '/metrics': { GET: (pod, _req, res) => answerMetrics(pod, res, METRICS_CONTENT_TYPE) },
  '/v1/models': { GET: answerModels },
  '/tokenize': { POST: answerTokenize },
  '/detokenize': { POST: answerDetokenize },
  '/kv_event_sources': { GET: answerKvEventSources },
  '/reset_prefix_cache': { POST: resetPrefixCache },
  '/sleep': { POST: sleep },
  '/wake_up': { POST: wakeUp },
  '/is_sleeping': { GET: isSleeping },
  '/pause': { POST: pause },
  '/resume': { POST: resume },
  '/is_paused': { GET: isPaused },
  '/reset_mm_cache': { POST: resetNothing },
  '/reset_encoder_cache': { POST: resetNothing },
  // The ranks of data parallelism are not in it.
  '/get_world_size': { GET: (_pod, _req, res) => sendJson(res, 200, { world_size: 1 }) },
}

/** Of pods that take adapters while they run. */
const ADAPTER_ROUTES: Routes = {
  '/v1/load_lora_adapter': { POST: (pod, req, res) => changeAdapters(pod.adapters.load, req, res) },
  '/v1/unload_lora_adapter': { POST: (pod, req, res) => changeAdapters(pod.adapters.unload, req, res) },
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
    '/v1/messages/render': { POST: refuseScaleOut },
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
  if (!isAuthorized(pod.settings.apiKey, path, req)) {
    res.removeHeader('vary')
    return refuse(res, UNAUTHORIZED)
  }
  // A page that another application serves, whatever the method; /metrics itself has a route besides.
  if (path.startsWith('/metrics/') || (path === '/metrics' && req.method !== 'GET')) {
    return answerMetrics(pod, res, MOUNTED_METRICS_CONTENT_TYPE)
  }
  const { methods, id } = routeOf(path, pod)
  if (!methods) return refuse(res, NOT_FOUND)
  const handler = methods[req.method as Method]
  if (handler) return handler(pod, req, res, id)
  res.setHeader('allow', Object.keys(methods).join(', '))
  refuse(res, METHOD_NOT_ALLOWED)
}

function routeOf(
  path: string,
  { settings: { runner }, adapters }: Pod,
): {
  readonly methods: Partial<Record<Method, Handler>> | undefined
  readonly id: string
} {
  for (const routes of [ROUTES, RUNNER_ROUTES[runner], adapters.canChange ? ADAPTER_ROUTES : {}]) {
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
  const [scheme = '', ...rest] = (headerOf(req, 'authorization') ?? '').split(' ')
  return scheme.toLowerCase() === 'bearer' && timingSafeEqual(digest(rest.join(' ')), digest(apiKey))
}

function refuseScaleOut(_pod: Pod, _req: IncomingMessage, res: ServerResponse): void {
  refuse(res, SCALE_OUT_DISABLED)
}

function answerEmpty(_pod: Pod, _req: IncomingMessage, res: ServerResponse): void {
  res.writeHead(200, { 'content-length': 0 })
  res.end()
}

/** Of the engine's life, not of its progress: one that hangs is healthy. */
function answerHealth({ faults }: Pod, _req: IncomingMessage, res: ServerResponse): void {
  res.writeHead(faults().engineDead ? 503 : 200, { 'content-length': 0 })
  res.end()
}

function answerKvEventSources({ ranks }: Pod, _req: IncomingMessage, res: ServerResponse): void {
  sendJson(
    res,
    200,
    Object.fromEntries(
      ranks.flatMap(({ index, publisher }) => {
        const source = publisher()?.source
        return source ? [[index, source]] : []
      }),
    ),
  )
}

function answerMetrics({ metricsPage, stalePage, faults }: Pod, res: ServerResponse, contentType: string): void {
  const page = Buffer.from(stalePage() ?? metricsPage(!faults().noMetrics))
  res.writeHead(200, { 'content-length': page.length, 'content-type': contentType })
  res.end(page)
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
  { exchange, limits, faults, ranks, admission }: Pod,
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
    const rank = wholeHeader(req, 'x-data-parallel-rank')
    if (rank !== undefined && !ranks[rank]) {
      return refuse(res, worded(badRequest(`data_parallel_rank ${rank} is out of range [0, ${ranks.length}).`)))
    }
    const busy = admission.refuse(request.prompts.length * request.n)
    if (busy) return refuse(res, worded(busy))
    const placed = { ...request, rank, priority: wholeHeader(req, 'x-vllm-priority') ?? request.priority }
    const loadHeader = () => loadHeaderOf(ranks, headerOf(req, 'endpoint-load-metrics-format'))
    serveGeneration(exchange, placed, headerOf(req, 'x-request-id'), loadHeader, res)
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

function answerResponse(
  { responses, limits, faults, admission }: Pod,
  req: IncomingMessage,
  res: ServerResponse,
): void {
  const { refuseStatus } = faults()
  withJson(req, res, (text) => {
    if (refuseStatus !== undefined) return refuse(res, refusalWithStatus(refuseStatus))
    const request = parseResponse(text, limits, responses.store)
    if (request instanceof ApiError) return refuse(res, request)
    const busy = admission.refuse(1)
    if (busy) return refuse(res, busy)
    const priority = wholeHeader(req, 'x-vllm-priority') ?? request.generation.priority
    serveResponse(responses, { ...request, generation: { ...request.generation, priority } }, res)
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

/** A whole number; what is none is as if it had not been sent. */
function wholeHeader(req: IncomingMessage, name: string): number | undefined {
  const value = headerOf(req, name)
  return value !== undefined && /^\s*[+-]?\d+\s*$/.test(value) ? Number(value) : undefined
}

/** The load report that a caller may ask for (ORCA), in either of its two spellings. In JSON the last rank stands for all. */
function loadHeaderOf(ranks: readonly Rank[], format: string | undefined): string | undefined {
  const loads = ranks.map(({ engine }) => engine.snapshot())
  const entries = [
    ...loads.map(({ waiting }) => ['num_requests_waiting', pythonFloat(waiting)] as const),
    ...loads.map(({ usedBlocks, blocks }) => ['kv_cache_usage_perc', pythonFloat(usedBlocks / blocks)] as const),
  ]
  switch (format?.toUpperCase()) {
    case 'TEXT':
      return `TEXT ${entries.map(([name, value]) => `named_metrics.${name}=${value}`).join(', ')}`
    case 'JSON':
      return `JSON {"named_metrics": {${[...new Map(entries)].map(([name, value]) => `"${name}": ${value}`).join(', ')}}}`
    default:
      return undefined
  }
}
