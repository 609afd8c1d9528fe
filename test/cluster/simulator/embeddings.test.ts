// Embeddings of a pooling pod: what callers build on them, and what they cost.
import fc from 'fast-check'
import OpenAI from 'openai'
import { describe, expect, it } from 'vitest'
import { embeddingOf } from '../../../cluster/simulator/embedding.ts'
import type { Simulator } from '../../../cluster/simulator/server.ts'
import { post, startPod } from './pod.ts'

const POOLING = { runner: 'pooling', models: ['sim-embed'] } as const
const LONG = 'one small river bridge holds '.repeat(40)

async function embed(pod: Simulator, input: unknown): Promise<readonly number[][]> {
  const answer = await post(pod, '/v1/embeddings', { input })
  const { data } = (await answer.json()) as { data: readonly { embedding: number[] }[] }
  return data.map(({ embedding }) => embedding)
}

async function series(pod: Simulator, name: string): Promise<number> {
  const page = await (await fetch(`${pod.url}/metrics`)).text()
  return Number(new RegExp(`^vllm:${name}(?:\\{.*\\})? (.*)$`, 'm').exec(page)?.[1])
}

const product = (a: readonly number[] = [], b: readonly number[] = []) =>
  a.reduce((sum, value, index) => sum + value * (b[index] ?? 0), 0)

describe('a vector', () => {
  it('has the length one, whatever the prompt, or a similarity would not be one', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(2 ** 40), { minLength: 1 }), (ids) => {
        const vector = embeddingOf(ids, true)
        expect(Math.hypot(...vector)).toBeCloseTo(1, 5)
        expect(embeddingOf(ids, true)).toEqual(vector)
      }),
    )
  })

  it('is the same on every pod, and nearer to what shares its words', async () => {
    const text = 'the quiet river holds a small bridge'
    const near = 'the quiet river holds a large bridge'
    const [first, second, third] = await embed(await startPod(POOLING), [text, near, 'tokens wait in every queue'])
    const [again] = await embed(await startPod(POOLING), text)
    expect(again).toEqual(first)
    expect(product(first, second)).toBeGreaterThan(product(first, third) + 0.2)
  })
})

describe('the official OpenAI client', () => {
  it('reads vectors, which it asks for as base64', async () => {
    const pod = await startPod(POOLING)
    const client = new OpenAI({ baseURL: `${pod.url}/v1`, apiKey: 'none', maxRetries: 0 })
    const { data, usage } = await client.embeddings.create({ model: 'sim-embed', input: ['one', 'two'] })
    const [one, two] = await embed(pod, ['one', 'two'])
    expect(data.map(({ embedding }) => [...embedding])).toEqual([one, two])
    expect(usage.total_tokens).toBe(usage.prompt_tokens)
  })
})

describe('a pooling pod', () => {
  it('counts prompts and no generated tokens, and finds the second prompt cached', async () => {
    const pod = await startPod(POOLING)
    await embed(pod, [LONG, LONG])
    await embed(pod, LONG)
    expect(await series(pod, 'generation_tokens_total')).toBe(0)
    expect(await series(pod, 'prompt_tokens_total')).toBeGreaterThan(0)
    expect(await series(pod, 'request_params_n_count')).toBe(3)
    expect(await series(pod, 'request_params_max_tokens_count')).toBe(0)
    expect(await series(pod, 'prefix_cache_hits_total')).toBeGreaterThan(0)
    expect(pod.stats()).toMatchObject({ finished: 3, running: 0 })
  })

  it('takes the time of a prefill, or a router in front of it could not be timed', async () => {
    const pod = await startPod({ ...POOLING, speed: 1 })
    await embed(pod, LONG)
    expect(await series(pod, 'e2e_request_latency_seconds_sum')).toBeGreaterThan(0)
    expect(await series(pod, 'request_decode_time_seconds_sum')).toBe(0)
  })

  it('fails and refuses as it is told to', async () => {
    const pod = await startPod(POOLING)
    pod.faults.set({ errorAfterTokens: 0 })
    expect((await post(pod, '/v1/embeddings', { input: 'x' })).status).toBe(500)
    pod.faults.set({ refuseStatus: 429 })
    expect((await post(pod, '/v1/embeddings', { input: 'x' })).status).toBe(429)
    pod.faults.set({ dieAfterTokens: 0 })
    await expect(post(pod, '/v1/embeddings', { input: 'x' })).rejects.toThrow()
  })

  it('outlives input of any shape', async () => {
    const pod = await startPod(POOLING)
    await fc.assert(
      fc.asyncProperty(fc.jsonValue(), fc.jsonValue(), async (input, messages) => {
        for (const body of [{ input }, { messages }, { input, messages }]) {
          expect((await post(pod, '/v1/embeddings', body)).status).toBeLessThan(500)
        }
      }),
      { numRuns: 100 },
    )
  })
})
