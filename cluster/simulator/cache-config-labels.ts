// The settings of a vLLM's KV cache, as the labels of `vllm:cache_config_info`.
import { goFloat } from './go-float.ts'
import type { MetricsConfig } from './metrics-page.ts'

type Labels = Readonly<Record<string, string>>

/** Python's spelling of the KV cache's settings, as labels. */
export function cacheConfigLabels({ blockSizeTokens, blocks, maxModelLen }: MetricsConfig, rank: number): Labels {
  const tokens = blocks * blockSizeTokens
  return {
    _block_size_resolved: 'True',
    block_size: String(blockSizeTokens),
    cache_dtype: 'auto',
    cache_hit_alignment_tokens: 'None',
    effective_attention_block_size: String(blockSizeTokens),
    enable_mamba_shared_prefix_checkpoint: 'False',
    enable_prefix_caching: 'True',
    engine: String(rank),
    gpu_memory_utilization: '0.92',
    hash_block_size: 'None',
    is_attention_free: 'False',
    kv_cache_dtype_skip_layers: '[]',
    kv_cache_layout: 'None',
    kv_cache_max_concurrency: goFloat(tokens / maxModelLen),
    kv_cache_memory_bytes: 'None',
    kv_cache_size_tokens: String(tokens),
    kv_offloading_backend: 'native',
    kv_offloading_size: 'None',
    kv_sharing_fast_prefill: 'False',
    mamba_block_size: 'None',
    mamba_cache_dtype: 'auto',
    mamba_cache_mode: 'none',
    mamba_page_size_padded: 'None',
    mamba_ssm_cache_dtype: 'auto',
    num_cpu_blocks: 'None',
    num_gpu_blocks: String(blocks),
    num_gpu_blocks_override: 'None',
    prefix_cache_retention_interval: '0',
    prefix_caching_hash_algo: 'sha256_cbor',
    prefix_match_unit: 'None',
    replayssm_buffer_len: '16',
    skip_page_size_padded: 'None',
    sliding_window: 'None',
    swa_bounded_replay: 'True',
    use_kda_recoverssm: 'False',
    use_replayssm: 'False',
    user_specified_block_size: 'False',
  }
}
