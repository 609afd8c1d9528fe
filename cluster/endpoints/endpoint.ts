// An engine the router can send to, and what is known of it at one moment.
import type { LoraAdapters } from './metrics-page.ts'

/** What an endpoint is used for: `both` serves whole requests, the others one half of a disaggregated one. */
export type Role = 'prefill' | 'decode' | 'both'

declare const endpointId: unique symbol
/** `host:port`, unique in a pool. */
export type EndpointId = string & { readonly [endpointId]: true }

export type Endpoint = {
  readonly id: EndpointId
  /** Scheme and authority, without a path: `http://10.0.0.7:8000`. */
  readonly origin: string
  readonly role: Role
  readonly labels: Readonly<Record<string, string>>
  /** Sent to the engine as a bearer token (`vllm serve --api-key`). */
  readonly apiKey?: string
  /** PEM of the authority that signed the engine's certificate. */
  readonly ca?: string
  /** ZMQ address of the engine's KV events, and of their replay. */
  readonly events?: string
  readonly replay?: string
}

/**
 * Load as a decision sees it: the engine's word where it is fresh, this router's own counts always. What the engine does
 * not tell, or told too long ago, is undefined, never zero.
 */
export type Load = {
  /** Requests in the engine, running or waiting: the scraped ones, corrected by what this router has sent and finished since. */
  readonly activeRequests: number
  /** Requests that wait in the engine. */
  readonly queuedRequests: number | undefined
  /** 0 to 1. */
  readonly kvUsage: number | undefined
  /** Means over the last minute; undefined as well when no request got that far in it. */
  readonly ttftSeconds: number | undefined
  readonly e2eSeconds: number | undefined
  /** Share of the prompt tokens of the last minute that were in the prefix cache. */
  readonly cacheHitRate: number | undefined
  /** Adapters in use; undefined as well when the engine serves none. */
  readonly loras: LoraAdapters | undefined
  /** This router's own requests there, and the estimated prompt tokens of those without a first byte. */
  readonly sentRequests: number
  readonly sentPromptTokens: number
  /** Milliseconds since the last good scrape, within AGE_STEP_MS (entry.ts); undefined when there was none. */
  readonly scrapeAgeMs: number | undefined
  readonly stale: boolean
}

export type Availability =
  | { readonly state: 'available' }
  /** Gets no new request until a probe succeeds. `cause` is told by `why`. `gone`: nothing listens there any more. */
  | { readonly state: 'ejected'; readonly cause: string; readonly gone: boolean }

/** One endpoint in the snapshot that a decision is made from. Frozen: decisions are remembered with their views. */
export type EndpointView = {
  readonly endpoint: Endpoint
  /** What its /v1/models lists; undefined until it has answered once. */
  readonly models: readonly string[] | undefined
  /** The first of them that is no adapter. */
  readonly baseModel: string | undefined
  /** Those that are adapters of another; empty until it has answered. */
  readonly adapters: readonly string[]
  readonly availability: Availability
  /** When this router last sent it a prompt of which it held nothing, on the set's clock; undefined: never. */
  readonly lastColdAtMs: number | undefined
  readonly load: Load
}

/** The id of the endpoint at this URL. */
export function endpointIdOf(url: URL): EndpointId {
  const port = url.port || (url.protocol === 'https:' ? '443' : '80')
  return `${url.hostname}:${port}` as EndpointId
}
