// Scorers: each rates candidates in [0, 1], 1 being best, and says undefined where it does not know.
import type { Scorer } from './types.ts'

/** Active requests at which the load score is one half. */
const LOAD_HALF_REQUESTS = 8
/** Prompt tokens still to be computed that weigh as much as one active request. */
const TOKENS_PER_REQUEST = 2_048
/** Waiting requests at which the queue score is one half. */
const QUEUE_HALF_REQUESTS = 4

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
