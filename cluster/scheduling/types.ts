// The scheduler's words, as kube-scheduler and llm-d use them: filters narrow the candidates, scorers rate them, a
// picker chooses, a profile is the three together. Everything in this folder is pure.
import type { EndpointId, EndpointView } from '../endpoints/endpoint.ts'
import type { EndpointPrefix } from '../kv/prefix-match.ts'

/** What a decision may know of a request. */
export type SchedulingRequest = {
  readonly model: string
  /** Counted where token ids are known, else estimated from the body's size. */
  readonly promptTokens: number
  /**
   * What each endpoint holds of the prompt, its best rank where it has several. An endpoint that is missing publishes no
   * KV events; all are missing when the prompt's token ids are not known.
   */
  readonly prefixes: ReadonlyMap<EndpointId, EndpointPrefix>
  /** Where the session's last turn was served. */
  readonly session: EndpointId | undefined
  /** Only this endpoint has what the request refers to: a response that it stored. */
  readonly bound: EndpointId | undefined
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
  /**
   * A session's endpoint is chosen whatever the others score, unless it was filtered or is overloaded. False where the
   * `session-affinity` scorer weighs that against the rest.
   */
  readonly prefersSession: boolean
  readonly filters: readonly { readonly name: string; readonly filter: Filter }[]
  readonly scorers: readonly { readonly name: string; readonly weight: number; readonly score: Scorer }[]
  readonly picker: { readonly name: string; readonly pick: Picker }
}

/** A candidate as the decision saw it, kept for `why`. */
export type Candidate = {
  readonly view: EndpointView
  /** What it holds of the prompt; undefined when that is not known. */
  readonly prefix: EndpointPrefix | undefined
  /** The filter that dropped it and its words, or `overload`; undefined when it was scored. */
  readonly filtered: { readonly by: string; readonly because: string } | undefined
  /** One per scorer of the profile, in its order; empty when filtered. Undefined: not known, the mean of the others stood in. */
  readonly scores: readonly (number | undefined)[]
  /** Weighted mean of the scores, 0 when filtered. */
  readonly total: number
}

/** What became of a session's wish for its endpoint. */
export type SessionOutcome =
  | { readonly kind: 'kept' }
  /** In words, for `why`: the endpoint is gone, filtered, overloaded, or outweighed. */
  | { readonly kind: 'left'; readonly because: string }

export type ProfileRun = {
  readonly profile: Profile
  readonly chosen: EndpointView | undefined
  /** Undefined when the request belongs to no session. */
  readonly session: SessionOutcome | undefined
  /** One per scorer: the mean that stood in where a score was not known; undefined where none was known. */
  readonly means: readonly (number | undefined)[]
  /** The chosen one first, then the other scored ones, best first, then those that are overloaded: where to go when it fails. */
  readonly order: readonly EndpointId[]
  readonly candidates: readonly Candidate[]
}
