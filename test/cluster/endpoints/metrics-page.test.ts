// The fast parser against literals, and against a slow one that reads every line, over recorded pages and damaged ones.
import { readdirSync, readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type EngineMetrics, parseMetricsPage } from '../../../cluster/endpoints/metrics-page.ts'

const FIXTURES = new URL('../../fixtures/vllm-metrics/', import.meta.url)
const recorded = readdirSync(FIXTURES).map((file) => ({ file, page: readFileSync(new URL(file, FIXTURES)) }))

const NOTHING: EngineMetrics = {
  running: undefined,
  waiting: undefined,
  waitingForCapacity: undefined,
  kvUsage: undefined,
  kvCacheTokens: undefined,
  blockSizeTokens: undefined,
  steps: undefined,
  promptTokens: undefined,
  generationTokens: undefined,
  prefixCacheQueries: undefined,
  prefixCacheHits: undefined,
  preemptions: undefined,
  requestsFinished: undefined,
  ttft: undefined,
  e2e: undefined,
  lora: undefined,
  modelNames: undefined,
}

function parse(...lines: string[]): EngineMetrics {
  return parseMetricsPage(Buffer.from(`${lines.join('\n')}\n`))
}

function fixture(file: string): Buffer {
  return readFileSync(new URL(file, FIXTURES))
}

describe('recorded pages', () => {
  it('a busy engine shows its load, its heartbeat and its cache to the router', () => {
    expect(parseMetricsPage(fixture('busy.txt'))).toEqual({
      running: 2,
      waiting: 0,
      waitingForCapacity: 0,
      kvUsage: 0.9743589743589743,
      kvCacheTokens: 1280,
      blockSizeTokens: 32,
      steps: 88,
      promptTokens: 4240,
      generationTokens: 168,
      prefixCacheQueries: 4240,
      prefixCacheHits: 288,
      preemptions: 0,
      requestsFinished: 7,
      ttft: { sum: 0.4368295669555664, count: 9 },
      e2e: { sum: 0.36664628982543945, count: 7 },
      lora: undefined,
      modelNames: ['tiny-llama3_1'],
    })
  })

  it('two data-parallel ranks count as one engine of their joint size', () => {
    expect(parseMetricsPage(fixture('two-ranks.txt'))).toMatchObject({
      kvUsage: 0,
      kvCacheTokens: 65536,
      blockSizeTokens: 32,
      steps: 28,
      promptTokens: 1400,
      prefixCacheHits: 768,
      requestsFinished: 7,
      modelNames: ['tiny-qwen3'],
    })
  })

  it.each(recorded)('$file reads as the slow parser reads it', ({ page }) => {
    expect(parseMetricsPage(page)).toEqual(slowParse(page))
  })
})

describe('what is missing', () => {
  it('an empty page or another program’s page is no idle engine', () => {
    expect(parseMetricsPage(Buffer.alloc(0))).toEqual(NOTHING)
    expect(parse('# HELP go_goroutines x', 'go_goroutines 12')).toEqual(NOTHING)
  })

  it('a series without a usable number is missing, not zero', () => {
    for (const value of ['NaN', '+Inf', '-Inf', '-1', '', ' ', '\r', 'x', '1_0']) {
      expect(parse(`vllm:num_requests_running{engine="0"} ${value}`)).toEqual(NOTHING)
    }
  })

  it('a rank without a usable number does not blank the others', () => {
    const page = ['vllm:kv_cache_usage_perc{engine="0"} NaN', 'vllm:kv_cache_usage_perc{engine="1"} 0.5']
    expect(parse(...page).kvUsage).toBe(0.5)
  })

  it('a page cut off inside a number does not show a smaller load', () => {
    const page = Buffer.from('vllm:num_requests_running{engine="0"} 12')
    expect(parseMetricsPage(page)).toEqual(NOTHING)
  })

  it('one half of a histogram gives no mean', () => {
    expect(parse('vllm:time_to_first_token_seconds_sum 3').ttft).toBeUndefined()
    expect(parse('vllm:time_to_first_token_seconds_count 3').ttft).toBeUndefined()
  })
})

describe('reading', () => {
  it('requests that wait for a KV transfer do not look like a full engine', () => {
    const metrics = parse(
      'vllm:num_requests_waiting{engine="0"} 9.0',
      'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 2.0',
      'vllm:num_requests_waiting_by_reason{reason="deferred",engine="0"} 7.0',
    )
    expect(metrics).toMatchObject({ waiting: 9, waitingForCapacity: 2 })
  })

  it('names that begin or end like a series are not taken for it', () => {
    const metrics = parse(
      'vllm:num_requests_running_created{engine="0"} 1.7e9',
      'vllm:prompt_tokens_by_source_total{engine="0"} 5',
      'vllm:prompt_tokens_total_created 5',
      'vllm:external_prefix_cache_hits_total 5',
      'other_vllm:num_requests_running 5',
      'vllm:num_requests_running: 5',
      '# vllm:num_requests_running 5',
      'junk\rvllm:num_requests_running 5',
    )
    expect(metrics).toEqual(NOTHING)
  })

  it('reads pages with CRLF, timestamps, blanks, exponents and no labels', () => {
    const page = 'vllm:num_requests_running{engine="0",} 3.0\r\nvllm:num_requests_waiting  \t2 1795376839\r\n'
    const more = 'vllm:prompt_tokens_total{engine="0"}\t1.048576e+06\n'
    expect(parseMetricsPage(Buffer.from(page + more))).toMatchObject({ running: 3, waiting: 2, promptTokens: 1048576 })
  })

  it('a model name with quotes, braces, newlines or other alphabets neither breaks the line nor arrives mangled', () => {
    const metrics = parse(
      String.raw`vllm:num_requests_running{model_name="a\"} 7\\\n,engine=\"模型",engine="0"} 4`,
      'vllm:num_requests_running{model_name="b",engine="1"} 1',
    )
    expect(metrics.running).toBe(5)
    expect(metrics.modelNames).toEqual(['a"} 7\\\n,engine="模型', 'b'])
  })

  it('cache usage never exceeds one, and ranks are averaged', () => {
    expect(parse('vllm:kv_cache_usage_perc{engine="0"} 1.0000001').kvUsage).toBe(1)
    const page = ['vllm:kv_cache_usage_perc{engine="0"} 0.25', 'vllm:kv_cache_usage_perc{engine="1"} 0.75']
    expect(parse(...page).kvUsage).toBe(0.5)
  })

  it('cache size: the engine’s own figure, else blocks times block size, else unknown', () => {
    const own = 'vllm:cache_config_info{block_size="32",kv_cache_size_tokens="3048",num_gpu_blocks="192"} 1.0'
    expect(parse(own)).toMatchObject({ kvCacheTokens: 3048, blockSizeTokens: 32 })
    const blocks = 'vllm:cache_config_info{num_gpu_blocks="100",kv_cache_size_tokens="None",block_size="16"} 1.0'
    expect(parse(blocks)).toMatchObject({ kvCacheTokens: 1600, blockSizeTokens: 16 })
    expect(parse('vllm:cache_config_info{num_gpu_blocks="None",block_size="None"} 1.0')).toEqual(NOTHING)
  })

  it('adapters are those of the newest series, whatever the order of the lines', () => {
    const metrics = parse(
      'vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 1.7871234567e+09',
      'vllm:lora_requests_info{max_lora="4",running_lora_adapters="sql,chat",waiting_lora_adapters=""} 1.7871234569e+09',
      'vllm:lora_requests_info{max_lora="4",running_lora_adapters="",waiting_lora_adapters="old"} 1.7871234568e+09',
    )
    expect(metrics.lora).toEqual({ running: ['sql', 'chat'], waiting: [], max: 4 })
  })
})

describe('damaged pages', () => {
  it('whole lines moved, lost, doubled, rewritten or cut off: reads as the slow parser does', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...recorded),
        fc.array(lineEdit(), { maxLength: 12 }),
        fc.nat(),
        (from, edits, cut) => {
          const lines = from.page.toString().split('\n')
          for (const edit of edits) edit(lines)
          const whole = Buffer.from(lines.join('\n'))
          const page = cut % 4 === 0 ? whole.subarray(0, cut % (whole.length + 1)) : whole
          expect(parseMetricsPage(page)).toEqual(slowParse(page))
        },
      ),
      { numRuns: 150 },
    )
  })

  it('any bytes at all: no exception, and no number that is not one', () => {
    const noise = fc.oneof(
      fc.constantFrom('"', '\\', '{', '}', '\n', '\r', ' ', '=', ',', '\0', 'é', '9e999'),
      fc.string(),
    )
    fc.assert(
      fc.property(
        fc.constantFrom(...recorded),
        fc.array(fc.tuple(fc.nat(), fc.nat({ max: 40 }), noise), { minLength: 1, maxLength: 20 }),
        (from, edits) => {
          let page = from.page.toString('latin1')
          const seriesAt = [...page.matchAll(/vllm:(num|kv|cache_config|request_success)/g)].map((match) => match.index)
          for (const [where, removed, text] of edits) {
            const at = (seriesAt[where % seriesAt.length] ?? 0) + (where % 97)
            page = page.slice(0, at) + text + page.slice(at + removed)
          }
          const { ttft, e2e, lora, modelNames, ...numbers } = parseMetricsPage(Buffer.from(page, 'latin1'))
          for (const number of [...Object.values(numbers), ttft?.sum, ttft?.count, e2e?.sum, e2e?.count]) {
            if (number !== undefined) expect(number).toBeGreaterThanOrEqual(0)
          }
        },
      ),
      { numRuns: 150 },
    )
  })
})

/** An edit of a page's lines in place that leaves every line either well-formed or plainly not a series. */
function lineEdit(): fc.Arbitrary<(lines: string[]) => void> {
  const inserted = fc.constantFrom(
    '',
    '#',
    '# HELP vllm:num_requests_running 5',
    'vllm:num_requests_running',
    'vllm:num_requests_running ',
    'vllm:num_requests_running{',
    'vllm:num_requests_running{engine="0',
    'vllm:num_requests_running{engine="0" 4',
    'vllm:num_requests_running{engine="0}" 4',
    'vllm:num_requests_running{engine=0} 4',
    'vllm:num_requests_running_created{engine="0"} 1.7e9',
    'vllm:num_requests_running 4 1795376839102',
    'vllm:num_requests_waiting_by_reason{reason="capacity"} 3',
    'vllm:kv_cache_usage_perc 7e-1',
    'vllm:lora_requests_info{max_lora="2",running_lora_adapters="a,b",waiting_lora_adapters="c"} 1.7e9',
    'vllm:lora_requests_info{max_lora="2",running_lora_adapters="",waiting_lora_adapters=""} 1.8e9',
    'vllm:cache_config_info{num_gpu_blocks="7",block_size="16"} 1',
  )
  const value = fc.constantFrom('NaN', '+Inf', '-Inf', '0', '1e3', '2.5E-1', '.5', '5.', '-3', 'Inf', '')
  const labelValue = fc.constantFrom('', '} 5', '\\"', '\\\\', '\\\\\\"', 'a\\nb', 'ü', ',engine="', '{').map((text) =>
    // A bare quote would end the value: as a label it has to be escaped.
    text.replace(/(?<!\\)"/g, '\\"'),
  )
  return fc.oneof(
    fc.tuple(fc.nat(), inserted).map(([where, line]) => (lines: string[]) => {
      lines.splice(where % lines.length, 0, line)
    }),
    fc.nat().map((where) => (lines: string[]) => {
      lines.splice(seriesLine(lines, where), 1)
    }),
    fc.tuple(fc.nat(), fc.nat()).map(([from, to]) => (lines: string[]) => {
      lines.splice(to % lines.length, 0, lines[seriesLine(lines, from)] ?? '')
    }),
    fc.tuple(fc.nat(), value).map(([where, text]) => (lines: string[]) => {
      const at = seriesLine(lines, where)
      lines[at] = (lines[at] ?? '').replace(/ [^ ]*$/, ` ${text}`)
    }),
    fc.tuple(fc.nat(), labelValue).map(([where, text]) => (lines: string[]) => {
      const at = seriesLine(lines, where)
      lines[at] = (lines[at] ?? '')
        .replace('{', `{added="${text}",`)
        .replace(/model_name="[^"]*"/, `model_name="${text}"`)
    }),
    fc.nat().map((where) => (lines: string[]) => {
      const at = seriesLine(lines, where)
      lines[at] = `${lines[at]}\r`
    }),
  )
}

function seriesLine(lines: readonly string[], where: number): number {
  const at = lines.flatMap((line, index) => (/^vllm:\w+[{ ]/.test(line) && !line.includes('_bucket') ? [index] : []))
  return at[where % at.length] ?? 0
}

type SlowSample = { readonly labels: ReadonlyMap<string, string>; readonly value: number }

/** Takes every line apart with regular expressions, then asks for the series one by one. */
function slowParse(page: Buffer): EngineMetrics {
  const samples = new Map<string, SlowSample[]>()
  const modelNames = new Set<string>()
  const lines = page.toString('utf8').split('\n').slice(0, -1)
  for (const line of lines) {
    const label = String.raw`[^{}=,"]+="(?:[^"\\]|\\.)*"`
    const whole = new RegExp(String.raw`^vllm:(\w+)(?:\{((?:${label},?)*)\})?[ \t]+([^ \t\r]+)(?:[ \t]+\S+)?\r*$`)
    const match = whole.exec(line)
    if (!match) continue
    const [, series = '', labelText = '', number] = match
    const value = Number(number)
    if (!Number.isFinite(value) || value < 0) continue
    const labels = new Map<string, string>()
    for (const [, name = '', text = ''] of labelText.matchAll(/([^{}=,"]+)="((?:[^"\\]|\\.)*)"/g)) {
      labels.set(
        name,
        text.replace(/\\(["\\n])/g, (_, escaped) => (escaped === 'n' ? '\n' : escaped)),
      )
    }
    samples.set(series, [...(samples.get(series) ?? []), { labels, value }])
    const model = labels.get('model_name')
    if (model !== undefined && READ_SERIES.has(series)) modelNames.add(model)
  }

  const all = (series: string) => samples.get(series) ?? []
  const add = (values: readonly number[]) => (values.length === 0 ? undefined : values.reduce((a, b) => a + b))
  const total = (series: string) => add(all(series).map((sample) => sample.value))
  const label = (sample: SlowSample, name: string) => {
    const number = Number(sample.labels.get(name))
    return number > 0 && Number.isFinite(number) ? number : undefined
  }
  const histogram = (series: string) => {
    const [sum, count] = [total(`${series}_sum`), total(`${series}_count`)]
    return sum === undefined || count === undefined ? undefined : { sum, count }
  }
  const list = (text: string | undefined) => (text ? text.split(',') : [])

  const usage = all('kv_cache_usage_perc').map((sample) => Math.min(1, sample.value))
  const caches = all('cache_config_info')
  const newest = all('lora_requests_info')
    .sort((a, b) => a.value - b.value)
    .at(-1)
  return {
    running: total('num_requests_running'),
    waiting: total('num_requests_waiting'),
    waitingForCapacity: add(
      all('num_requests_waiting_by_reason')
        .filter((sample) => sample.labels.get('reason') === 'capacity')
        .map((sample) => sample.value),
    ),
    kvUsage: usage.length === 0 ? undefined : usage.reduce((a, b) => a + b) / usage.length,
    kvCacheTokens: add(
      caches
        .map((cache) => {
          const blocks = label(cache, 'num_gpu_blocks')
          const blockSize = label(cache, 'block_size')
          return label(cache, 'kv_cache_size_tokens') ?? (blocks && blockSize && blocks * blockSize)
        })
        .filter((tokens) => tokens !== undefined),
    ),
    blockSizeTokens: caches.map((cache) => label(cache, 'block_size')).find((size) => size !== undefined),
    steps: total('iteration_tokens_total_count'),
    promptTokens: total('prompt_tokens_total'),
    generationTokens: total('generation_tokens_total'),
    prefixCacheQueries: total('prefix_cache_queries_total'),
    prefixCacheHits: total('prefix_cache_hits_total'),
    preemptions: total('num_preemptions_total'),
    requestsFinished: total('request_success_total'),
    ttft: histogram('time_to_first_token_seconds'),
    e2e: histogram('e2e_request_latency_seconds'),
    lora: newest && {
      running: list(newest.labels.get('running_lora_adapters')),
      waiting: list(newest.labels.get('waiting_lora_adapters')),
      max: label(newest, 'max_lora'),
    },
    modelNames: modelNames.size > 0 ? [...modelNames] : undefined,
  }
}

const READ_SERIES = new Set([
  'num_requests_running',
  'num_requests_waiting',
  'num_requests_waiting_by_reason',
  'kv_cache_usage_perc',
  'cache_config_info',
  'iteration_tokens_total_count',
  'prompt_tokens_total',
  'generation_tokens_total',
  'prefix_cache_queries_total',
  'prefix_cache_hits_total',
  'num_preemptions_total',
  'request_success_total',
  'time_to_first_token_seconds_sum',
  'time_to_first_token_seconds_count',
  'e2e_request_latency_seconds_sum',
  'e2e_request_latency_seconds_count',
  'lora_requests_info',
])
