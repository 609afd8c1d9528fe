// vLLM's developer routes (`VLLM_SERVER_DEV_MODE=1`) that change what a pod's engines hold: its cache is emptied, it sleeps
// and wakes.
import type { IncomingMessage, ServerResponse } from 'node:http'
import { refuse } from './body.ts'
import { ApiError, type Issue, literalIssue, validationError } from './errors.ts'
import { sendFailure, sendJson } from './exchange.ts'
import { reportFault } from './generation.ts'
import type { Pod } from './routes.ts'
import { parseQuery } from './schema.ts'
import { PAUSE_MODES, type PauseMode } from './sleep.ts'

const LEVEL_MAX = 2

export function resetPrefixCache({ ranks }: Pod, req: IncomingMessage, res: ServerResponse): void {
  const query = parseQuery(req.url, { reset_running_requests: 'boolean', reset_external: 'boolean' })
  if (query instanceof ApiError) return refuse(res, query)
  const done = ranks.map(({ engine }) =>
    engine.resetPrefixCache(query.reset_running_requests === true, query.reset_external === true),
  )
  sendJson(res, 200, { success: done.every(Boolean) })
  for (const { driver } of ranks) driver.wake()
}

export function sleep(pod: Pod, req: IncomingMessage, res: ServerResponse): void {
  const query = parseQuery(req.url, { level: 'integer', mode: 'any' })
  if (query instanceof ApiError) return refuse(res, query)
  const { level = 1, mode = 'abort' } = query as { readonly level?: number; readonly mode?: string }
  const issues: Issue[] = []
  const bound = level < 0 ? 'greater than or equal to 0' : level > LEVEL_MAX ? 'less than or equal to 2' : undefined
  if (bound !== undefined) {
    const type = level < 0 ? 'greater_than_equal' : 'less_than_equal'
    const context = level < 0 ? "'ge': 0" : "'le': 2"
    issues.push({ type, loc: 'query.level', msg: `Input should be ${bound}`, input: String(level), context })
  }
  if (!PAUSE_MODES.includes(mode as PauseMode)) issues.push(literalIssue('query.mode', mode, PAUSE_MODES))
  if (issues.length > 0) return refuse(res, validationError(issues))
  answerOnce(res, pod.sleep.sleep(level, mode as PauseMode), { status: 'sleeping', level })
}

export function pause(pod: Pod, req: IncomingMessage, res: ServerResponse): void {
  const query = parseQuery(req.url, { mode: 'any', clear_cache: 'boolean' })
  if (query instanceof ApiError) return refuse(res, query)
  const { mode = 'abort', clear_cache: clears = true } = query as {
    readonly mode?: string
    readonly clear_cache?: boolean
  }
  if (!PAUSE_MODES.includes(mode as PauseMode)) {
    return refuse(res, validationError([literalIssue('query.mode', mode, PAUSE_MODES)]))
  }
  answerOnce(res, pod.sleep.pause(mode as PauseMode, clears), { status: 'paused' })
}

export function resume(pod: Pod, _req: IncomingMessage, res: ServerResponse): void {
  pod.sleep.resume()
  sendJson(res, 200, { status: 'resumed' })
}

export function isPaused(pod: Pod, _req: IncomingMessage, res: ServerResponse): void {
  sendJson(res, 200, { is_paused: pod.sleep.isPaused() })
}

/** Caches that a pod of text does not have: emptied they are. */
export function resetNothing(_pod: Pod, _req: IncomingMessage, res: ServerResponse): void {
  res.writeHead(200, { 'content-length': 0 })
  res.end()
}

function answerOnce(res: ServerResponse, done: Promise<void>, body: unknown): void {
  done.then(
    () => sendJson(res, 200, body),
    (error) => {
      reportFault(error)
      sendFailure(res)
    },
  )
}

export function wakeUp(pod: Pod, req: IncomingMessage, res: ServerResponse): void {
  const given = new URLSearchParams(req.url?.split('?').slice(1).join('?')).getAll('tags')
  const tags = given.length === 0 ? undefined : given
  const isAwake = pod.sleep.wake(tags)
  sendJson(res, 200, { status: isAwake ? 'awake' : 'sleeping', tags: tags ?? null })
}

export function isSleeping(pod: Pod, _req: IncomingMessage, res: ServerResponse): void {
  sendJson(res, 200, { is_sleeping: pod.sleep.isSleeping() })
}
