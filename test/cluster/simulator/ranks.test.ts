// Data parallelism: several engines behind one port, each with a cache, events and series of its own.
import { describe, expect, it } from 'vitest'
import { Subscriber } from 'zeromq'
import { decodeEvents } from '../../../cluster/kv/decode-events.ts'
import { post, startPod } from './pod.ts'

const PROMPT = Array.from({ length: 40 }, (_, index) => index + 1)
const TWO = { dataParallelSize: 2, blockSize: 4, models: ['m'] }

async function cachedTokens(pod: { readonly url: string }, rank?: string): Promise<number> {
  const headers = rank === undefined ? {} : { 'x-data-parallel-rank': rank }
  const answer = await post(pod, '/v1/completions', { prompt: PROMPT, max_tokens: 1 }, { headers })
  const { usage } = (await answer.json()) as { usage: { prompt_tokens_details: { cached_tokens: number } } }
  return usage.prompt_tokens_details.cached_tokens
}

describe('a pod of two ranks', () => {
  it('keeps a cache for each: what one rank computed is cold on the other', async () => {
    const pod = await startPod(TWO)
    const seen: number[] = []
    for (const rank of ['0', '1', '0', '1']) seen.push(await cachedTokens(pod, rank))
    expect(seen).toEqual([0, 0, 36, 36])
  })

  it('refuses a rank that it does not have, and overlooks what is no number, as vLLM does', async () => {
    const pod = await startPod(TWO)
    const ask = (rank: string) =>
      post(pod, '/v1/completions', { prompt: PROMPT, max_tokens: 1 }, { headers: { 'x-data-parallel-rank': rank } })
    for (const rank of ['2', '-1']) {
      const refused = await ask(rank)
      expect(refused.status).toBe(400)
      expect(await refused.json()).toMatchObject({
        error: { message: `data_parallel_rank ${rank} is out of range [0, 2).` },
      })
    }
    expect((await ask('abc')).status).toBe(200)
  })

  it('uses idle ranks in turn where none was asked for', async () => {
    const pod = await startPod(TWO)
    expect([await cachedTokens(pod), await cachedTokens(pod), await cachedTokens(pod)]).toEqual([0, 0, 36])
  })

  it('has a series for each engine, one after the other, or a scraper would add up the wrong ones', async () => {
    const pod = await startPod(TWO)
    await cachedTokens(pod, '1')
    const page = await (await fetch(`${pod.url}/metrics`)).text()
    const lines = (name: string) => page.split('\n').filter((line) => line.startsWith(`vllm:${name}{`))
    expect(lines('prompt_tokens_total')).toEqual([
      'vllm:prompt_tokens_total{engine="0",model_name="m"} 0.0',
      'vllm:prompt_tokens_total{engine="1",model_name="m"} 40.0',
    ])
    expect(lines('num_requests_waiting_by_reason').map((line) => line.replace(/model_name="m",/, ''))).toEqual([
      'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 0.0',
      'vllm:num_requests_waiting_by_reason{engine="1",reason="capacity"} 0.0',
      'vllm:num_requests_waiting_by_reason{engine="0",reason="deferred"} 0.0',
      'vllm:num_requests_waiting_by_reason{engine="1",reason="deferred"} 0.0',
    ])
    expect(lines('cache_config_info').map((line) => /engine="\d"/.exec(line)?.[0])).toEqual([
      'engine="0"',
      'engine="1"',
    ])
  })

  it('lists the events of each rank, which say their rank', async () => {
    const pod = await startPod({ ...TWO, kvEventsPort: 0 })
    const sources = (await (await fetch(`${pod.url}/kv_event_sources`)).json()) as Record<string, { endpoint: string }>
    expect(Object.keys(sources)).toEqual(['0', '1'])
    const subscriber = new Subscriber({ linger: 0, receiveTimeout: 10_000 })
    const port = new URL(sources['1']?.endpoint ?? '').port
    subscriber.connect(`tcp://127.0.0.1:${port}`)
    subscriber.subscribe('')
    // A publisher drops what it sends before it knows of its subscribers.
    const asking = setInterval(() => {
      const prompt = Array.from({ length: 8 }, () => Math.floor(Math.random() * 200))
      void post(pod, '/v1/completions', { prompt, max_tokens: 1 }, { headers: { 'x-data-parallel-rank': '1' } })
    }, 20)
    const [, , payload] = (await subscriber.receive()) as [Buffer, Buffer, Buffer]
    clearInterval(asking)
    subscriber.close()
    expect(decodeEvents(payload)).toMatchObject({ ok: true, batch: { rank: 1 } })
  })

  it('resets all ranks at once', async () => {
    const pod = await startPod(TWO)
    for (const rank of ['0', '1']) await cachedTokens(pod, rank)
    expect(await (await post(pod, '/reset_prefix_cache', undefined)).json()).toEqual({ success: true })
    for (const rank of ['0', '1']) expect(await cachedTokens(pod, rank)).toBe(0)
  })
})
