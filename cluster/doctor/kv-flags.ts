// The vLLM flags that KV-aware routing needs, as they are to be set.

/** Events on, replay on, and a topic that says whose they are. */
export function kvEventsFlag(model: string): string {
  const config = {
    enable_kv_cache_events: true,
    publisher: 'zmq',
    endpoint: 'tcp://*:5557',
    replay_endpoint: 'tcp://*:5558',
    topic: `kv@$(POD_IP):8000@${model}`,
  }
  return `vllm serve … --kv-events-config '${JSON.stringify(config)}'`
}

export const PREFIX_CACHING_FLAG = 'vllm serve … --enable-prefix-caching'
export const TOKEN_DETAILS_FLAG = 'vllm serve … --enable-prompt-tokens-details'
export const SCALE_OUT_FLAG = 'vllm serve … --enable-scale-out'
