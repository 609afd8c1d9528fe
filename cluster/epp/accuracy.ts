// How well cached tokens were predicted: for each endpoint, and summed up. The router's view of its own index, and what
// follows from it: how far each endpoint's is believed, and an alarm when it is wrong again and again.
import type { EndpointId } from '../endpoints/endpoint.ts'
import {
  type Bias,
  biasOf,
  confidenceOf,
  ERROR_EDGES,
  errorBucket,
  likelyCauses,
  OUTCOMES_KEPT,
  type Outcome,
} from './confidence.ts'

export type Accuracy = {
  /** Answers whose cached tokens were predicted and told by the engine. */
  readonly answers: number
  /** Of those, predicted to the token. */
  readonly exact: number
  /** Of those, where the engine had fewer cached than predicted, and where it had more. */
  readonly over: number
  readonly under: number
  readonly predictedTokens: number
  readonly actualTokens: number
  /** Sum of the distances between the two. */
  readonly errorTokens: number
  readonly promptTokens: number
  /** Answers by their error, predicted less reported, up to each of ERROR_EDGES and beyond the last. */
  readonly errors: readonly number[]
}

export type Prediction = { readonly predicted: number; readonly actual: number; readonly promptTokens: number }

export type AccuracyEvent =
  | { readonly type: 'kv-inaccurate'; readonly endpoint: EndpointId; readonly bias: Bias; readonly likely: string }
  | { readonly type: 'kv-accurate'; readonly endpoint: EndpointId }

export type AccuracyLedger = {
  readonly add: (endpoint: EndpointId, prediction: Prediction) => void
  readonly of: (endpoint: EndpointId) => Accuracy
  readonly total: () => Accuracy
  /** In [0, 1]: what share of what the index says of this endpoint is to be counted on. */
  readonly confidence: (endpoint: EndpointId) => number
  /** Set while its predictions are wrong again and again. */
  readonly bias: (endpoint: EndpointId) => Bias | undefined
  /** What the index says of it is true again: the engine has announced a reset, or its stream began anew. */
  readonly renewed: (endpoint: EndpointId) => void
  /** Forgets an endpoint that is gone; the total keeps what it contributed. */
  readonly forget: (endpoint: EndpointId) => void
}

const NOTHING: Accuracy = {
  answers: 0,
  exact: 0,
  over: 0,
  under: 0,
  predictedTokens: 0,
  actualTokens: 0,
  errorTokens: 0,
  promptTokens: 0,
  errors: Array<number>(ERROR_EDGES.length + 1).fill(0),
}

type Kept = { sum: Accuracy; outcomes: Outcome[]; confidence: number; bias: Bias | undefined }

/** @param onEvent told when an endpoint's predictions begin to be wrong again and again, and when that is over. */
export function createAccuracyLedger(onEvent: (event: AccuracyEvent) => void = () => undefined): AccuracyLedger {
  const byEndpoint = new Map<EndpointId, Kept>()
  let total = NOTHING

  function judge(endpoint: EndpointId, kept: Kept): void {
    kept.confidence = confidenceOf(kept.outcomes)
    const before = kept.bias
    kept.bias = biasOf(kept.outcomes, before)
    if (kept.bias === before) return
    if (kept.bias === undefined) onEvent({ type: 'kv-accurate', endpoint })
    else onEvent({ type: 'kv-inaccurate', endpoint, bias: kept.bias, likely: likelyCauses(kept.bias) })
  }

  return {
    add(endpoint, prediction) {
      const kept = byEndpoint.get(endpoint) ?? { sum: NOTHING, outcomes: [], confidence: 1, bias: undefined }
      byEndpoint.set(endpoint, kept)
      kept.sum = sum(kept.sum, prediction)
      total = sum(total, prediction)
      const { predicted, actual } = prediction
      kept.outcomes = [...kept.outcomes.slice(1 - OUTCOMES_KEPT), { predicted, actual }]
      judge(endpoint, kept)
    },
    of: (endpoint) => byEndpoint.get(endpoint)?.sum ?? NOTHING,
    total: () => total,
    confidence: (endpoint) => byEndpoint.get(endpoint)?.confidence ?? 1,
    bias: (endpoint) => byEndpoint.get(endpoint)?.bias,
    renewed(endpoint) {
      const kept = byEndpoint.get(endpoint)
      // An alarm is not ended by a new beginning, but by predictions that come true.
      if (kept === undefined || kept.bias !== undefined) return
      kept.outcomes = []
      kept.confidence = 1
    },
    forget: (endpoint) => void byEndpoint.delete(endpoint),
  }
}

function sum(before: Accuracy, { predicted, actual, promptTokens }: Prediction): Accuracy {
  const error = predicted - actual
  const bucket = errorBucket(error)
  return {
    answers: before.answers + 1,
    exact: before.exact + (error === 0 ? 1 : 0),
    over: before.over + (error > 0 ? 1 : 0),
    under: before.under + (error < 0 ? 1 : 0),
    predictedTokens: before.predictedTokens + predicted,
    actualTokens: before.actualTokens + actual,
    errorTokens: before.errorTokens + Math.abs(error),
    promptTokens: before.promptTokens + promptTokens,
    errors: before.errors.map((count, at) => (at === bucket ? count + 1 : count)),
  }
}
