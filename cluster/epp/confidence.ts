// How far an endpoint's index is to be believed, from how its predictions came out lately. Pure: from the newest outcomes to a
// number and a verdict.

/** What was predicted of one prompt, and what the engine reported. */
export type Outcome = { readonly predicted: number; readonly actual: number }

/** Outcomes that are looked at; older ones say nothing of today's cache. */
export const OUTCOMES_KEPT = 32
/** Each outcome counts so much less than the one after it. */
const DECAY = 0.75
/** What an engine held and nobody predicted costs a warm hit now and then; the other way round a whole prompt is computed. */
const UNDER_WEIGHT = 0.5
/** As if so many good ones had come before: one miss is no reason to believe nothing. */
const PRIOR_WEIGHT = 1

/**
 * In [0, 1]: what share of a prediction is to be counted on. 1 where nothing speaks against it. Prompts of which nothing was
 * predicted and nothing found say nothing.
 *
 * @param outcomes oldest first.
 */
export function confidenceOf(outcomes: readonly Outcome[]): number {
  let weight = 1
  let sum = PRIOR_WEIGHT
  let weights = PRIOR_WEIGHT
  for (let at = outcomes.length - 1; at >= 0; at--) {
    const { predicted, actual } = outcomes[at] as Outcome
    const most = Math.max(predicted, actual)
    if (most === 0) continue
    const missed = Math.abs(predicted - actual) / most
    sum += weight * (1 - (predicted > actual ? missed : missed * UNDER_WEIGHT))
    weights += weight
    weight *= DECAY
  }
  return sum / weights
}

/** Which way an endpoint's predictions are wrong. */
export type Bias = 'over' | 'under'

/** An alarm takes this many of the newest outcomes into account. */
const ALARM_OUTCOMES = 16
const ALARM_WRONG = 8
/** It ends when no more than these are still wrong. */
const CALM_WRONG = 2
/** Less is the last block of a prompt. */
const WRONG_TOKENS = 16

/**
 * Whether predictions are wrong again and again in the same way.
 *
 * @param outcomes oldest first.
 * @param before the verdict so far: it stays until they are right again.
 */
export function biasOf(outcomes: readonly Outcome[], before: Bias | undefined): Bias | undefined {
  const newest = outcomes.filter(({ predicted, actual }) => predicted > 0 || actual > 0).slice(-ALARM_OUTCOMES)
  const over = newest.filter(({ predicted, actual }) => predicted - actual >= WRONG_TOKENS).length
  const under = newest.filter(({ predicted, actual }) => actual - predicted >= WRONG_TOKENS).length
  if (over >= ALARM_WRONG) return 'over'
  if (under >= ALARM_WRONG) return 'under'
  const wrong = before === 'over' ? over : under
  return before !== undefined && wrong > CALM_WRONG ? before : undefined
}

/** What is likely the matter, and what finds it out. */
export function likelyCauses(bias: Bias): string {
  return bias === 'over'
    ? 'the engine has less cached than its events say: a reset that it has not announced, events that were lost, or another block size'
    : 'the engine has more cached than its events say: events that are off for a part of it, another tokenizer or chat template than it has, or other names in its hashes'
}

/** Edges of the error's histogram, in tokens; predicted less reported. */
export const ERROR_EDGES = [-8_192, -1_024, -128, -16, -1, 0, 15, 127, 1_023, 8_191] as const

/** The place of an error in a histogram of one bucket more than there are edges. */
export function errorBucket(errorTokens: number): number {
  const at = ERROR_EDGES.findIndex((edge) => errorTokens <= edge)
  return at === -1 ? ERROR_EDGES.length : at
}
