// The only place that orders the steps of a decision: context, profiles, verdict. Pure: what it needs of the world comes
// in as values, and what it decided can be explained from what it returns.
import type { Rejection } from '../../shared/rejection.ts'
import type { EndpointView } from '../endpoints/endpoint.ts'
import { runProfile } from '../scheduling/profile.ts'
import type { Profile, ProfileRun, SchedulingContext, SchedulingRequest } from '../scheduling/types.ts'

export type Profiles = { readonly decode: Profile }

export type Decision = {
  readonly decode: ProfileRun
  /** Set when no endpoint was chosen. */
  readonly rejection: Rejection | undefined
}

/** Seconds after which a pool without an available endpoint is worth another try: probes run each second. */
const NO_ENDPOINT_RETRY_SECONDS = 2

/** The engine that stored a response is gone, and its memory with it. */
export const RESPONSE_GONE: Rejection = {
  reason: 'response-not-found',
  message: 'There is no such response here (any more): send the whole conversation as input instead.',
  param: 'previous_response_id',
}

/** Places a request. `random` is uniform in [0, 1). */
export function decide(
  profiles: Profiles,
  request: SchedulingRequest,
  endpoints: readonly EndpointView[],
  random: () => number,
): Decision {
  const context: SchedulingContext = { request, endpoints, random }
  const decode = runProfile(profiles.decode, context)
  return { decode, rejection: decode.chosen ? undefined : nobody(context) }
}

/** Why the engine that stored a response cannot be asked for it; undefined when it can. */
export function objectionTo(view: EndpointView | undefined): Rejection | undefined {
  if (view === undefined) return RESPONSE_GONE
  const { availability, models } = view
  if (availability.state === 'available' && models !== undefined) return undefined
  if (availability.state === 'ejected' && availability.gone) return RESPONSE_GONE
  const message = 'The engine that stored the response cannot take a request now.'
  return { reason: 'no-endpoint', message, retryAfterSeconds: NO_ENDPOINT_RETRY_SECONDS }
}

function nobody({ request, endpoints }: SchedulingContext): Rejection {
  if (request.bound !== undefined) {
    const objection = objectionTo(endpoints.find(({ endpoint }) => endpoint.id === request.bound))
    if (objection) return objection
    const served = endpoints.some(({ models }) => models?.includes(request.model))
    const message = `The engine that stored the response does not serve \`${request.model}\`: send the whole conversation as input instead.`
    if (served) return { ...RESPONSE_GONE, message }
  }
  const answered = endpoints.filter(({ models }) => models !== undefined)
  const serving = answered.filter(({ models }) => models?.includes(request.model))
  // One that is being waited for may serve it; one that is ejected has been waited for.
  const awaited = endpoints.some((view) => view.models === undefined && view.availability.state === 'available')
  if (answered.length > 0 && serving.length === 0 && !awaited) {
    const served = [...new Set(answered.flatMap(({ models }) => models ?? []))].slice(0, 20)
    const message = `The model \`${request.model}\` does not exist. Models served here: ${served.join(', ')}.`
    return { reason: 'model-not-found', message, param: 'model' }
  }
  const message =
    serving.length === 0
      ? 'None of the engines that could serve it has answered yet.'
      : `None of the ${serving.length} engines that serve \`${request.model}\` can take a request now.`
  return { reason: 'no-endpoint', message, retryAfterSeconds: NO_ENDPOINT_RETRY_SECONDS }
}
