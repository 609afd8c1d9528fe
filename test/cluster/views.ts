// Literals of endpoints for tests of pure rooms.
import type { Endpoint, EndpointId, EndpointView, Load } from '../../cluster/endpoints/endpoint.ts'

export function endpoint(id: string, more: Partial<Endpoint> = {}): Endpoint {
  return { id: id as EndpointId, origin: `http://${id}`, role: 'both', labels: {}, ...more }
}

const IDLE: Load = {
  activeRequests: 0,
  queuedRequests: 0,
  kvUsage: 0,
  ttftSeconds: undefined,
  e2eSeconds: undefined,
  cacheHitRate: undefined,
  loras: undefined,
  sentRequests: 0,
  sentPromptTokens: 0,
  scrapeAgeMs: 100,
  stale: false,
}

export function view(id: string, load: Partial<Load> = {}, more: Partial<EndpointView> = {}): EndpointView {
  return {
    endpoint: endpoint(id),
    models: ['m'],
    baseModel: 'm',
    adapters: [],
    availability: { state: 'available' },
    load: { ...IDLE, ...load },
    lastColdAtMs: undefined,
    ...more,
  }
}
