// Takes a real engine's times: sends it requests of many shapes, alone and together, and writes down what each one took.
import { setTimeout as delay } from 'node:timers/promises'
import * as v from 'valibot'
import { createRandom, type Random, randomInteger } from '../../shared/random.ts'
import { parseMetricsPage } from '../endpoints/metrics-page.ts'
import { UserError } from '../user-error.ts'
import { promptTokenIds, type RecordedRequest, type RecordingHead } from './recording.ts'

export type RecordOptions = {
  /** Where the engine listens: `http://host:port`. */
  readonly engine: string
  readonly seconds: number
  readonly seed: number
  /** What the engine was started with and does not tell; vLLM's defaults on a CPU without it. */
  readonly maxNumSeqs: number | undefined
  readonly maxNumBatchedTokens: number | undefined
  readonly print: (line: string) => void
}

const WARM_UP_REQUESTS = 4
const PROMPT_TOKENS_MIN = 16
const PROMPT_TOKENS_MAX = 3_000
/** Of requests that meet others. */
const SHORT_PROMPT_TOKENS_MAX = 800
const OUTPUT_TOKENS = 24
/** Less context leaves no room for prompts of different lengths. */
const CONTEXT_TOKENS_MIN = 128
/** What follows on a shared beginning. */
const ENDING_TOKENS_MAX = 200
/** Requests that meet come within it. */
const SPREAD_MS = 150
/** Of an engine that is idle again: its statistics and its memory have settled. */
const PAUSE_MS = 50
const REQUEST_TIMEOUT_MS = 120_000
const MAX_NUM_SEQS_ON_CPU = 128
const MAX_NUM_BATCHED_TOKENS_ON_CPU = 2_048

type Planned = { readonly afterMs: number; readonly prompt: RecordedRequest['prompt']; readonly outputTokens: number }
type Episode = { readonly kind: string; readonly requests: readonly Planned[]; readonly inTurn: boolean }

/** The kinds of episodes, in the order in which they come again and again. */
const KINDS: readonly ((random: Random, promptMax: number) => Episode)[] = [
  alone,
  (random, promptMax) => together(random, promptMax, 2),
  sharing,
  (random, promptMax) => together(random, promptMax, 4),
  alone,
  (random, promptMax) => together(random, promptMax, 8),
]

/** Episodes of each kind in a row: the first of a pair is for fitting, the second for the test. */
export const KIND_COUNT = KINDS.length

/** Gives the text of the recording. Throws UserError when the engine does not answer as vLLM does. */
export async function recordEngine(options: RecordOptions): Promise<string> {
  const { print } = options
  const head = await headOf(options)
  const contextTokens = Math.min(head.maxModelLen, head.kvCacheTokens)
  if (contextTokens < CONTEXT_TOKENS_MIN) {
    throw new UserError(
      `${options.engine} takes ${contextTokens} tokens: start it with --max-model-len ${CONTEXT_TOKENS_MIN} or more`,
    )
  }
  const promptMax = Math.min(PROMPT_TOKENS_MAX, contextTokens - 2 * OUTPUT_TOKENS)
  print(`recording ${head.engine}, model ${head.model}, for ${options.seconds} s`)
  const random = createRandom(options.seed)
  for (let warmUp = 0; warmUp < WARM_UP_REQUESTS; warmUp++)
    await play(options.engine, head.model, alone(random, promptMax))
  const lines = [JSON.stringify(head)]
  const endsAtMs = performance.now() + options.seconds * 1_000
  let toldAtMs = performance.now()
  let episode = 0
  // Whole rounds: every kind is there as often.
  while (performance.now() < endsAtMs || episode % (2 * KINDS.length) !== 0) {
    const planned = (KINDS[episode % KINDS.length] as (typeof KINDS)[number])(random, promptMax)
    for (const request of await play(options.engine, head.model, planned))
      lines.push(JSON.stringify({ episode, ...request }))
    episode++
    await delay(PAUSE_MS)
    if (performance.now() - toldAtMs > 10_000) {
      toldAtMs = performance.now()
      print(
        `  ${lines.length - 1} requests in ${episode} episodes, ${Math.max(0, Math.round((endsAtMs - toldAtMs) / 1_000))} s to go`,
      )
    }
  }
  print(`recorded ${lines.length - 1} requests in ${episode} episodes`)
  return `${lines.join('\n')}\n`
}

function alone(random: Random, promptMax: number): Episode {
  const length = Math.round(PROMPT_TOKENS_MIN * (promptMax / PROMPT_TOKENS_MIN) ** random())
  return {
    kind: 'alone',
    inTurn: true,
    requests: [{ afterMs: 0, prompt: [fresh(random, length)], outputTokens: OUTPUT_TOKENS }],
  }
}

function together(random: Random, promptMax: number, count: number): Episode {
  const longest = Math.min(SHORT_PROMPT_TOKENS_MAX, promptMax)
  const requests = Array.from({ length: count }, () => ({
    afterMs: Math.round(random() * SPREAD_MS),
    prompt: [fresh(random, randomInteger(random, PROMPT_TOKENS_MIN, longest))],
    outputTokens: randomInteger(random, OUTPUT_TOKENS / 2, 2 * OUTPUT_TOKENS),
  }))
  return { kind: `together-${count}`, inTurn: false, requests }
}

/** Three prompts with one beginning, one after the other: the second and third find it cached. */
function sharing(random: Random, promptMax: number): Episode {
  const endingMax = Math.min(ENDING_TOKENS_MAX, Math.floor(promptMax / 4))
  const sharedMax = Math.min(SHORT_PROMPT_TOKENS_MAX, promptMax - endingMax)
  const shared = fresh(random, randomInteger(random, Math.floor(sharedMax / 4), sharedMax))
  const requests = Array.from({ length: 3 }, () => ({
    afterMs: 0,
    prompt: [shared, fresh(random, randomInteger(random, PROMPT_TOKENS_MIN, endingMax))],
    outputTokens: OUTPUT_TOKENS,
  }))
  return { kind: 'sharing', inTurn: true, requests }
}

function fresh(random: Random, length: number): [number, number] {
  return [Math.floor(random() * 2 ** 30), length]
}

type Played = Omit<RecordedRequest, 'episode'>

async function play(engine: string, model: string, { kind, requests, inTurn }: Episode): Promise<readonly Played[]> {
  const beganAtMs = performance.now()
  const send = async ({ afterMs, prompt, outputTokens }: Planned): Promise<Played> => {
    if (afterMs > 0) await delay(afterMs)
    const sentAtMs = performance.now() - beganAtMs
    const took = await timeRequest(engine, model, prompt, outputTokens)
    return { kind, sentAtMs: rounded(sentAtMs), prompt, ...took }
  }
  if (!inTurn) return Promise.all(requests.map(send))
  const played: Played[] = []
  for (const request of requests) played.push(await send(request))
  return played
}

type Chunk = {
  readonly choices?: readonly unknown[]
  readonly usage?: {
    readonly completion_tokens: number
    readonly prompt_tokens_details?: { readonly cached_tokens: number }
  }
}

async function timeRequest(engine: string, model: string, prompt: RecordedRequest['prompt'], outputTokens: number) {
  try {
    return await timed(engine, model, prompt, outputTokens)
  } catch (error) {
    if (error instanceof UserError) throw error
    throw new UserError(`${engine} stopped answering (${(error as Error).message}): is it still up?`)
  }
}

async function timed(engine: string, model: string, prompt: RecordedRequest['prompt'], outputTokens: number) {
  const body = JSON.stringify({
    model,
    prompt: promptTokenIds(prompt),
    max_tokens: outputTokens,
    min_tokens: outputTokens,
    ignore_eos: true,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
  })
  const sentAtMs = performance.now()
  const answer = await fetch(new URL('/v1/completions', engine), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body,
    signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
  })
  if (!answer.ok || !answer.body)
    throw new UserError(`${engine} answers ${answer.status}: ${(await answer.text()).slice(0, 300)}`)
  let firstTokenMs: number | undefined
  let lastTokenMs = 0
  let usage: Chunk['usage']
  let rest = ''
  for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
    const now = performance.now() - sentAtMs
    const events = (rest + text).split('\n\n')
    rest = events.pop() ?? ''
    for (const event of events) {
      if (!event.startsWith('data: {')) continue
      const chunk = JSON.parse(event.slice('data: '.length)) as Chunk
      usage = chunk.usage ?? usage
      if (!chunk.choices || chunk.choices.length === 0) continue
      firstTokenMs ??= now
      lastTokenMs = now
    }
  }
  if (firstTokenMs === undefined || usage === undefined) {
    throw new UserError(`${engine} sent no tokens or no usage: is it a vLLM that generates text?`)
  }
  return {
    cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
    outputTokens: usage.completion_tokens,
    firstTokenMs: rounded(firstTokenMs),
    lastTokenMs: rounded(lastTokenMs),
  }
}

function rounded(ms: number): number {
  return Math.round(ms * 100) / 100
}

const Models = v.object({
  data: v.array(v.object({ id: v.string(), max_model_len: v.pipe(v.number(), v.integer(), v.minValue(1)) })),
})
const Version = v.object({ version: v.string() })

async function headOf({ engine, maxNumSeqs, maxNumBatchedTokens }: RecordOptions): Promise<RecordingHead> {
  const ask = async (path: string): Promise<Response> => {
    try {
      const answer = await fetch(new URL(path, engine), { signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) })
      if (answer.ok) return answer
      throw new UserError(`${engine}${path} answers ${answer.status}: is it a vLLM?`)
    } catch (error) {
      if (error instanceof UserError) throw error
      throw new UserError(`${engine} does not answer: start vLLM there, or name another one with --engine`)
    }
  }
  const read = async <const Schema extends v.GenericSchema>(schema: Schema, path: string) => {
    const parsed = v.safeParse(schema, await (await ask(path)).json().catch(() => undefined))
    if (parsed.success) return parsed.output
    throw new UserError(`${engine}${path} does not answer as vLLM does: name the engine itself with --engine`)
  }
  const { data } = await read(Models, '/v1/models')
  const { version } = await read(Version, '/version')
  const { blockSizeTokens, kvCacheTokens } = parseMetricsPage(Buffer.from(await (await ask('/metrics')).arrayBuffer()))
  const [model] = data
  if (!model || blockSizeTokens === undefined || kvCacheTokens === undefined)
    throw new UserError(`${engine} tells no model or no KV cache: start it with its statistics on`)
  return {
    recording: 'warmpath-timings-1',
    engine: `vLLM ${version}`,
    model: model.id,
    blockSize: blockSizeTokens,
    kvCacheTokens,
    maxModelLen: model.max_model_len,
    maxNumSeqs: maxNumSeqs ?? MAX_NUM_SEQS_ON_CPU,
    maxNumBatchedTokens: maxNumBatchedTokens ?? MAX_NUM_BATCHED_TOKENS_ON_CPU,
  }
}
