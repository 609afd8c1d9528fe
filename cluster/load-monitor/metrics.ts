// The page that Prometheus reads: the load of every pod in the guide's names. A series is there only while it is known.
import { Gauge, Registry } from 'prom-client'
import type { PodReport } from '../endpoints/load-report.ts'

type Series = {
  readonly name: string
  readonly help: string
  readonly value: (pod: PodReport) => number | undefined
}

const GPU_SERIES = 'vllm_gpu_utilization_percent'

const SERIES: readonly Series[] = [
  {
    name: GPU_SERIES,
    help: 'GPU utilisation in percent; source: dcgm, or the KV cache usage that stands in for it.',
    value: ({ gpuUtilization }) => gpuUtilization?.percent,
  },
  { name: 'vllm_queue_length', help: 'Requests that wait in the engine.', value: ({ queueLength }) => queueLength },
  { name: 'vllm_queue_depth', help: 'The same as vllm_queue_length.', value: ({ queueLength }) => queueLength },
  {
    name: 'vllm_active_requests',
    help: 'Requests that the engine is computing.',
    value: ({ activeRequests }) => activeRequests,
  },
  {
    name: 'vllm_avg_latency_seconds',
    help: 'Mean time from a request to the end of its answer, of those that ended in the last minute.',
    value: ({ avgLatencySeconds }) => avgLatencySeconds,
  },
  {
    name: 'vllm_cache_hit_rate',
    help: 'Share of the prompt tokens of the last minute that were in the prefix cache, 0 to 1.',
    value: ({ cacheHitRate }) => cacheHitRate,
  },
  {
    name: 'warmpath_scrape_age_seconds',
    help: 'Age of what is known of a pod; absent when it was never scraped.',
    value: ({ scrapeAgeMs }) => (scrapeAgeMs === undefined ? undefined : scrapeAgeMs / 1_000),
  },
]

/** A pod's own labels that are shown, in the order of their names, and the longest value of one. */
const LABELS_MAX = 16
const LABEL_CHARS_MAX = 128

export type MetricsPage = { readonly contentType: string; readonly text: string }

/** A registry a page: which labels there are changes with the pods, and the series of a pod that is gone go with it. */
export async function metricsPage(pods: readonly PodReport[]): Promise<MetricsPage> {
  const registry = new Registry()
  const labelled = pods.map((pod) => ({ pod, labels: { ...ownLabels(pod.labels), pod: pod.pod, role: pod.role } }))
  const labelNames = [...new Set(labelled.flatMap(({ labels }) => Object.keys(labels)))]
  for (const { name, help, value } of SERIES) {
    const gauge = new Gauge({ name, help, labelNames: [...labelNames, 'source'], registers: [registry] })
    for (const { pod, labels } of labelled) {
      const number = value(pod)
      if (number === undefined) continue
      const source = name === GPU_SERIES ? pod.gpuUtilization?.source : undefined
      gauge.set(source === undefined ? labels : { ...labels, source }, number)
    }
  }
  return { contentType: registry.contentType, text: await registry.metrics() }
}

/** As kube-state-metrics names them: `llm-d.ai/role` is `label_llm_d_ai_role`, which no other label can be. */
function ownLabels(labels: Readonly<Record<string, string>>): Record<string, string> {
  const shown: Record<string, string> = {}
  for (const name of Object.keys(labels).sort().slice(0, LABELS_MAX)) {
    const value = labels[name] ?? ''
    const series = `label_${name.replaceAll(/[^a-zA-Z0-9_]/g, '_')}`
    if (name.length <= LABEL_CHARS_MAX && value.length <= LABEL_CHARS_MAX) shown[series] ??= value
  }
  return shown
}
