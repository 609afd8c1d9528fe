import { expect, it } from 'vitest'
import { reportPod } from '../../../cluster/endpoints/load-report.ts'
import { parseMetricsPage } from '../../../cluster/endpoints/metrics-page.ts'
import { metricsPage } from '../../../cluster/load-monitor/metrics.ts'
import { endpoint, view } from '../views.ts'

const scrape = { atMs: 1_000, metrics: parseMetricsPage(Buffer.from('vllm:num_requests_running 4\n')) }

async function samplesOf(pods: Parameters<typeof metricsPage>[0]): Promise<readonly string[]> {
  return (await metricsPage(pods)).text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
}

it('a pod has the guide’s series, each under its name', async () => {
  const load = { queuedRequests: 3, kvUsage: 0.6, e2eSeconds: 1.8, cacheHitRate: 0.25 }
  const pod = reportPod(view('10.0.0.7:8000', load), scrape, undefined, 1_500)
  expect(await samplesOf([pod])).toEqual([
    'vllm_gpu_utilization_percent{pod="10.0.0.7:8000",role="both",source="kv-cache-usage"} 60',
    'vllm_queue_length{pod="10.0.0.7:8000",role="both"} 3',
    'vllm_queue_depth{pod="10.0.0.7:8000",role="both"} 3',
    'vllm_active_requests{pod="10.0.0.7:8000",role="both"} 4',
    'vllm_avg_latency_seconds{pod="10.0.0.7:8000",role="both"} 1.8',
    'vllm_cache_hit_rate{pod="10.0.0.7:8000",role="both"} 0.25',
    'warmpath_scrape_age_seconds{pod="10.0.0.7:8000",role="both"} 0.5',
  ])
})

it('what is not known has no series: an alert on zero must not fire for a pod that is merely silent', async () => {
  const load = { queuedRequests: undefined, kvUsage: undefined, scrapeAgeMs: undefined, stale: true }
  expect(await samplesOf([reportPod(view('a:1', load), undefined, undefined, 0)])).toEqual([])
  expect(await samplesOf([])).toEqual([])
})

it('labels of any spelling neither break the page nor take the place of its own', async () => {
  const labels = {
    'llm-d.ai/role': 'de"co\\de\n',
    pod: 'x',
    source: 'y',
    'llm-d.ai.role': 'second',
    long: 'z'.repeat(999),
  }
  const pod = reportPod(view('a:1', {}, { endpoint: endpoint('a:1', { labels }) }), undefined, 40, 0)
  const other = reportPod(view('b:1', { queuedRequests: undefined }), undefined, undefined, 0)
  const [gpu, ...rest] = await samplesOf([pod, other])
  expect(gpu).toBe(
    'vllm_gpu_utilization_percent{label_llm_d_ai_role="second",label_pod="x",label_source="y",pod="a:1",role="both",source="dcgm"} 40',
  )
  expect(rest.filter((line) => line.startsWith('vllm_queue_length'))).toHaveLength(1)
  const escaped = reportPod(
    view('a:1', {}, { endpoint: endpoint('a:1', { labels: { x: 'de"co\\de\n' } }) }),
    undefined,
    1,
    0,
  )
  expect((await samplesOf([escaped]))[0]).toContain('label_x="de\\"co\\\\de\\n"')
})

it('a pod with very many labels shows the first of them', async () => {
  const labels = Object.fromEntries(Array.from({ length: 500 }, (_, index) => [`l${index}`, 'v']))
  const pod = reportPod(view('a:1', {}, { endpoint: endpoint('a:1', { labels }) }), undefined, 1, 0)
  expect((await samplesOf([pod]))[0]?.match(/label_/g)).toHaveLength(16)
})
