// The warm walk over two real vLLM servers.
import { describeWarmWalk, type WarmEngines } from '../e2e/warm-walk.ts'
import { BLOCK_SIZE_TOKENS, MODEL, startVllm } from './vllm.ts'

async function startEngines(): Promise<WarmEngines> {
  // One after the other: they would only take each other's cores.
  const one = await startVllm()
  const two = await startVllm().catch(async (error: unknown) => {
    await one.stop()
    throw error
  })
  return {
    urls: [one.url, two.url],
    kill: (index) => (index === 0 ? one : two).kill(),
    stop: async () => {
      await Promise.all([one.stop(), two.stop()])
    },
  }
}

describeWarmWalk('two real vLLM servers', { startEngines, model: MODEL, blockSizeTokens: BLOCK_SIZE_TOKENS })
