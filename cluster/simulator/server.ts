// A simulated vLLM pod: the HTTP surface of vLLM 0.32's OpenAI server in front of the simulated engine.
import { createHash, randomUUID, timingSafeEqual } from 'node:crypto'
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { createRandom } from '../../shared/random.ts'
import { listen } from '../listen.ts'
import { createDriver } from './driver.ts'
import { type Emission, Engine } from './engine.ts'
import {
  ApiError,
  badRequest,
  METHOD_NOT_ALLOWED,
  NOT_FOUND,
  pythonFloat,
  refusalWithStatus,
  SCALE_OUT_DISABLED,
  UNAUTHORIZED,
  unsupportedMediaType,
} from './errors.ts'
import { type ExchangeDeps, reportFault, sendFailure, sendJson, serveGeneration } from './exchange.ts'
import type { Faults } from './faults.ts'
import { EngineMetrics } from './metrics.ts'
import { loadTokenizer } from './model-tokenizer.ts'
import { type Settings, type SimulatorOptions, settleOptions } from './options.ts'
import type { ModelLimits } from './prompt.ts'
import { parseChat, parseCompletion, parseDetokenize, parseTokenize } from './request.ts'
import { H100_8B } from './timing.ts'
import { createBuiltInTokenizer } from './tokenizer.ts'

export type { Faults } from './faults.ts'
export type { SimulatorOptions } from './options.ts'

export type SimulatorStats = {
  readonly running: number
  readonly waiting: number
  /** Engine steps since the start. */
  readonly steps: number
  readonly preemptions: number
  /** Sequences that ended, by how. */
  readonly finished: number
  readonly aborted: number
  readonly failed: number
  /** 0 to 1. */
  readonly kvCacheUsage: number
}

export type Simulator = {
  readonly url: string
  readonly port: number
  readonly faults: {
    /** Replaces all faults; `{}` heals the pod. */
    readonly set: (faults: Faults) => void
  }
  readonly stats: () => SimulatorStats
  /** Aborts what is in flight and closes every connection. */
  readonly close: () => Promise<void>
}

const VERSION = '0.32.0'
/** Twice what the edge and the router pass on; more would hold up every pod of the process. */
const BODY_BYTES_MAX = 16 * 1024 * 1024
/** uvicorn's; clients that keep a connection longer run into its end. */
const KEEP_ALIVE_MS = 5_000
const METRICS_CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
/** The prefixes that `--api-key` protects: everything else stays open. */
const PROTECTED_PATHS = ['/v1', '/v2', '/inference']

type Method = 'GET' | 'POST'
type Handler = (pod: Pod, req: IncomingMessage, res: ServerResponse) => void

type Pod = {
  readonly settings: Settings
  readonly limits: ModelLimits
  readonly exchange: ExchangeDeps
  readonly faults: () => Faults
  readonly startedAtMs: number
}

const ROUTES: Readonly<Record<string, Partial<Record<Method, Handler>>>> = {
  '/health': { GET: answerEmpty },
  '/ping': { GET: answerEmpty, POST: answerEmpty },
  '/version': { GET: (_pod, _req, res) => sendJson(res, 200, { version: VERSION }) },
  '/load': { GET: (_pod, _req, res) => sendJson(res, 200, { server_load: 0 }) },
  '/metrics': { GET: answerMetrics },
  '/v1/models': { GET: answerModels },
  '/tokenize': { POST: answerTokenize },
  '/detokenize': { POST: answerDetokenize },
  '/v1/chat/completions': { POST: (pod, req, res) => generate(pod, parseChat, req, res) },
  '/v1/completions': { POST: (pod, req, res) => generate(pod, parseCompletion, req, res) },
  '/v1/chat/completions/render': { POST: refuseScaleOut },
  '/v1/chat/completions/derender': { POST: refuseScaleOut },
  '/v1/completions/render': { POST: refuseScaleOut },
  '/v1/completions/derender': { POST: refuseScaleOut },
  '/inference/v1/generate': { POST: refuseScaleOut },
}

/** Starts a pod. Rejects with a UserError when an option is wrong or the port is taken; `portFlag` chooses another. */
export async function startSimulator(options: SimulatorOptions = {}, portFlag = '--port'): Promise<Simulator> {
  const settings = settleOptions(options)
  const { host, models, blockSize, speed, seed, tls, tokenizerDir } = settings
  const tokenizer = tokenizerDir === undefined ? createBuiltInTokenizer() : loadTokenizer(tokenizerDir)
  const nowMs = () => performance.now()
  const startedAtMs = Date.now()
  const blocks = Math.floor(settings.kvCacheTokens / blockSize)
  const engine = new Engine({
    maxNumSeqs: settings.maxNumSeqs,
    maxNumBatchedTokens: settings.maxNumBatchedTokens,
    blocks,
    blockSizeTokens: blockSize,
    timing: H100_8B,
    speed,
  })
  const metrics = new EngineMetrics({
    model: models[0] as string,
    maxModelLen: settings.maxModelLen,
    blockSizeTokens: blockSize,
    blocks,
    createdAtMs: startedAtMs,
  })
  const listeners = new Map<string, (emission: Emission) => void>()
  const driver = createDriver(engine, {
    nowMs,
    onStep: (result) => {
      metrics.recordStep(result)
      for (const emission of result.emissions) listeners.get(emission.id)?.(emission)
    },
  })
  let faults: Faults = {}
  const pod: Pod = {
    settings,
    limits: { models, maxModelLen: settings.maxModelLen, tokenizer },
    exchange: {
      engine,
      metrics,
      tokenizer,
      random: createRandom(seed),
      nowMs,
      wake: driver.wake,
      faults: () => faults,
      blockSizeTokens: blockSize,
      promptTokensDetails: settings.promptTokensDetails,
      systemFingerprint: fingerprintOf(settings),
      listeners,
    },
    faults: () => faults,
    startedAtMs,
  }
  const serverOptions = { keepAliveTimeout: KEEP_ALIVE_MS, keepAliveTimeoutBuffer: 0 }
  const onRequest = (req: IncomingMessage, res: ServerResponse) => route(pod, req, res)
  const server = tls
    ? createHttpsServer({ ...serverOptions, ...tls }, onRequest)
    : createHttpServer(serverOptions, onRequest)
  const port = await listen(server, host, settings.port, 'the simulated pod', portFlag)

  return {
    url: `${tls ? 'https' : 'http'}://${host.includes(':') ? `[${host}]` : host}:${port}`,
    port,
    faults: {
      set: (wanted) => {
        faults = wanted
        driver.hang(wanted.hang === true)
      },
    },
    stats: () => {
      const { running, waiting, steps, preemptions, usedBlocks } = engine.snapshot()
      return {
        running,
        waiting,
        steps,
        preemptions,
        finished: metrics.finishedWith('stop') + metrics.finishedWith('length'),
        aborted: metrics.finishedWith('abort'),
        failed: metrics.finishedWith('error'),
        kvCacheUsage: usedBlocks / blocks,
      }
    },
    close: () =>
      new Promise((resolve) => {
        driver.stop()
        for (const id of listeners.keys()) {
          const finished = engine.abort(id, nowMs())
          if (finished) metrics.recordFinished(finished)
        }
        listeners.clear()
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

/** vLLM's names its version and eight digits that pods of one configuration share. */
function fingerprintOf({ models, maxModelLen, blockSize, maxNumSeqs, maxNumBatchedTokens }: Settings): string {
  const config = JSON.stringify([models, maxModelLen, blockSize, maxNumSeqs, maxNumBatchedTokens])
  return `vllm-${VERSION}-${createHash('sha256').update(config).digest('hex').slice(0, 8)}`
}

function route(pod: Pod, req: IncomingMessage, res: ServerResponse): void {
  // uvicorn says nothing about the connection.
  res.removeHeader('connection')
  res.setHeader('server', 'uvicorn')
  res.setHeader('vary', 'Origin')
  if (pod.settings.requestIdHeaders) {
    res.setHeader('x-request-id', headerOf(req, 'x-request-id') ?? randomUUID().replaceAll('-', ''))
  }
  const path = (req.url ?? '/').split('?', 1)[0] as string
  if (!isAuthorized(pod.settings.apiKey, path, req)) return refuse(res, UNAUTHORIZED)
  const methods = Object.hasOwn(ROUTES, path) ? ROUTES[path] : undefined
  if (!methods) return refuse(res, NOT_FOUND)
  const handler = methods[req.method as Method]
  if (handler) return handler(pod, req, res)
  res.setHeader('allow', Object.keys(methods).join(', '))
  refuse(res, METHOD_NOT_ALLOWED)
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
): void {
  const { refuseStatus } = faults()
  withJson(req, res, (text) => {
    if (refuseStatus !== undefined) return refuse(res, refusalWithStatus(refuseStatus))
    const request = parse(text, limits)
    if (request instanceof ApiError) return refuse(res, request)
    const rank = headerOf(req, 'x-data-parallel-rank')
    if (rank !== undefined && /^\d+$/.test(rank) && Number(rank) > 0) {
      return refuse(res, badRequest(`data_parallel_rank ${Number(rank)} is out of range [0, 1).`))
    }
    const loadHeader = () => loadHeaderOf(exchange, headerOf(req, 'endpoint-load-metrics-format'))
    serveGeneration(exchange, request, headerOf(req, 'x-request-id'), loadHeader, res)
  })
}

/** The load report that a caller may ask for (ORCA), in either of its two spellings. */
function loadHeaderOf({ engine }: ExchangeDeps, format: string | undefined): string | undefined {
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
