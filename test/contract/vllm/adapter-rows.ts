// A pod with LoRA adapters, a key, a load that is told and a cache of few blocks.
import { complete, openStream, runningOf, seriesOf, told } from './asking.ts'
import { type ObservationRow, type ObservedPod, settled } from './observed-pod.ts'
import { range } from './token-ids.ts'

const BASE = 'tiny-qwen3'

async function change(pod: ObservedPod, what: 'load' | 'unload', body: unknown): Promise<unknown> {
  return [what, body, told(await pod.ask('POST', `/v1/${what}_lora_adapter`, body))]
}

async function models(pod: ObservedPod): Promise<unknown> {
  type Card = { id: string; root: string; parent: string | null; max_model_len: number | null }
  const { data } = (await pod.ask('GET', '/v1/models')).json as { data: readonly Card[] }
  // The base model's root is where it lies.
  return data.map(({ id, root, parent, max_model_len: length, ...others }) => [
    ...[id, parent === null ? 'its own' : root, parent, length],
    Object.keys(others).join(),
  ])
}

export const ADAPTER_ROWS: readonly ObservationRow[] = [
  {
    name: 'who has no key, or not the right one, is sent away from the routes that a key protects',
    kind: 'adapters',
    look: async (pod) => {
      const seen: unknown[] = []
      const body = { prompt: 'x', max_tokens: 1 }
      for (const authorization of ['', 'Bearer no', 'Basic a-key-of-this-test', 'bearer a-key-of-this-test']) {
        const { status, headers, json } = await pod.ask('POST', '/v1/completions', body, { authorization })
        seen.push([authorization, status, headers.vary, status === 200 ? Object.keys(json as object) : json])
      }
      for (const path of ['/v1/models', '/v1/none', '/inference/none', '/health', '/load', '/is_sleeping']) {
        seen.push([path, told(await pod.ask('GET', path, undefined, { authorization: '' }))])
      }
      return seen
    },
  },
  {
    name: 'adapters are loaded, told in the list of models, and unloaded',
    kind: 'adapters',
    look: async (pod) => [
      await models(pod),
      await change(pod, 'load', { lora_name: 'b', lora_path: 'adapters/b' }),
      await models(pod),
      await change(pod, 'load', { lora_name: 'b', lora_path: 'adapters/b' }),
      await change(pod, 'load', { lora_name: 'b', lora_path: 'adapters/a' }),
      await change(pod, 'load', { lora_name: 'b', lora_path: 'adapters/a', load_inplace: true }),
      await models(pod),
      await change(pod, 'unload', { lora_name: 'b' }),
      await change(pod, 'unload', { lora_name: 'b' }),
      await models(pod),
    ],
  },
  {
    name: 'blocks of an adapter are its own: what is cached, and what is published',
    kind: 'adapters',
    look: async (pod) => {
      const prompt = range(10_000, 70)
      const steps: unknown[] = [(await pod.ask('POST', '/reset_prefix_cache')).json]
      for (const more of [{}, { model: 'a' }, { model: 'a' }, { model: 'a', cache_salt: 'tenant' }, {}]) {
        steps.push({ usage: await complete(pod, prompt, more), events: await pod.events() })
      }
      await change(pod, 'load', { lora_name: 'b', lora_path: 'adapters/b' })
      steps.push({ usage: await complete(pod, prompt, { model: 'b' }), events: await pod.events() })
      await change(pod, 'load', { lora_name: 'b', lora_path: 'adapters/c', load_inplace: true })
      steps.push({ usage: await complete(pod, prompt, { model: 'b' }), events: await pod.events() })
      await change(pod, 'unload', { lora_name: 'b' })
      await change(pod, 'load', { lora_name: 'b', lora_path: 'adapters/b' })
      steps.push({ usage: await complete(pod, prompt, { model: 'b' }), events: await pod.events() })
      return steps
    },
  },
  {
    name: 'a change of adapters that cannot be made says why',
    kind: 'adapters',
    look: async (pod) => {
      const seen: unknown[] = []
      const [lora_name, lora_path] = ['d', 'adapters/a']
      const loads = [
        ...[{}, [], { lora_name }, { lora_path }, { lora_name: '', lora_path }, { lora_name, lora_path: '' }],
        ...[
          { lora_name: 1, lora_path: 2 },
          { lora_name: BASE, lora_path },
          { lora_name, lora_path: '/no/such' },
        ],
        ...[
          { lora_name, lora_path: '/srv/no/such' },
          { lora_name, lora_path, load_inplace: 'x' },
        ],
      ]
      for (const body of loads) seen.push(await change(pod, 'load', body))
      for (const body of [{}, { lora_name: '' }, { lora_name: 'none' }, { lora_name: BASE }, { lora_name: 1 }]) {
        seen.push(await change(pod, 'unload', body))
      }
      return seen
    },
  },
  {
    name: 'an adapter is a model by its name: in answers, and unknown once it is unloaded',
    kind: 'adapters',
    look: async (pod) => {
      await change(pod, 'load', { lora_name: 'c', lora_path: 'adapters/c' })
      const messages = [{ role: 'user', content: 'hello' }]
      const asked = [
        ['/v1/completions', { prompt: [1, 2, 3], max_tokens: 1 }],
        ['/v1/chat/completions', { messages, max_tokens: 1 }],
        ['/v1/responses', { input: 'hello', max_output_tokens: 1 }],
        ['/v1/messages', { messages, max_tokens: 1 }],
        ['/tokenize', { prompt: 'hello' }],
      ] as const
      const seen: unknown[] = []
      for (const [path, body] of asked) {
        const { status, json } = await pod.ask('POST', path, { model: 'c', ...body })
        seen.push([path, status, (json as { model?: string }).model])
      }
      seen.push(await change(pod, 'unload', { lora_name: 'c' }))
      for (const [path, body] of asked) seen.push([path, told(await pod.ask('POST', path, { model: 'c', ...body }))])
      return seen
    },
  },
  {
    name: 'each try to load a new adapter takes a number, and each request for a model that is not there',
    kind: 'adapters',
    look: async (pod) => {
      const path = 'adapters/c'
      await change(pod, 'load', { lora_name: 'c', lora_path: path })
      await complete(pod, range(12_000, 40), { model: 'c' })
      await change(pod, 'unload', { lora_name: 'c' })
      await change(pod, 'load', { lora_name: 'd', lora_path: '/no/such' })
      await pod.ask('POST', '/tokenize', { model: 'none', prompt: 'x' })
      await complete(pod, [1, 2, 3], { model: 'none' })
      await change(pod, 'load', { lora_name: 'c', lora_path: path })
      await complete(pod, range(13_000, 40), { model: 'c' })
      await change(pod, 'unload', { lora_name: 'c' })
      const [before, after] = (await pod.events()).map(({ lora_id: id }) => id as number)
      return { numbersBetween: (after ?? 0) - (before ?? 0) }
    },
  },
  {
    name: 'an adapter without a slot waits, the base model passes it, and metrics and load tell',
    kind: 'adapters',
    look: async (pod) => {
      const long = { max_tokens: 900, prompt: range(20_000, 40) }
      const running = await openStream(pod, { model: 'a', ...long })
      const client = new AbortController()
      const waiting = fetch(`${pod.url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...pod.credentials },
        body: JSON.stringify({ model: 'b', ignore_eos: true, stream: true, ...long }),
        signal: client.signal,
      }).catch(() => undefined)
      const reasons = () => seriesOf(pod, 'vllm:num_requests_waiting_by_reason')
      const deferred = await settled(reasons, (series) => [...series.values()].includes('1.0'))
      const passing = await openStream(pod, { model: BASE, ...long })
      const load = (await pod.ask('GET', '/load')).json
      const counts = [...(await seriesOf(pod, 'vllm:num_requests_running'))]
      const adapters = [...(await seriesOf(pod, 'vllm:lora_requests_info')).keys()].filter((one) => one.includes('"a"'))
      for (const stream of [running, passing]) stream.leave()
      client.abort()
      await waiting
      const idle = await settled(
        async () => JSON.stringify((await pod.ask('GET', '/load')).json),
        (body) => body === '{"server_load":0}',
      )
      await runningOf(pod, 0)
      return { deferred: [...deferred], load, counts, adapters, idle }
    },
  },
  {
    name: 'steps without any adapter are told too',
    kind: 'adapters',
    look: async (pod) => {
      await complete(pod, range(25_000, 40))
      return [...(await seriesOf(pod, 'vllm:lora_requests_info')).keys()].filter((one) =>
        one.includes('running_lora_adapters=""'),
      )
    },
  },
  {
    name: 'a cache of few blocks: what goes first, and what is found after it',
    kind: 'adapters',
    look: async (pod) => {
      const steps: unknown[] = [(await pod.ask('POST', '/reset_prefix_cache')).json]
      for (const prompt of [
        ...[range(30_000, 640), range(40_000, 640), range(30_000, 320), range(50_000, 500)],
        ...[range(30_000, 640), range(40_000, 640), range(60_000, 1_000), range(50_000, 500)],
      ]) {
        steps.push({ usage: await complete(pod, prompt), events: await pod.events() })
      }
      return steps
    },
  },
]
