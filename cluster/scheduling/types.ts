// The scheduler's words, as kube-scheduler and llm-d use them: filters narrow the candidates, scorers rate them, a
// picker chooses, a profile is the three together. Everything in this folder is pure.
import type { EndpointId, EndpointView } from '../endpoints/endpoint.ts'

/** What a decision may know of a request. */
export type SchedulingRequest = {
  readonly model: string
  /** Estimated until token ids are known. */
  readonly promptTokens: number
}

/** Everything a decision is made from: the same context and randomness give the same decision. */
export type SchedulingContext = {
  readonly request: SchedulingRequest
  readonly endpoints: readonly EndpointView[]
  /** Uniform in [0, 1). */
  readonly random: () => number
}

/** Why a candidate was dropped, or undefined when it stays. */
export type Filter = (context: SchedulingContext, candidate: EndpointView) => string | undefined

/** A score in [0, 1] per candidate, in their order; undefined where what it needs is not known. */
export type Scorer = (
  context: SchedulingContext,
  candidates: readonly EndpointView[],
) => readonly (number | undefined)[]

export type Scored = { readonly view: EndpointView; readonly total: number }

/** Chooses one of at least one candidates, best first. Ties are broken by `random`. */
export type Picker = (scored: readonly Scored[], random: () => number) => Scored

export type Profile = {
  readonly name: string
  readonly filters: readonly { readonly name: string; readonly filter: Filter }[]
  readonly scorers: readonly { readonly name: string; readonly weight: number; readonly score: Scorer }[]
  readonly picker: { readonly name: string; readonly pick: Picker }
}

/** A candidate as the decision saw it, kept for `why`. */
export type Candidate = {
  readonly view: EndpointView
  /** The filter that dropped it and its words; undefined when it was scored. */
  readonly filtered: { readonly by: string; readonly because: string } | undefined
  /** One per scorer of the profile, in its order; empty when filtered. Undefined: not known, the mean of the others stood in. */
  readonly scores: readonly (number | undefined)[]
  /** Weighted mean of the scores, 0 when filtered. */
  readonly total: number
}

export type ProfileRun = {
  readonly profile: Profile
  readonly chosen: EndpointView | undefined
  /** The chosen one first, then the other scored ones, best first: where to go when it fails. */
  readonly order: readonly EndpointId[]
  readonly candidates: readonly Candidate[]
}
