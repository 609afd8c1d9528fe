// Precise, approximate and random routing side by side: simulated pods near the capacity of their KV caches, conversations that
// share system prompts, through a real router. `node test/bench/kv-routing.ts [speed]`: simulated time passes so many times as
// fast (default 2).
import pino from 'pino'
import { loadRouterConfig } from '../../cluster/config.ts'
import { startRouter } from '../../cluster/router.ts'
import { presetNamed } from '../../cluster/simulator/preset.ts'
import { type Simulator, startSimulator } from '../../cluster/simulator/server.ts'
import { createRandom, randomInteger } from '../../shared/random.ts'

const SPEED = Number(process.argv[2] ?? 2)
const PODS = 4
const BLOCK_TOKENS = 16
/** Of one pod: all conversations together have about twice what the pods hold. */
const KV_TOKENS = 48 * 1_024
const SYSTEMS = 8
const SYSTEM_TOKENS = 2_048
const CONVERSATIONS = 96
const TURNS = 6
const TURN_TOKENS = 400
const ANSWER_TOKENS = 24
/** Conversations at a time. */
const CALLERS = 48
const MODEL = 'm'

type Way = 'precise' | 'approximate' | 'random'
type Outcome = {
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly believedTokens: number | undefined
  readonly ttftSeconds: number
}

const ROUTING: Readonly<Record<Way, string>> = {
  precise: '',
  approximate: '',
  // Load is all the same to it: every pod is as likely.
  random: 'scorers: [{ name: session-affinity, weight: 0 }]\npicker: weighted-random\n',
}

/** Ids of a text that nobody else has; the simulated vocabulary has all of these. */
function textOf(seed: number, tokens: number): string {
  const random = createRandom(seed)
  // Four letters to a token.
  return Array.from({ length: tokens }, () =>
    randomInteger(random, 0, 26 ** 3)
      .toString(36)
      .padStart(3, 'z'),
  ).join(' ')
}

async function run(way: Way): Promise<Outcome[]> {
  const pods: Simulator[] = []
  for (let pod = 0; pod < PODS; pod++) {
    pods.push(
      await startSimulator({
        port: 0,
        models: [MODEL],
        speed: SPEED,
        preset: presetNamed('h100x4-70b'),
        kvCacheTokens: KV_TOKENS,
        blockSize: BLOCK_TOKENS,
        ...(way === 'precise' ? {} : { kvEventsPort: 'off' as const }),
      }),
    )
  }
  const over = {
    endpoints: pods.map(({ url }) => url),
    allowUnsigned: true,
    port: 0,
    adminPort: 0,
    cacheEnabled: 'false',
    seed: 1,
  }
  const router = await startRouter(loadRouterConfig(undefined, over, ROUTING[way]), pino({ level: 'silent' }))
  await router.firstRound
  const outcomes: Outcome[] = []
  const waiting = Array.from({ length: CONVERSATIONS }, (_, conversation) => conversation)
  const caller = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift())
      outcomes.push(...(await converse(next)))
  }

  async function converse(conversation: number): Promise<Outcome[]> {
    const system = textOf(1_000 + (conversation % SYSTEMS), SYSTEM_TOKENS)
    const messages: { role: string; content: string }[] = [{ role: 'system', content: system }]
    const said: Outcome[] = []
    for (let turn = 0; turn < TURNS; turn++) {
      messages.push({ role: 'user', content: textOf(10_000 + conversation * 100 + turn, TURN_TOKENS) })
      said.push(await ask(messages))
      messages.push({ role: 'assistant', content: textOf(500_000 + conversation * 100 + turn, ANSWER_TOKENS) })
    }
    return said
  }

  async function ask(messages: readonly object[]): Promise<Outcome> {
    const body = JSON.stringify({
      model: MODEL,
      messages,
      max_tokens: ANSWER_TOKENS,
      stream: true,
      stream_options: { include_usage: true },
    })
    const sentAtMs = performance.now()
    const answer = await fetch(`http://127.0.0.1:${router.port}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    })
    if (!answer.ok || !answer.body) throw new Error(`${answer.status} ${await answer.text()}`)
    let ttftSeconds: number | undefined
    let text = ''
    for await (const chunk of answer.body) {
      ttftSeconds ??= ((performance.now() - sentAtMs) / 1_000) * SPEED
      text += Buffer.from(chunk).toString()
    }
    const last = text.split('\n\n').findLast((event) => event.includes('"usage":{'))
    const { prompt_tokens, prompt_tokens_details } = JSON.parse(last?.replace(/^data: /, '') ?? '{}').usage
    const id = answer.headers.get('x-warmpath-decision')
    const decision = await (await fetch(`http://127.0.0.1:${router.adminPort}/decisions/${id}`)).json()
    // biome-ignore lint/suspicious/noExplicitAny: a record as the admin door tells it.
    const chosen = (decision as any).candidates?.find(({ endpoint }: any) => endpoint === (decision as any).chosen)
    return {
      promptTokens: prompt_tokens,
      cachedTokens: prompt_tokens_details?.cached_tokens ?? 0,
      // A guess is of bytes: what counts is its share of the prompt.
      believedTokens:
        way === 'random' || chosen === undefined
          ? undefined
          : // biome-ignore lint/suspicious/noExplicitAny: a record as the admin door tells it.
            (chosen.cachedTokens / (decision as any).promptTokens) * prompt_tokens,
      ttftSeconds: ttftSeconds ?? Number.NaN,
    }
  }

  await Promise.all(Array.from({ length: CALLERS }, caller))
  await router.close({ drainNoticeMs: 0, drainMs: 0 })
  await Promise.all(pods.map((pod) => pod.close()))
  return outcomes
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)
const percent = (share: number): string => `${(100 * share).toFixed(1)} %`.padStart(8)

process.stdout.write(
  `${PODS} pods of ${KV_TOKENS} tokens, ${CONVERSATIONS} conversations of ${TURNS} turns and up to ${SYSTEM_TOKENS + TURNS * (TURN_TOKENS + ANSWER_TOKENS)} tokens, ${CALLERS} at a time, ${SPEED} times as fast as real\n` +
    '               hit rate   TTFT mean       p90   believed too much   too little\n',
)
for (const way of ['precise', 'approximate', 'random'] as const) {
  const outcomes = await run(way)
  const prompt = sum(outcomes.map(({ promptTokens }) => promptTokens))
  const hit = sum(outcomes.map(({ cachedTokens }) => cachedTokens)) / prompt
  const times = outcomes.map(({ ttftSeconds }) => ttftSeconds).sort((a, b) => a - b)
  const believed = outcomes.flatMap(({ believedTokens, cachedTokens }) =>
    believedTokens === undefined ? [] : [believedTokens - cachedTokens],
  )
  const errors =
    believed.length === 0
      ? '               –            –'
      : `            ${percent(sum(believed.map((error) => Math.max(0, error))) / prompt)}     ${percent(sum(believed.map((error) => Math.max(0, -error))) / prompt)}`
  const p90 = times[Math.floor(0.9 * times.length)] ?? Number.NaN
  process.stdout.write(
    `${way.padEnd(14)} ${percent(hit)} ${(sum(times) / times.length).toFixed(3).padStart(9)} s ${p90.toFixed(3).padStart(7)} s${errors}\n`,
  )
}
