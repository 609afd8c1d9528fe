// Filters: each says in words why a candidate does not come into question.
import type { Role } from '../endpoints/endpoint.ts'
import type { Filter } from './types.ts'

/** Drops endpoints that get no new request until a probe succeeds. */
export const available: Filter = (_, { availability }) =>
  availability.state === 'ejected' ? availability.cause : undefined

/** Drops endpoints whose /v1/models does not list the model, or that have not answered it yet. */
export const servesModel: Filter = ({ request }, { models }) => {
  if (models === undefined) return 'its /v1/models has not answered yet'
  return models.includes(request.model) ? undefined : `it does not serve ${request.model}`
}

/** Keeps the one endpoint that stored what the request refers to. */
export const bound: Filter = ({ request }, { endpoint }) =>
  request.bound === undefined || request.bound === endpoint.id ? undefined : 'another endpoint stored that response'

/**
 * Keeps endpoints of a role. In a pool that has no endpoint of that role (or of `both`) it passes all of them.
 */
function ofRole(role: Exclude<Role, 'both'>): Filter {
  return ({ endpoints }, { endpoint }) => {
    if (endpoint.role === role || endpoint.role === 'both') return undefined
    const pooled = endpoints.some((other) => other.endpoint.role === role || other.endpoint.role === 'both')
    return pooled ? `its role is ${endpoint.role}, not ${role}` : undefined
  }
}

export const prefill: Filter = ofRole('prefill')
export const decode: Filter = ofRole('decode')

/** Keeps endpoints that carry all of these labels. */
export function byLabel(labels: Readonly<Record<string, string>>): Filter {
  const wanted = Object.entries(labels)
  return (_, { endpoint }) => {
    const missing = wanted.find(([name, value]) => endpoint.labels[name] !== value)
    return missing ? `it lacks the label ${missing[0]}=${missing[1]}` : undefined
  }
}
