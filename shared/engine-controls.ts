// Members of a request body that steer an engine from inside. A caller's own never pass: one incomplete
// kv_transfer_params hangs a real vLLM 0.32 and then kills it, cache_salt and priority reach across tenants.

/** Dropped by the edge from every caller's body in any dialect, and by the router from every body that the edge did not sign. */
export const CALLER_FORBIDDEN_MEMBERS: readonly string[] = [
  'kv_transfer_params',
  'ec_transfer_params',
  'cache_salt',
  'priority',
  'vllm_xargs',
]

/** Dropped by the router even from a signed body: only the router itself may hand over KV caches. */
export const ROUTER_ONLY_MEMBERS: readonly string[] = ['kv_transfer_params', 'ec_transfer_params']
