// The edge's door: authenticate → canonicalise → session → forward → meter. Every step answers a value or a refusal;
// `generate` tells their story.
import { type Context, Hono } from 'hono'
import { systemClock } from '../shared/clock.ts'
import { DIALECT_OF_PATH, type Dialect, responseRouteOf } from '../shared/dialect.ts'
import { HEADER } from '../shared/headers.ts'
import {
  type Authenticate,
  type Authenticated,
  createAuthenticate,
  type Principal,
  refuseModel,
  type Unauthenticated,
} from './authenticate.ts'
import { readAtMost } from './bytes.ts'
import { cacheDepsOf, followAnswer, storedAnswer } from './cache-step.ts'
import { type Config, configOf, type Env } from './config.ts'
import { answerHeaders, forward, type Outgoing, type Rim } from './forward.ts'
import { meter } from './meter.ts'
import { limitModelList } from './models.ts'
import { prepareBody } from './prepare.ts'
import { consult, type KeptBytes } from './response-cache.ts'
import { outcomeOf, readSession, renewSession } from './session.ts'
import { eventTap, plainTap } from './tap.ts'
import { Visit } from './visit.ts'

type Edge = { Bindings: Env; Variables: { visit: Visit } }

const MODEL_LIST_BYTES_MAX = 1024 * 1024
const MODEL_LIST_TIMEOUT_MS = 10_000
const RIM: Rim = { clock: systemClock, fetch: (url, init) => fetch(url, init) }

const app = new Hono<Edge>()

app.use(async (c, next) => {
  const visit = new Visit(c.req.raw, c.req.path, systemClock, log)
  c.set('visit', visit)
  c.header(HEADER.requestId, visit.requestId)
  await next()
})
app.get('/', (c) => c.json({ name: 'warmpath', api: '/v1', health: '/healthz' })).all(refuseMethod('GET, HEAD'))
app.get('/healthz', health).all(refuseMethod('GET, HEAD'))
for (const [path, dialect] of Object.entries(DIALECT_OF_PATH)) {
  app.post(path, (c) => generate(c, dialect)).all(refuseMethod('POST'))
}
app.get('/v1/responses/:id', storedResponse).all(refuseMethod('GET, HEAD'))
app.post('/v1/responses/:id/cancel', storedResponse).all(refuseMethod('POST'))
app.get('/v1/models', models).all(refuseMethod('GET, HEAD'))
app.get('/v1/models/:id{.+}', models).all(refuseMethod('GET, HEAD'))
app.notFound((c) => c.var.visit.refuse({ reason: 'route-not-found', message: 'there is no such route' }))
app.onError((error, c) => {
  logBug(c.var.visit, error)
  return c.var.visit.refuse({ reason: 'internal', message: 'the edge failed; its log says why' })
})

export default app

async function generate(c: Context<Edge>, dialect: Dialect): Promise<Response> {
  const { visit } = c.var
  const config = configOf(c.env)

  const caller = await authenticate(c, config)
  if (!caller.ok) return visit.refuse(caller.rejection)
  const { principal } = caller

  const body = await prepareBody(c.req.raw, dialect, principal.cacheSalt)
  if (!body.ok) return visit.refuse(body.rejection)
  visit.model = body.model
  const refused = refuseModel(principal, body.model)
  if (refused) return visit.refuse(refused)

  const cache = cacheDepsOf(config, c.req.url, (error) => logBug(visit, error))
  const cacheControl = c.req.raw.headers.get('cache-control')
  const { cacheScope } = principal
  const cached = await consult(
    { scope: cacheScope, dialect, model: body.model, members: body.members, cacheControl },
    cache,
  )
  if (cached.kind === 'hit') return storedAnswer(visit, cached, body)

  const scope = { tenant: principal.tenant, keys: config.router.signingKeys, clock: systemClock }
  const session = await readSession(c.req.raw.headers.get(HEADER.sessionToken), scope)
  visit.session = outcomeOf(session)

  const upstream = upstreamOf(c)
  const pin = session.state === 'valid' ? session.session.pin : ''
  const outgoing = { ...outgoingOf(c, principal), method: 'POST', path: c.req.path, pin, body: body.bytes } as const
  const sent = await forward(outgoing, config.router, upstream, RIM)
  if (!sent.ok) return visit.refuse(sent.rejection)

  const headers = answerHeadersOf(visit, sent.answer)
  const until = (work: Promise<void>) => c.executionCtx.waitUntil(work)
  const keep = followAnswer(visit, cached, cache, sent.answer, headers, until)
  if (sent.answer.ok) {
    const renewed = await renewSession(session, sent.answer.headers.get(HEADER.pin), scope)
    visit.session = renewed.outcome
    if (renewed.token !== undefined) headers.set(HEADER.sessionToken, renewed.token)
  }
  const { withholdUsage } = body
  return passOn(c, {
    answer: sent.answer,
    headers,
    upstream,
    withholdUsage,
    countedBefore: visit.cache === 'router',
    keep,
  })
}

/**
 * Retrieves or cancels a response that an engine stored: the router finds the engine by the id. Ids are the tenant's, not
 * the key's: which model a response is of is known when it is answered, and a cancel has happened by then. So a key that
 * may use some models only can still fetch and cancel what its tenant's other keys made, if it knows the id.
 */
async function storedResponse(c: Context<Edge>): Promise<Response> {
  const { visit } = c.var
  const config = configOf(c.env)
  const caller = await authenticate(c, config)
  if (!caller.ok) return visit.refuse(caller.rejection)
  const route = responseRouteOf(c.req.path)
  if (!route) return visit.refuse({ reason: 'response-not-found', message: 'no response has such an id' })

  const retrieves = route.action === 'retrieve'
  const path = retrieves ? c.req.path + retrievalQuery(c) : c.req.path
  const method = retrieves ? 'GET' : 'POST'
  const outgoing = { ...outgoingOf(c, caller.principal), method, path, body: undefined } as const
  const upstream = upstreamOf(c)
  const sent = await forward(outgoing, config.router, upstream, RIM)
  if (!sent.ok) return visit.refuse(sent.rejection)
  const { answer } = sent
  const headers = answerHeadersOf(visit, answer)
  return passOn(c, { answer, headers, upstream, withholdUsage: false, countedBefore: true, keep: undefined })
}

function answerHeadersOf(visit: Visit, answer: Response): Headers {
  const headers = answerHeaders(answer)
  visit.name(headers)
  return headers
}

/** The parameters by which a stream is taken up again; an engine knows no others. */
function retrievalQuery(c: Context<Edge>): string {
  const given = new URL(c.req.url).searchParams
  const kept = new URLSearchParams()
  for (const name of ['stream', 'starting_after']) {
    const value = given.get(name)
    if (value !== null) kept.set(name, value)
  }
  return kept.size > 0 ? `?${kept}` : ''
}

async function models(c: Context<Edge>): Promise<Response> {
  const { visit } = c.var
  const config = configOf(c.env)
  const caller = await authenticate(c, config)
  if (!caller.ok) return visit.refuse(caller.rejection)
  const { principal } = caller

  const id = c.req.param('id')
  visit.model = id
  const refused = id === undefined ? undefined : refuseModel(principal, id)
  if (refused) return visit.refuse(refused)

  const path = id === undefined ? '/v1/models' : `/v1/models/${encodeURIComponent(id)}`
  const outgoing = { ...outgoingOf(c, principal), method: 'GET', path, body: undefined } as const
  const upstream = upstreamOf(c)
  const sent = await forward(outgoing, config.router, upstream, RIM)
  if (!sent.ok) return visit.refuse(sent.rejection)

  const { answer } = sent
  // Small enough to be read whole: the idle timeout stands for all of it.
  const timer = setTimeout(() => upstream.abort(), config.router.idleTimeoutMs)
  const bytes = await readAtMost(answer.body, MODEL_LIST_BYTES_MAX, MODEL_LIST_TIMEOUT_MS)
  clearTimeout(timer)
  if (typeof bytes === 'string') {
    return visit.refuse({ reason: 'router-unreachable', message: 'the router did not finish its list of models' })
  }
  const text = new TextDecoder().decode(bytes)
  const limited = principal.models && id === undefined && answer.ok
  visit.settle(answer.status, 'complete')
  return new Response(limited ? limitModelList(text, principal.models) : text, {
    status: answer.status,
    headers: answerHeadersOf(visit, answer),
  })
}

function health(c: Context<Edge>): Response {
  // A Worker that was deployed without its secrets should not call itself healthy.
  configOf(c.env)
  return c.json({ status: 'ok' })
}

function refuseMethod(allowed: string): (c: Context<Edge>) => Response {
  return (c) => {
    const message = `${c.req.method} is not allowed here, only ${allowed}`
    return c.var.visit.refuse({ reason: 'method-not-allowed', message }, { allow: allowed })
  }
}

async function authenticate(c: Context<Edge>, config: Config): Promise<Authenticated | Unauthenticated> {
  const caller = await authenticatorOf(config)(c.req.raw.headers)
  if (caller.ok) c.var.visit.tenant = caller.principal.tenant
  return caller
}

type OutgoingBase = Pick<Outgoing, 'tenant' | 'pin' | 'requestId' | 'callerHeaders'>

function outgoingOf(c: Context<Edge>, { tenant }: Principal): OutgoingBase {
  return { tenant, pin: '', requestId: c.var.visit.requestId, callerHeaders: c.req.raw.headers }
}

type Passage = {
  readonly answer: Response
  /** For the caller. */
  readonly headers: Headers
  readonly upstream: AbortController
  /** The caller did not ask for the usage event. */
  readonly withholdUsage: boolean
  /**
   * The answer was given before, and its usage counted then. Not so in the background: that answer came before there was
   * any, so it counts whenever it is fetched, by the response's id once. What nobody fetches, nobody counts.
   */
  readonly countedBefore: boolean
  readonly keep: KeptBytes | undefined
}

/** The answer to the caller: the head at once, the bytes as they come, and with the last of them the visit's end. */
function passOn(c: Context<Edge>, passage: Passage): Response {
  const { visit } = c.var
  const { answer, headers, upstream, withholdUsage, countedBefore, keep } = passage
  const { status } = answer
  const streams = headers.get('content-type')?.startsWith('text/event-stream') ?? false
  if (streams) headers.set('cache-control', 'no-cache, no-transform')
  if (!answer.body || c.req.method === 'HEAD') {
    upstream.abort()
    visit.settle(status, 'complete')
    return new Response(null, { status, headers })
  }
  const metered = meter(answer.body, {
    tap: streams ? eventTap(visit.shape, withholdUsage) : plainTap(visit.shape),
    idleTimeoutMs: configOf(c.env).router.idleTimeoutMs,
    upstream,
    caller: c.req.raw.signal,
    keep: keep?.push,
    settle: (outcome, account) => {
      if (keep && outcome === 'complete') c.executionCtx.waitUntil(keep.store())
      visit.responseId = account.responseId
      const counts = !countedBefore || account.background
      visit.settle(status, outcome, counts ? account.usage : undefined)
    },
  })
  return new Response(metered, { status, headers })
}

/** Aborts the request to the router when the caller leaves. */
function upstreamOf(c: Context<Edge>): AbortController {
  const upstream = new AbortController()
  const { signal } = c.req.raw
  if (signal.aborted) upstream.abort()
  signal.addEventListener('abort', () => upstream.abort(), { once: true })
  return upstream
}

const authenticators = new WeakMap<Config, Authenticate>()

/** One per isolate: it remembers keys between requests. */
function authenticatorOf(config: Config): Authenticate {
  let authenticate = authenticators.get(config)
  if (!authenticate) {
    authenticate = createAuthenticate(config.pepper, (name) => config.keys.get(name, 'json'), systemClock)
    authenticators.set(config, authenticate)
  }
  return authenticate
}

function logBug({ requestId }: Visit, error: unknown): void {
  log(JSON.stringify({ requestId, error: error instanceof Error ? error.message : String(error) }))
}

function log(line: string): void {
  // biome-ignore lint/suspicious/noConsole: a Worker's log is its console
  console.log(line)
}
