// What operators and their tools ask a pod: metrics, health, sleep, the emptying of its cache.
import { readFileSync } from 'node:fs'
import { complete, openStream, runningOf, seriesOf, told } from './asking.ts'
import type { ObservationRow } from './observed-pod.ts'
import { range } from './token-ids.ts'

/** Labels whose values are the pod's own. */
const OWN_VALUES = /^vllm:cache_config_info/

/** Families, types, series and buckets of a page, in its order, without their values. */
export function spellPage(page: string): readonly string[] {
  return page.split('\n').flatMap((line) => {
    if (line.startsWith('# TYPE vllm:')) return [line]
    if (!line.startsWith('vllm:')) return []
    const series = line.slice(0, line.lastIndexOf(' '))
    return [OWN_VALUES.test(series) ? series.replaceAll(/="[^"]*"/g, '') : series]
  })
}

/** The page of a vLLM that was asked nothing yet. */
export const RECORDED_PAGE = spellPage(
  readFileSync(new URL('../../fixtures/vllm/metrics-idle.txt', import.meta.url), 'utf8'),
)

const STATES = 'vllm:engine_sleep_state'

export const OPERATOR_ROWS: readonly ObservationRow[] = [
  {
    name: 'the page of metrics has every family and series, in order',
    kind: 'plain',
    look: async (pod) => {
      const { text = '' } = await pod.ask('GET', '/metrics')
      const page = spellPage(text)
      const lacks = RECORDED_PAGE.filter((line) => !page.includes(line))
      const has = page.filter((line) => !RECORDED_PAGE.includes(line))
      return { lacks, has, inOrder: page.join() === RECORDED_PAGE.join() }
    },
  },
  {
    name: 'the page of metrics says what it is, however it is asked for',
    kind: 'plain',
    look: async (pod) => {
      const seen: unknown[] = []
      for (const [method, path] of [
        ['GET', '/metrics'],
        ['GET', '/metrics/'],
        ['HEAD', '/metrics'],
        ['POST', '/metrics'],
      ] as const) {
        const { status, headers } = await pod.ask(method, path)
        seen.push([method, path, status, headers['content-type']])
      }
      return seen
    },
  },
  {
    name: 'probes, and methods that they do not have',
    kind: 'plain',
    look: async (pod) => {
      const asked = [
        ...['GET /health', 'POST /health', 'HEAD /health', 'GET /ping', 'POST /ping', 'GET /version', 'GET /load'],
        ...['GET /v1/models/tiny-qwen3', 'POST /v1/models', 'GET /', 'GET /v1', 'GET /tokenizer_info', 'GET /sleep'],
        ...['OPTIONS /v1/chat/completions', 'GET /is_sleeping', 'GET /wake_up', 'GET /tokenize', 'PUT /detokenize'],
        ...['POST /kv_event_sources', 'GET /v1/load_lora_adapter', 'DELETE /v1/completions'],
      ]
      const answers = []
      for (const line of asked) {
        const [method = '', path = ''] = line.split(' ')
        answers.push([line, told(await pod.ask(method, path))])
      }
      return answers
    },
  },
  {
    name: 'routes for developers that look and do nothing',
    kind: 'plain',
    look: async (pod) => {
      const answers = []
      for (const line of [
        'GET /is_paused',
        'GET /pause',
        'GET /resume',
        'GET /get_world_size',
        'POST /reset_mm_cache',
      ]) {
        const [method = '', path = ''] = line.split(' ')
        answers.push([line, told(await pod.ask(method, path))])
      }
      return answers
    },
  },
  {
    name: 'rendering is switched off, for every dialect',
    kind: 'plain',
    look: async (pod) => {
      const answers = []
      for (const path of [
        ...['/v1/chat/completions/render', '/v1/completions/render', '/v1/responses/render', '/v1/messages/render'],
        ...['/v1/chat/completions/derender', '/v1/completions/derender', '/inference/v1/generate'],
      ]) {
        answers.push([path, told(await pod.ask('POST', path, {}))])
      }
      return answers
    },
  },
  {
    name: 'a pause keeps what comes until it is resumed',
    kind: 'plain',
    look: async (pod) => {
      const seen: unknown[] = []
      const say = async (method: string, path: string) => {
        seen.push([path, told(await pod.ask(method, path))])
      }
      await say('POST', '/pause?mode=never')
      await say('POST', '/pause')
      await say('GET', '/is_paused')
      await say('GET', '/is_sleeping')
      let isAnswered = false
      const waiting = complete(pod, range(81_000, 40)).finally(() => {
        isAnswered = true
      })
      await say('GET', '/is_paused')
      seen.push({ isAnswered })
      await say('POST', '/resume')
      seen.push(await waiting)
      await say('GET', '/is_paused')
      return seen
    },
  },
  {
    name: 'the cache is emptied by any spelling of the request, and not under a running request',
    kind: 'plain',
    look: async (pod) => {
      const answers: unknown[] = []
      const queries = ['', 'reset_running_requests=true', 'reset_running_requests=0', 'reset_external=true', 'other=1']
      for (const query of [...queries, 'reset_running_requests=maybe', 'reset_external=x']) {
        answers.push([query, told(await pod.ask('POST', `/reset_prefix_cache?${query}`))])
      }
      // Four that take most of a minute: where cores are few, a real vLLM may say its first word many seconds late.
      const streams = await Promise.all(
        [80_000, 80_200, 80_400, 80_600].map((first) =>
          openStream(pod, { prompt: range(first, 70), max_tokens: 8_000 }),
        ),
      )
      for (const query of ['', '?reset_running_requests=true']) {
        answers.push(['while one runs', told(await pod.ask('POST', `/reset_prefix_cache${query}`))])
      }
      for (const stream of streams) stream.leave()
      await runningOf(pod, 0)
      return answers
    },
  },
  {
    name: 'sleep: what is asked meanwhile waits, and the cache is gone when it is over',
    kind: 'plain',
    look: async (pod) => {
      const seen: unknown[] = []
      const say = async (method: string, path: string) => {
        seen.push([path, told(await pod.ask(method, path))])
      }
      const states = async () => {
        for (const [series, value] of await seriesOf(pod, STATES)) seen.push([series, value])
      }
      seen.push(await complete(pod, range(82_000, 70)))
      await say('POST', '/sleep')
      await say('GET', '/is_sleeping')
      await say('GET', '/health')
      await states()
      let isAnswered = false
      const waiting = complete(pod, range(82_000, 70)).finally(() => {
        isAnswered = true
      })
      await say('POST', '/wake_up?tags=weights')
      await say('GET', '/is_sleeping')
      seen.push({ isAnswered })
      await say('POST', '/wake_up')
      seen.push(await waiting)
      await say('GET', '/is_sleeping')
      await states()
      return seen
    },
  },
  {
    name: 'sleep: levels, tags and what is wrong with them',
    kind: 'plain',
    look: async (pod) => {
      const seen: unknown[] = []
      for (const path of [
        ...['/sleep?level=3', '/sleep?level=-1', '/sleep?level=x', '/sleep?mode=never', '/sleep?level=4&mode=x'],
        ...[
          '/sleep?level=0',
          '/is_sleeping',
          '/wake_up?tags=scheduling',
          '/is_sleeping',
          '/wake_up',
          '/wake_up?tags=x',
        ],
        ...['/is_sleeping', '/sleep?level=2&mode=keep', '/is_sleeping', '/wake_up', '/is_sleeping'],
      ]) {
        seen.push([path, told(await pod.ask(path === '/is_sleeping' ? 'GET' : 'POST', path))])
      }
      return seen
    },
  },
  {
    name: 'sleep ends what is in flight, and tells whoever asked for it',
    kind: 'plain',
    look: async (pod) => {
      const body = { prompt: range(84_000, 40), max_tokens: 5_000, ignore_eos: true }
      const asked = pod.ask('POST', '/v1/completions', body)
      await runningOf(pod, 1)
      await pod.ask('POST', '/sleep?level=0')
      const { status, json } = await asked
      await pod.ask('POST', '/wake_up')
      const { choices } = json as { choices: readonly { finish_reason: string; stop_reason: unknown }[] }
      return { status, ends: choices.map(({ finish_reason, stop_reason }) => [finish_reason, stop_reason]) }
    },
  },
]
