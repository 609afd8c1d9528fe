// How much sooner a repeated question is answered: the first time by a simulated pod in real time, then from each cache.
import { presetNamed } from '../../cluster/simulator/preset.ts'
import { startSimulator } from '../../cluster/simulator/server.ts'
import { MODEL } from './answers.ts'
import { cacheSettings, edgeSettings } from './cache-rows.ts'
import { buildWorker, makeEdgeSecrets, startWorker } from './edge.ts'
import { median, pause, quantile } from './figures.ts'
import { startLoad } from './load.ts'
import { startBenchRouter } from './peers.ts'
import type { Processes } from './processes.ts'
import { postRequest, type Request } from './requests.ts'
import { startSomeRedis } from './some-redis.ts'
import { ask, FROM, storeAnswer, textOf } from './stored.ts'

export const REPEAT_ABOUT = 'time to the whole answer, one caller: asked first, and again'

export type RepeatResult = {
  readonly place: string
  /** Medians over the prompts; the ratio is the median of each prompt's. */
  readonly firstMs: number
  readonly againMs: number
  /** Over all repeats of all prompts. */
  readonly againP99Ms: number
  readonly timesFaster: number
}

const GPU = 'h100x4-70b'
const PROMPT_CHARS = 32_000
const ANSWER_TOKENS = 64
const PROMPTS = 4
const REPEATED_MS = 400

type Timing = { readonly firstMs: number; readonly againMs: readonly number[] }

/** Starts what it needs. */
export async function measureRepeats(
  processes: Processes,
): Promise<{ readonly results: readonly RepeatResult[]; readonly notes: readonly string[] }> {
  const secrets = makeEdgeSecrets()
  const pod = await startSimulator({ port: 0, preset: presetNamed(GPU), models: [MODEL] })
  processes.alsoStop(pod.close)
  const redis = await startSomeRedis(processes)
  const routerWith = (memory: { readonly memoryBytes?: number }) =>
    startBenchRouter(processes, pod.url, {
      settings: [...edgeSettings(secrets), ...cacheSettings({ redis: redis.url, ...memory })],
    })
  const near = await routerWith({})
  const far = await routerWith({ memoryBytes: 0 })
  const worker = await buildWorker(processes.directory)
  const edge = await startWorker(processes, 'edge', worker, `http://127.0.0.1:${near.port}`, secrets, '/healthz')

  const timings = { memory: [] as Timing[], redis: [] as Timing[], edge: [] as Timing[] }
  const headers = { authorization: `Bearer ${secrets.apiKey}` }
  for (let prompt = 0; prompt < PROMPTS; prompt++) {
    const direct: Request = { bytes: postRequest('/v1/chat/completions', headers, bodyOf(`router ${prompt}`)) }
    const first = await askFirst(near.port, direct)
    timings.memory.push({ ...first, againMs: await askAgain(near.port, direct, FROM.memory, first.text) })
    timings.redis.push({ ...first, againMs: await askAgain(far.port, direct, FROM.redis, first.text) })
    const through: Request = { bytes: postRequest('/v1/chat/completions', headers, bodyOf(`edge ${prompt}`)) }
    const firstThrough = await askFirst(edge.port, through)
    timings.edge.push({ ...firstThrough, againMs: await askAgain(edge.port, through, FROM.edge, firstThrough.text) })
  }
  return {
    results: [
      resultOf("the router's memory", timings.memory),
      resultOf('Redis', timings.redis),
      resultOf('the edge', timings.edge),
    ],
    notes: [
      `repeat: a pod of simulated GPUs, ${GPU}; ${PROMPTS} prompts of ${PROMPT_CHARS} characters, ${ANSWER_TOKENS} tokens`,
      `repeat: ${redis.about}`,
    ],
  }
}

async function askFirst(port: number, request: Request): Promise<{ readonly firstMs: number; readonly text: string }> {
  const { head, body, tookUs } = await ask(port, request)
  const { usage } = JSON.parse(body)
  const computed = usage.completion_tokens === ANSWER_TOKENS && usage.prompt_tokens_details?.cached_tokens === 0
  if (!computed || /; hit/.test(head)) throw new Error(`not computed from the beginning:\n${head}\n\n${body}`)
  return { firstMs: tookUs / 1_000, text: textOf(body) }
}

async function askAgain(port: number, request: Request, from: RegExp, text: string): Promise<readonly number[]> {
  // What the first request has left is looked for, nothing is stored anew.
  const expected = await storeAnswer(port, request, request, from, text)
  const load = startLoad({ port, connections: 1, request, expected })
  await pause(REPEATED_MS)
  await load.stop()
  return load.take().latenciesUs.map((us) => us / 1_000)
}

function resultOf(place: string, timings: readonly Timing[]): RepeatResult {
  return {
    place,
    firstMs: median(timings.map(({ firstMs }) => firstMs)),
    againMs: median(timings.map(({ againMs }) => median(againMs))),
    againP99Ms: quantile(
      timings.flatMap(({ againMs }) => againMs),
      0.99,
    ),
    timesFaster: median(timings.map(({ firstMs, againMs }) => firstMs / median(againMs))),
  }
}

/** A question that shares no block with another. */
function bodyOf(name: string): string {
  let text = `Question ${name} of process ${process.pid}.`
  for (let line = 0; text.length < PROMPT_CHARS; line++)
    text += ` Line ${line} of ${name} says ${(line * 7919) % 9973}.`
  return JSON.stringify({
    model: MODEL,
    messages: [{ role: 'user', content: text }],
    max_tokens: ANSWER_TOKENS,
    // Parameters of vLLM's own: without them the model may stop first.
    ignore_eos: true,
    temperature: 0,
  })
}
