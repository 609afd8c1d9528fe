// The /metrics page against a recorded one of a real vLLM 0.32, and against the traffic that it should tell of.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { goFloat } from '../../../cluster/simulator/go-float.ts'
import { post, startPod, until } from './pod.ts'

type Page = {
  readonly types: ReadonlyMap<string, string>
  /** Values by series, spelled with name and labels. */
  readonly series: ReadonlyMap<string, number>
}

function parsePage(text: string): Page {
  const types = new Map<string, string>()
  const series = new Map<string, number>()
  for (const line of text.split('\n')) {
    const type = /^# TYPE (\S+) (\S+)$/.exec(line)
    if (type?.[1] && type[2]) types.set(type[1], type[2])
    const sample = /^(vllm:[^ ]+) (\S+)$/.exec(line)
    if (sample?.[1] && sample[2]) series.set(sample[1], Number(sample[2]))
  }
  return { types, series }
}

async function scrape(url: string): Promise<Page> {
  const answer = await fetch(`${url}/metrics`)
  expect(answer.headers.get('content-type')).toBe('text/plain; version=1.0.0; charset=utf-8')
  return parsePage(await answer.text())
}

const recorded = parsePage(readFileSync(new URL('../../fixtures/vllm/metrics-idle.txt', import.meta.url), 'utf8'))
/** The KV cache's settings are the pod's own: their names must agree, their values need not. */
const spelling = (series: string) =>
  series.startsWith('vllm:cache_config_info') ? series.replaceAll(/="[^"]*"/g, '') : series
const series = (name: string, labels = '') => `vllm:${name}{engine="0",${labels}model_name="sim-8b"}`

describe('the metrics page', () => {
  it('has every vllm: family, series and bucket of a real page, in its order, or a dashboard would have holes', async () => {
    const pod = await startPod({ models: ['tiny-qwen3'], maxModelLen: 8192 })
    const page = await scrape(pod.url)
    const families = ({ types }: Page) => [...types].filter(([name]) => name.startsWith('vllm:'))
    expect(families(page)).toEqual(families(recorded))
    expect([...page.series.keys()].map(spelling)).toEqual([...recorded.series.keys()].map(spelling))
  })

  it('counts what was served, or routers and autoscalers would act on nothing', async () => {
    const pod = await startPod()
    const ask = { prompt: 'abcd', max_tokens: 5, ignore_eos: true }
    await (await post(pod, '/v1/completions', { ...ask, n: 2 })).text()
    await (await post(pod, '/v1/completions', { ...ask, stream: true })).text()
    const { series: values } = await scrape(pod.url)
    const expected = {
      [series('prompt_tokens_total')]: 3,
      [series('generation_tokens_total')]: 15,
      'vllm:request_success_total{engine="0",finished_reason="length",model_name="sim-8b"}': 3,
      [series('request_params_n_count')]: 2,
      [series('request_params_n_sum')]: 3,
      [series('request_params_max_tokens_sum')]: 15,
      [series('iteration_tokens_total_count')]: pod.stats().steps,
      [series('iteration_tokens_total_sum')]: 18,
      [series('time_to_first_token_seconds_count')]: 3,
      [series('inter_token_latency_seconds_count')]: 12,
      [series('e2e_request_latency_seconds_bucket', 'le="+Inf",')]: 3,
      [series('num_requests_running')]: 0,
      [series('kv_cache_usage_perc')]: 0,
    }
    for (const [name, value] of Object.entries(expected)) expect(values.get(name), name).toBe(value)
  })

  it('tells hits from work, or a router could not see that its placement pays', async () => {
    const pod = await startPod({ blockSize: 4 })
    const ask = { prompt: Array.from({ length: 18 }, (_, index) => index + 1), max_tokens: 1 }
    for (const more of [{}, {}, { cache_salt: 'other' }]) {
      await (await post(pod, '/v1/completions', { ...ask, ...more })).text()
    }
    const { series: values } = await scrape(pod.url)
    const source = (name: string) => `{engine="0",model_name="sim-8b",source="${name}"}`
    const expected = {
      [series('prefix_cache_queries_total')]: 54,
      [series('prefix_cache_hits_total')]: 16,
      [series('prompt_tokens_total')]: 54,
      [series('prompt_tokens_cached_total')]: 16,
      [`vllm:prompt_tokens_by_source_total${source('local_compute')}`]: 38,
      [`vllm:prompt_tokens_by_source_total${source('local_cache_hit')}`]: 16,
      [`vllm:prompt_tokens_cached_by_source_total${source('device')}`]: 16,
      [series('request_prefill_kv_computed_tokens_sum')]: 38,
      [series('request_prompt_tokens_sum')]: 54,
      [series('iteration_tokens_total_sum')]: 41,
      // Cached blocks that nobody holds are free.
      [series('kv_cache_usage_perc')]: 0,
    }
    for (const [name, value] of Object.entries(expected)) expect(values.get(name), name).toBe(value)
    expect(pod.stats()).toMatchObject({ cachedBlocks: 8, kvCacheUsage: 0 })
  })

  it('shows load while it is there: running, waiting, cache usage', async () => {
    const pod = await startPod({ speed: 1, maxNumSeqs: 1, kvCacheTokens: 1_600 })
    const client = new AbortController()
    const ask = { prompt: new Array(160).fill(1), max_tokens: 1_000, ignore_eos: true }
    const answers = [1, 2].map(() => post(pod, '/v1/completions', ask, { signal: client.signal }))
    await until(() => pod.stats().running === 1 && pod.stats().waiting === 1)
    // Gauges tell of the end of the last step.
    const { steps } = pod.stats()
    await until(() => pod.stats().steps > steps + 1)
    const { series: values } = await scrape(pod.url)
    expect(values.get(series('num_requests_running'))).toBe(1)
    expect(values.get(series('num_requests_waiting'))).toBe(1)
    expect(values.get(`vllm:num_requests_waiting_by_reason{engine="0",model_name="sim-8b",reason="capacity"}`)).toBe(1)
    expect(values.get(series('kv_cache_usage_perc'))).toBeGreaterThanOrEqual(0.1)
    client.abort()
    await Promise.allSettled(answers)
    await until(() => pod.stats().aborted === 2)
    const { series: after } = await scrape(pod.url)
    // As vLLM has it: requests whose clients left count nowhere.
    expect(after.get(`vllm:request_success_total{engine="0",finished_reason="abort",model_name="sim-8b"}`)).toBe(0)
    expect(after.get(series('e2e_request_latency_seconds_count'))).toBe(0)
  })

  it.each([
    [0, '0.0'],
    [10080, '10080.0'],
    [0.025, '0.025'],
    [105.64015603065491, '105.64015603065491'],
    [1048576, '1.048576e+06'],
    [1795375700.5063734, '1.7953757005063734e+09'],
  ])('spells %d as prometheus_client does', (value, text) => {
    expect(goFloat(value)).toBe(text)
  })
})
