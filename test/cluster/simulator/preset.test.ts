// Presets by name and from files: what they are, and the one line that each mistake gets.
import { describe, expect, it } from 'vitest'
import { loadPreset, parsePreset, presetNamed } from '../../../cluster/simulator/preset.ts'

const noFile = (file: string): string => {
  throw new Error(`read ${file}`)
}
const STEP = `step:
  overheadMs: 3
  perSeqMs: 0.1
  weightsMs: 0
  perContextTokenMs: 0.0001
  perTokenMs: 0.01
  perAttentionPairMs: 0`

describe('a preset by name', () => {
  it.each([
    ['h100-8b', 441_000, 8_192, 1_024],
    ['h100x4-70b', 472_000, 8_192, 1_024],
    ['h100x2-70b-fp8', 236_000, 8_192, 1_024],
    ['a100-8b', 441_000, 2_048, 256],
    ['h200-70b-fp8', 189_000, 8_192, 1_024],
    ['b200-70b-fp8', 297_000, 16_384, 1_024],
    ['l4-qwen3-0.6b', 157_000, 2_048, 256],
    ['h200x8-deepseek-v3', 692_000, 8_192, 1_024],
  ])('%s has room for about %i tokens, and batches as vLLM does there', (name, tokens, batched, seqs) => {
    const preset = loadPreset(name, noFile)
    expect(preset.kvCacheTokens / tokens).toBeCloseTo(1, 1)
    expect(preset).toMatchObject({ maxNumBatchedTokens: batched, maxNumSeqs: seqs, blockSize: 16, maxModelLen: 32_768 })
  })

  it.each([
    ['abacus-8b', /^preset abacus-8b: expected GPU\[xN\]-MODEL\[-fp8\], with a GPU of l4, /],
    ['h100', /^preset h100: expected GPU/],
    ['h100-9b', /^preset h100-9b: expected GPU/],
    ['h100x16-8b', /^preset h100x16-8b: .*give 1 to 8 GPUs$/],
    ['h100x3-8b', /^preset h100x3-8b: .*32 heads cannot be split over 3 GPUs: give a divisor$/],
    ['h100-70b', /1 × 80 GB cannot hold weights of 141 GB and a KV cache: give 4 GPUs$/],
    ['h100x8-405b', /8 × 80 GB cannot hold weights of 812 GB and a KV cache: take larger GPUs or fp8$/],
  ])('%s is refused in one line', (name, message) => {
    expect(() => presetNamed(name)).toThrow(message)
    expect(() => presetNamed(name)).toThrow(/^[^\n]*$/)
  })
})

describe('a preset file', () => {
  it('takes names of the tables, and numbers of one’s own in their place', () => {
    expect(parsePreset('gpu: h100\ngpus: 4\nmodel: 70b\n', 'p.yaml')).toEqual(presetNamed('h100x4-70b'))
    const own = `gpu: { memoryGb: 80, tflops: 989, bandwidthTBps: 3.35 }
model: { billionParams: 8.03, layers: 32, heads: 32, kvHeads: 8, headDim: 128 }
maxModelLen: 8192
blockSize: 32`
    expect(parsePreset(own, 'p.yaml')).toEqual({ ...presetNamed('h100-8b'), maxModelLen: 8_192, blockSize: 32 })
  })

  it('takes the times of a step as they were measured', () => {
    const preset = parsePreset(`${STEP}\nkvCacheTokens: 65536\nmaxNumSeqs: 16`, 'p.yaml')
    expect(preset.timing).toEqual({
      step: {
        overheadMs: 3,
        perSeqMs: 0.1,
        weightsMs: 0,
        expertSpread: 1,
        perContextTokenMs: 0.0001,
        perTokenMs: 0.01,
        perAttentionPairMs: 0,
      },
      request: { perRequestMs: 0, perPromptTokenMs: 0 },
    })
    expect(preset).toMatchObject({
      kvCacheTokens: 65_536,
      maxModelLen: 32_768,
      maxNumSeqs: 16,
      maxNumBatchedTokens: 2_048,
    })
  })

  it('lets no more sequences into a step than it has tokens, as vLLM does', () => {
    const preset = parsePreset('gpu: h100\nmodel: 8b\nmaxNumBatchedTokens: 128', 'p.yaml')
    expect(preset).toMatchObject({ maxNumBatchedTokens: 128, maxNumSeqs: 128 })
  })

  it('is what has a dot or a slash', () => {
    expect(loadPreset('./mine', () => 'gpu: h100\nmodel: 8b')).toEqual(presetNamed('h100-8b'))
    expect(loadPreset('mine.yaml', () => 'gpu: h100\nmodel: 8b')).toEqual(presetNamed('h100-8b'))
  })

  it.each([
    ['gpu: h100\nmodel: 70b', 'p.yaml:1: gpus: 1 × 80 GB cannot hold weights of 141 GB and a KV cache: give 4 GPUs'],
    [
      'gpu: h100\ngpus: 2\nmodel: 70b\nmaxModelLen: 32768',
      'p.yaml:4: maxModelLen: one request of 32768 tokens does not fit the KV cache of 20384: lower it, or give 4 GPUs',
    ],
    ['gpu: h100\ngpus: 3\nmodel: 8b', 'p.yaml:2: gpus: 32 heads cannot be split over 3 GPUs: give a divisor'],
    [
      'gpu: h100\nmodel: 8b\nmaxModelLen: 1000000',
      /^p\.yaml:3: maxModelLen: one request of 1000000 tokens does not fit the KV cache of \d+: lower it, or give 2 GPUs$/,
    ],
    [
      'gpu: h100\nmodel: 8b\nkvCacheTokens: 900000',
      /^p\.yaml:3: kvCacheTokens: the GPUs have room for \d+ tokens beside the weights: lower it to that$/,
    ],
    [
      'gpu: h100\nmodel: 8b\nkvCacheTokens: 10',
      'p.yaml:3: kvCacheTokens: is less than one block of 16 tokens: raise it',
    ],
    [
      'gpu: h100\nmodel: 8b\ngpuMemoryUtilization: 0.1',
      'p.yaml:3: gpuMemoryUtilization: in 0.1 of their memory 1 × 80 GB cannot hold weights of 16 GB and a KV cache: raise it, or give 8 GPUs',
    ],
    [
      'gpu: h100\nmodel: 8b\nmaxNumBatchedTokens: 128\nmaxNumSeqs: 256',
      'p.yaml:4: maxNumSeqs: so many sequences need a token each of the 128 in a step: lower it, or raise maxNumBatchedTokens',
    ],
    ['gpu: h100\nmodel: 8b\nblockSize: 0', /^p\.yaml:3: blockSize: /],
    ['gpu: abacus\nmodel: 8b', /^p\.yaml:1: gpu: /],
    ['gpu: h100', 'p.yaml:1: the file: give gpu and model, or step with the times of a step: model is missing'],
    [`gpu: h100\n${STEP}\nkvCacheTokens: 1000`, 'p.yaml:1: gpu: says nothing without model: give both or neither'],
    [STEP, /^p\.yaml:\d: step: its memory does not follow from it: give kvCacheTokens too, or gpu$/],
    [`${STEP.replace('perSeqMs: 0.1', 'perSeqMs: -1')}\nkvCacheTokens: 1000`, /^p\.yaml:3: step\.perSeqMs: /],
    [
      `${STEP}\nkvCacheTokens: 1000\nmaxModelLen: 2000`,
      /^p\.yaml:9: maxModelLen: one request of 2000 tokens does not fit the KV cache of 992: lower it$/,
    ],
    [
      'gpu: h100\nmodel: { billionParams: 8, layers: 32, heads: 32, kvHeads: 7, headDim: 128 }',
      'p.yaml:2: model.kvHeads: 32 heads cannot share 7: give a divisor of heads',
    ],
    [
      'gpu: h100\nmodel: { billionParams: 8, billionActiveParams: 9, layers: 32, heads: 32, kvHeads: 8, headDim: 128 }',
      'p.yaml:2: model.billionActiveParams: is more than billionParams: lower it',
    ],
    ['gpu: h100\nmodle: 8b', 'p.yaml:2: modle: there is no such setting'],
    ['- gpu', /^p\.yaml:1: the file: expected settings by name/],
    ['gpu: [', /^p\.yaml:1: /],
  ])('%j is one line that names file, line, setting and fix', (text, message) => {
    expect(() => parsePreset(text, 'p.yaml')).toThrow(message)
    expect(() => parsePreset(text, 'p.yaml')).toThrow(/^[^\n]*$/)
  })
})
