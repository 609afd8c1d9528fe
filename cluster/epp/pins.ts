// Names for endpoints that callers may hold without learning or choosing anything: the pin inside the edge's session
// token, and response ids that lead back to the endpoint that stored the response. All are MACs, so any router with the
// same keys reads them, no table is kept, and none can be made up.
import { createHmac, timingSafeEqual } from 'node:crypto'
import type { EndpointId } from '../endpoints/endpoint.ts'
import { nonceOf } from './decision-id.ts'

export type Pins = {
  readonly pinOf: (endpoint: EndpointId) => string
  /** Undefined when it names none of `endpoints`: made up, or of one that is gone. */
  readonly endpointOfPin: (pin: string, endpoints: readonly EndpointId[]) => EndpointId | undefined
  /** The id of the response that this endpoint will store for a decision. `scope` is whose it is: nobody else can use it. */
  readonly responseId: (endpoint: EndpointId, scope: string, decisionId: string) => string
  readonly endpointOfResponse: (id: string, scope: string, endpoints: readonly EndpointId[]) => EndpointId | undefined
}

const PIN_CHARS = 16
const MAC_BYTES = 16
const RESPONSE_ID = /^resp_([A-Za-z0-9_-]{16})([A-Za-z0-9_-]{22})$/

/** @param secrets the first one makes, all of them read; at least one. */
export function createPins(secrets: readonly string[]): Pins {
  const [current] = secrets
  if (current === undefined) throw new Error('pins need a secret')
  /** Pins by endpoint, one for each secret. Bounded by the endpoints that were ever asked for in one process. */
  const pins = new Map<EndpointId, readonly string[]>()

  function pinsOf(endpoint: EndpointId): readonly string[] {
    let its = pins.get(endpoint)
    if (!its) {
      its = secrets.map((secret) => mac(secret, ['warmpath-endpoint-pin-v1', endpoint]).toString('base64url'))
      its = its.map((text) => text.slice(0, PIN_CHARS))
      if (pins.size >= PINS_MAX) pins.clear()
      pins.set(endpoint, its)
    }
    return its
  }

  return {
    pinOf: (endpoint) => pinsOf(endpoint)[0] as string,
    endpointOfPin: (pin, endpoints) => endpoints.find((endpoint) => pinsOf(endpoint).includes(pin)),
    responseId(endpoint, scope, decisionId) {
      const nonce = nonceOf(decisionId)
      return `resp_${nonce}${responseMac(current, nonce, scope, endpoint).toString('base64url')}`
    },
    endpointOfResponse(id, scope, endpoints) {
      const match = RESPONSE_ID.exec(id)
      if (!match) return undefined
      const [, nonce, text] = match as unknown as [string, string, string]
      const given = Buffer.from(text, 'base64url')
      return endpoints.find((endpoint) =>
        secrets.some((secret) => timingSafeEqual(responseMac(secret, nonce, scope, endpoint), given)),
      )
    },
  }
}

const PINS_MAX = 16_384

function responseMac(secret: string, nonce: string, scope: string, endpoint: EndpointId): Buffer {
  return mac(secret, ['warmpath-response-id-v1', nonce, scope, endpoint]).subarray(0, MAC_BYTES)
}

/** The first line keeps a MAC made for one purpose from serving another. */
function mac(secret: string, lines: readonly string[]): Buffer {
  return createHmac('sha256', secret).update(lines.join('\n')).digest()
}
