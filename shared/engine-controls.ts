// Members of a request body that steer an engine from inside. A caller's own never pass: one incomplete
// kv_transfer_params hangs a real vLLM 0.32 and then kills it, cache_salt and priority reach across tenants.

/** Dropped by the edge from every caller's body, and by the router from every body that the edge did not sign. */
export const CALLER_FORBIDDEN_MEMBERS: readonly string[] = [
  'kv_transfer_params',
  'ec_transfer_params',
  'cache_salt',
  'priority',
  'vllm_xargs',
]

/** Dropped besides from a body for /v1/responses: it would name the response, and only the router names responses. */
export const RESPONSES_FORBIDDEN_MEMBERS: readonly string[] = ['request_id']

/** Dropped by the router even from a signed body: only the router itself may hand over KV caches. */
export const ROUTER_ONLY_MEMBERS: readonly string[] = ['kv_transfer_params', 'ec_transfer_params']
