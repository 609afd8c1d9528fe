// The kinds of pods that the contract is about, each as a simulated pod and as a real vLLM of the same settings.
import type { SimulatorOptions } from '../../../cluster/simulator/options.ts'

export const KINDS = ['plain', 'pooling', 'adapters'] as const
export type Kind = (typeof KINDS)[number]

/** Names of adapters that lie in `adapters`. */
export const ADAPTERS = ['a', 'b', 'c'] as const
export const API_KEY = 'a-key-of-this-test'
/** So few that long prompts push each other out. */
const FEW_BLOCKS = 48
const FEW_BLOCKS_MODEL_LEN = 1_024
const BLOCK_SIZE_TOKENS = 32
/** vLLM's own on CPUs. */
const MAX_NUM_BATCHED_TOKENS = 2_048

/** A pod as the server was set that the recordings are of. Its clock has to run where a request must be met in flight. */
export const SIMULATED: Readonly<Record<Kind, SimulatorOptions>> = {
  plain: {
    models: ['tiny-qwen3'],
    maxModelLen: 8_192,
    maxNumSeqs: 16,
    maxNumBatchedTokens: MAX_NUM_BATCHED_TOKENS,
    blockSize: BLOCK_SIZE_TOKENS,
    kvCacheTokens: 65_536,
    hashSeed: '0',
  },
  pooling: {
    models: ['tiny-embed'],
    maxModelLen: 8_192,
    blockSize: BLOCK_SIZE_TOKENS,
    kvCacheTokens: 65_536,
    runner: 'pooling',
    kvEventsPort: 'off',
  },
  adapters: {
    models: ['tiny-qwen3'],
    maxModelLen: FEW_BLOCKS_MODEL_LEN,
    maxNumSeqs: 16,
    maxNumBatchedTokens: MAX_NUM_BATCHED_TOKENS,
    blockSize: BLOCK_SIZE_TOKENS,
    // vLLM keeps one of its blocks empty.
    kvCacheTokens: (FEW_BLOCKS - 1) * BLOCK_SIZE_TOKENS,
    hashSeed: '0',
    apiKey: API_KEY,
    maxLoras: 1,
    loraModules: [{ name: 'a', path: 'adapters/a' }],
    trackServerLoad: true,
  },
}

/** The same for `vllm serve`, beside what every vLLM of these tests gets. Adapters lie below its folder. */
export const SERVED: Readonly<
  Record<
    Kind,
    {
      readonly blocks?: number
      readonly maxModelLen?: number
      readonly flags?: readonly string[]
      readonly kvEvents?: boolean
      readonly environment?: Readonly<Record<string, string>>
    }
  >
> = {
  plain: { environment: { VLLM_ENABLE_RESPONSES_API_STORE: '0' } },
  pooling: { kvEvents: false, flags: ['--runner', 'pooling', '--served-model-name', 'tiny-embed'] },
  adapters: {
    blocks: FEW_BLOCKS,
    maxModelLen: FEW_BLOCKS_MODEL_LEN,
    flags: [
      ...['--enable-lora', '--max-loras', '1', '--max-lora-rank', '8', '--lora-modules', 'a=adapters/a'],
      ...['--enable-server-load-tracking', '--api-key', API_KEY],
    ],
    environment: { VLLM_ALLOW_RUNTIME_LORA_UPDATING: '1' },
  },
}
