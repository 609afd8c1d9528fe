// A LoRA adapter of rank 8 for the tiny model: random weights on its queries, enough to change what it says.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createRandom } from '../../shared/random.ts'
import { HEAD_DIM, HEADS, HIDDEN, LAYERS, type Tensor, writeWeights } from './tiny-model.ts'

const RANK = 8

/** Makes an adapter in the folder, which is made too. Another seed, another adapter. */
export function makeTinyAdapter(folder: string, seed: number): void {
  mkdirSync(folder, { recursive: true })
  const config = { peft_type: 'LORA', task_type: 'CAUSAL_LM', r: RANK, lora_alpha: 16, target_modules: ['q_proj'] }
  writeFileSync(join(folder, 'adapter_config.json'), JSON.stringify({ ...config, bias: 'none', lora_dropout: 0 }))
  const tensors: Tensor[] = []
  for (let layer = 0; layer < LAYERS; layer++) {
    const name = `base_model.model.model.layers.${layer}.self_attn.q_proj`
    tensors.push({ name: `${name}.lora_A.weight`, shape: [RANK, HIDDEN] })
    tensors.push({ name: `${name}.lora_B.weight`, shape: [HEADS * HEAD_DIM, RANK] })
  }
  writeWeights(join(folder, 'adapter_model.safetensors'), tensors, createRandom(seed))
}
