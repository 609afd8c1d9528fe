// The bindings of the Worker under test, for `env` from cloudflare:workers.
declare namespace Cloudflare {
  interface Env {
    readonly KEYS: KVNamespace
    readonly KEY_PEPPER: string
    readonly EDGE_SIGNING_KEYS: string
    readonly ROUTER_URL: string
  }
  interface GlobalProps {
    mainModule: typeof import('../../edge/worker.ts')
  }
}
