// How well cached tokens were predicted: for each endpoint, and summed up. The router's view of its own index.
import type { EndpointId } from '../endpoints/endpoint.ts'

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
}

export type Prediction = { readonly predicted: number; readonly actual: number; readonly promptTokens: number }

export type AccuracyLedger = {
  readonly add: (endpoint: EndpointId, prediction: Prediction) => void
  readonly of: (endpoint: EndpointId) => Accuracy
  readonly total: () => Accuracy
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
}

export function createAccuracyLedger(): AccuracyLedger {
  const byEndpoint = new Map<EndpointId, Accuracy>()
  let total = NOTHING
  return {
    add(endpoint, prediction) {
      byEndpoint.set(endpoint, sum(byEndpoint.get(endpoint) ?? NOTHING, prediction))
      total = sum(total, prediction)
    },
    of: (endpoint) => byEndpoint.get(endpoint) ?? NOTHING,
    total: () => total,
    forget: (endpoint) => void byEndpoint.delete(endpoint),
  }
}

function sum(before: Accuracy, { predicted, actual, promptTokens }: Prediction): Accuracy {
  const error = predicted - actual
  return {
    answers: before.answers + 1,
    exact: before.exact + (error === 0 ? 1 : 0),
    over: before.over + (error > 0 ? 1 : 0),
    under: before.under + (error < 0 ? 1 : 0),
    predictedTokens: before.predictedTokens + predicted,
    actualTokens: before.actualTokens + actual,
    errorTokens: before.errorTokens + Math.abs(error),
    promptTokens: before.promptTokens + promptTokens,
  }
}
