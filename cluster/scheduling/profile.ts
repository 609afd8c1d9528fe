// Profiles: from the names in a configuration to functions, and one profile's run over the candidates.
import type { EndpointView } from '../endpoints/endpoint.ts'
import { available, bound, byLabel, decode, prefill, servesModel } from './filters.ts'
import { overloadsOf } from './overload.ts'
import { maxScore, powerOfTwo, weightedRandom } from './pickers.ts'
import {
  activeRequests,
  cacheScorer,
  kvUsage,
  latencyScorer,
  loadScorer,
  loraAffinity,
  lruScorer,
  queueDepth,
  sessionAffinity,
} from './scorers.ts'
import { OVERLOAD, sessionOutcome, sessionView } from './session.ts'
import type { Candidate, Filter, Picker, Profile, ProfileRun, SchedulingContext, Scored, Scorer } from './types.ts'

/** A filter's name, and what it needs from the configuration. Adding one is a function and a row. */
export const FILTERS = {
  prefill: () => prefill,
  decode: () => decode,
  'by-label': (options: { readonly labels: Readonly<Record<string, string>> }) => byLabel(options.labels),
} satisfies Record<string, (options: { readonly labels: Readonly<Record<string, string>> }) => Filter>

export const SCORERS = {
  'cache-scorer': cacheScorer,
  'load-scorer': loadScorer,
  'latency-scorer': latencyScorer,
  'session-affinity': sessionAffinity,
  'lora-affinity': loraAffinity,
  'lru-scorer': lruScorer,
  'queue-depth': queueDepth,
  'active-requests': activeRequests,
  'kv-usage': kvUsage,
} satisfies Record<string, Scorer>

export const PICKERS = {
  'max-score': maxScore,
  'weighted-random': weightedRandom,
  'power-of-two': powerOfTwo,
} satisfies Record<string, Picker>

export type FilterName = keyof typeof FILTERS
export type ScorerName = keyof typeof SCORERS
export type PickerName = keyof typeof PICKERS

export type ProfileConfig = {
  readonly filters: readonly {
    readonly name: FilterName
    readonly labels?: Readonly<Record<string, string>> | undefined
  }[]
  readonly scorers: readonly { readonly name: ScorerName; readonly weight: number }[]
  readonly picker: PickerName
}

/** Filters that hold for every request, whatever is configured. The first that drops a candidate is the one `why` names. */
const ALWAYS: Profile['filters'] = [
  { name: 'available', filter: available },
  { name: 'serves-model', filter: servesModel },
  { name: 'stored-response', filter: bound },
]

export function buildProfile(name: string, config: ProfileConfig): Profile {
  return {
    name,
    prefersSession: !config.scorers.some((row) => row.name === 'session-affinity'),
    filters: [
      ...ALWAYS,
      ...config.filters.map((row) => ({ name: row.name, filter: FILTERS[row.name]({ labels: row.labels ?? {} }) })),
    ],
    scorers: config.scorers.map(({ name, weight }) => ({ name, weight, score: SCORERS[name] })),
    picker: { name: config.picker, pick: PICKERS[config.picker] },
  }
}

/** Filters, scores and picks. Nothing is chosen when the filters leave no candidate. */
export function runProfile(profile: Profile, context: SchedulingContext): ProfileRun {
  const passed: EndpointView[] = []
  const dropped: Candidate[] = []
  for (const view of context.endpoints) {
    const filtered = firstObjection(profile, context, view)
    if (filtered) dropped.push(unscored(view, filtered))
    else passed.push(view)
  }
  const overloads = overloadsOf(passed)
  const kept: EndpointView[] = []
  const overloaded: Candidate[] = []
  passed.forEach((view, row) => {
    const because = overloads[row]
    if (because === undefined) kept.push(view)
    else overloaded.push(unscored(view, { by: OVERLOAD, because }))
  })
  const sessionAt = (chosen: EndpointView | undefined) =>
    sessionOutcome(context, chosen, kept, [...overloaded, ...dropped])
  if (kept.length === 0) {
    return { profile, chosen: undefined, session: sessionAt(undefined), means: [], order: [], candidates: dropped }
  }

  const columns = profile.scorers.map(({ score }) => score(context, kept))
  const means = columns.map(meanOfKnown)
  const weightSum = profile.scorers.reduce((sum, { weight }) => sum + weight, 0)
  const scored: Candidate[] = kept.map((view, row) => {
    const scores = columns.map((column) => column[row])
    let total = 0
    profile.scorers.forEach(({ weight }, column) => {
      // What is not known neither helps nor hurts: the mean of those that are known stands in.
      total += weight * (scores[column] ?? means[column] ?? 0)
    })
    const prefix = context.request.prefixes.get(view.endpoint.id)
    return { view, prefix, filtered: undefined, scores, total: weightSum > 0 ? total / weightSum : 0 }
  })

  const ranked = [...scored].sort((a, b) => b.total - a.total)
  const own = profile.prefersSession ? sessionView(context, kept) : undefined
  const chosen = own ?? profile.picker.pick(ranked as readonly Scored[], context.random).view
  const others = [...ranked.filter(({ view }) => view !== chosen), ...overloaded]
  const order = [chosen, ...others.map(({ view }) => view)].map(({ endpoint }) => endpoint.id)
  const candidates = [...ranked, ...overloaded, ...dropped]
  return { profile, chosen, session: sessionAt(chosen), means, order, candidates }
}

function unscored(view: EndpointView, filtered: Candidate['filtered']): Candidate {
  return { view, prefix: undefined, filtered, scores: [], total: 0 }
}

function firstObjection(profile: Profile, context: SchedulingContext, view: EndpointView): Candidate['filtered'] {
  for (const { name, filter } of profile.filters) {
    const because = filter(context, view)
    if (because !== undefined) return { by: name, because }
  }
  return undefined
}

function meanOfKnown(scores: readonly (number | undefined)[]): number | undefined {
  let sum = 0
  let known = 0
  for (const score of scores) {
    if (score === undefined) continue
    sum += score
    known++
  }
  return known === 0 ? undefined : sum / known
}
