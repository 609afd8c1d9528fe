// Scorers: each rates candidates in [0, 1], 1 being best, and says undefined where it does not know.
import { countedTokens } from '../kv/prefix-match.ts'
import type { Scorer } from './types.ts'

/** Active requests at which the load score is one half. */
const LOAD_HALF_REQUESTS = 8
/** Prompt tokens still to be computed that weigh as much as one active request. */
const TOKENS_PER_REQUEST = 2_048
/** Waiting requests at which the queue score is one half. */
const QUEUE_HALF_REQUESTS = 4
/** Differences below this are noise: an idle pool's milliseconds must not send everybody to one pod. */
const LATENCY_FLOOR_SECONDS = 0.05

/** How much work stands before a new request: active requests, and the prompts that this router has sent and nobody has computed. */
export const loadScorer: Scorer = (_, candidates) =>
  candidates.map(({ load }) => {
    const pressure = load.activeRequests + load.sentPromptTokens / TOKENS_PER_REQUEST
    return LOAD_HALF_REQUESTS / (LOAD_HALF_REQUESTS + pressure)
  })

/** How many requests wait in the engine. */
export const queueDepth: Scorer = (_, candidates) =>
  candidates.map(({ load }) =>
    load.queuedRequests === undefined ? undefined : QUEUE_HALF_REQUESTS / (QUEUE_HALF_REQUESTS + load.queuedRequests),
  )

/** Active requests beside those of the busiest candidate. */
export const activeRequests: Scorer = (_, candidates) => {
  const most = Math.max(...candidates.map(({ load }) => load.activeRequests))
  return candidates.map(({ load }) => (most === 0 ? 1 : 1 - load.activeRequests / most))
}

/** Free share of the KV cache. */
export const kvUsage: Scorer = (_, candidates) =>
  candidates.map(({ load }) => (load.kvUsage === undefined ? undefined : 1 - Math.min(1, Math.max(0, load.kvUsage))))

/**
 * Share of the prompt that need not be computed again. Beside endpoints whose cache is known, one whose cache is not
 * counts as cold: most prompts are, at most endpoints, and the mean of the warm ones would send them there. What an index
 * has said wrongly of late counts less.
 */
export const cacheScorer: Scorer = ({ request }, candidates) => {
  const prefixes = candidates.map(({ endpoint }) => request.prefixes.get(endpoint.id))
  if (prefixes.every((prefix) => prefix === undefined)) return candidates.map(() => undefined)
  return prefixes.map((prefix) => Math.min(1, (prefix ? countedTokens(prefix) : 0) / Math.max(1, request.promptTokens)))
}

/** Mean time to the first token over the last minute, beside the fastest candidate's. */
export const latencyScorer: Scorer = (_, candidates) => {
  const means = candidates.map(({ load }) => load.ttftSeconds)
  const known = means.filter((mean) => mean !== undefined)
  const fastest = Math.min(...known)
  return means.map((mean) => {
    if (mean === undefined) return undefined
    return (fastest + LATENCY_FLOOR_SECONDS) / (mean + LATENCY_FLOOR_SECONDS)
  })
}

/** 1 at the endpoint of the session's last turn. */
export const sessionAffinity: Scorer = ({ request }, candidates) =>
  candidates.map(({ endpoint }) => (endpoint.id === request.session ? 1 : 0))

/** Whether the adapter is loaded already, can be loaded beside the others, or would push one out. */
export const loraAffinity: Scorer = ({ request }, candidates) =>
  candidates.map(({ adapters, load }) => {
    if (!adapters.includes(request.model)) return 1
    if (load.loras === undefined) return undefined
    const { running, waiting, max } = load.loras
    if (running.includes(request.model)) return 1
    if (max === undefined || running.length + waiting.length < max) return 0.8
    return waiting.includes(request.model) ? 0.6 : 0
  })

/** For a prompt that nobody holds: who got such a one longest ago. With a hit anywhere it has no say. */
export const lruScorer: Scorer = ({ request }, candidates) => {
  const warm = candidates.some(({ endpoint }) => (request.prefixes.get(endpoint.id)?.matchedTokens ?? 0) > 0)
  if (warm || candidates.length < 2) return candidates.map(() => 0.5)
  const times = candidates.map(({ lastColdAtMs }) => lastColdAtMs ?? Number.NEGATIVE_INFINITY)
  const order = [...times].sort((a, b) => a - b)
  return times.map((time) => 1 - order.indexOf(time) / (candidates.length - 1))
}
