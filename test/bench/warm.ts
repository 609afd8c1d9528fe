// Time to the first token of a conversation's first and second turn, through the router: `node test/bench/warm.ts`. On
// simulated pods of a GPU preset in real time, or on real engines given with --engine. Beside it the same conversations
// placed without looking at caches: what a load balancer would do.
import { parseArgs } from 'node:util'
import { loadRouterConfig } from '../../cluster/config.ts'
import { createLog } from '../../cluster/log.ts'
import { startRouter } from '../../cluster/router.ts'
import { presetNamed } from '../../cluster/simulator/preset.ts'
import { startSimulator } from '../../cluster/simulator/server.ts'
import { HEADER } from '../../shared/headers.ts'

const CONVERSATIONS = 8
const PODS = 4
const PROMPT_CHARS = 32_000
const ANSWER_TOKENS = 32

const HELP = `usage: node test/bench/warm.ts [--preset NAME] [--pods N] [--chars N] [--conversations N] [--engine URL …]

Time to the first token of first and second turns, placed by cache and placed by load alone.
  --preset NAME       simulated GPUs (default h100x4-70b)
  --pods N            simulated pods (default ${PODS})
  --engine URL        a real engine in their place; may repeat
  --chars N           size of the first prompt (default ${PROMPT_CHARS})
  --conversations N   one after the other (default ${CONVERSATIONS})
`

type Turn = {
  readonly ttftMs: number
  readonly cachedTokens: number
  readonly promptTokens: number
  readonly said: string
  readonly pod: string
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      preset: { type: 'string', default: 'h100x4-70b' },
      pods: { type: 'string', default: String(PODS) },
      engine: { type: 'string', multiple: true },
      chars: { type: 'string', default: String(PROMPT_CHARS) },
      conversations: { type: 'string', default: String(CONVERSATIONS) },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return
  }
  const pods = values.engine
    ? []
    : await Promise.all(
        Array.from({ length: Number(values.pods) }, (_, pod) =>
          startSimulator({ port: 0, preset: presetNamed(values.preset), seed: pod }),
        ),
      )
  const urls = values.engine ?? pods.map(({ url }) => url)
  process.stdout.write(`${values.engine ? urls.join(', ') : `${pods.length} simulated pods, ${values.preset}`}\n`)
  process.stdout.write(
    `${['placed by', 'turn', 'TTFT p50 ms', 'max ms', 'cached', 'same pod'].map((cell) => cell.padStart(12)).join('')}\n`,
  )
  for (const [name, scorers] of Object.entries(POLICIES)) {
    const config = loadRouterConfig(undefined, { port: 0, adminPort: 0, endpoints: urls, seed: 1 })
    const decode = { ...config.profiles.decode, scorers }
    const router = await startRouter({ ...config, profiles: { decode, prefill: undefined } }, createLog('silent'))
    await router.firstRound
    const first: Turn[] = []
    const second: Turn[] = []
    for (let conversation = 0; conversation < Number(values.conversations); conversation++) {
      const opening = promptOf(`${name} ${conversation} ${process.pid}`, Number(values.chars))
      const one = await turn(router, [opening])
      first.push(one)
      second.push(await turn(router, [opening, one.said, 'And then?']))
    }
    print(name, 'first', first, first)
    print(name, 'second', second, first)
    await router.close({ drainNoticeMs: 0, drainMs: 0 })
  }
  await Promise.all(pods.map((pod) => pod.close()))
}

const POLICIES = {
  cache: [
    { name: 'cache-scorer', weight: 0.5 },
    { name: 'load-scorer', weight: 0.3 },
    { name: 'latency-scorer', weight: 0.2 },
  ],
  load: [{ name: 'load-scorer', weight: 1 }],
} as const

/** Text that no other conversation shares. */
function promptOf(name: string, chars: number): string {
  let text = `Conversation ${name}.`
  for (let line = 0; text.length < chars; line++) text += ` Line ${line} of ${name} says ${(line * 7919) % 9973}.`
  return text
}

async function turn(
  { port, adminPort }: { readonly port: number; readonly adminPort: number },
  texts: readonly string[],
): Promise<Turn> {
  const origin = `http://127.0.0.1:${port}`
  const { data } = (await (await fetch(`${origin}/v1/models`)).json()) as { data: readonly { id: string }[] }
  const messages = texts.map((content, index) => ({ role: index % 2 ? 'assistant' : 'user', content }))
  const startedAtMs = performance.now()
  const answer = await fetch(`${origin}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model: data[0]?.id,
      messages,
      stream: true,
      stream_options: { include_usage: true },
      max_tokens: ANSWER_TOKENS,
      temperature: 0,
    }),
  })
  if (!answer.ok || !answer.body) throw new Error(`${answer.status}: ${await answer.text()}`)
  let ttftMs = Number.NaN
  let text = ''
  const decoder = new TextDecoder()
  for await (const chunk of answer.body) {
    text += decoder.decode(chunk, { stream: true })
    if (Number.isNaN(ttftMs) && /"content":"[^"]/.test(text)) ttftMs = performance.now() - startedAtMs
  }
  const events = text
    .split('\n\n')
    .filter((event) => event.startsWith('data: {'))
    .map((event) => JSON.parse(event.slice(6)))
  const usage = events.at(-1).usage as { prompt_tokens: number; prompt_tokens_details: { cached_tokens: number } }
  const decision = await fetch(`http://127.0.0.1:${adminPort}/decisions/${answer.headers.get(HEADER.decision)}`)
  return {
    ttftMs,
    cachedTokens: usage.prompt_tokens_details.cached_tokens,
    promptTokens: usage.prompt_tokens,
    said: events.map(({ choices }) => choices[0]?.delta?.content ?? '').join(''),
    pod: ((await decision.json()) as { chosen: string }).chosen,
  }
}

function print(policy: string, which: string, turns: readonly Turn[], first: readonly Turn[]): void {
  const times = turns.map(({ ttftMs }) => ttftMs).sort((a, b) => a - b)
  const sum = (of: (turn: Turn) => number): number => turns.reduce((total, turn) => total + of(turn), 0)
  const cached = (100 * sum(({ cachedTokens }) => cachedTokens)) / sum(({ promptTokens }) => promptTokens)
  const same = turns.filter(({ pod }, index) => pod === first[index]?.pod).length
  const row = [
    policy,
    which,
    times[times.length >> 1]?.toFixed(0) ?? '',
    times.at(-1)?.toFixed(0) ?? '',
    `${cached.toFixed(0)} %`,
    which === 'first' ? '' : `${same} of ${turns.length}`,
  ]
  process.stdout.write(`${row.map((cell) => cell.padStart(12)).join('')}\n`)
}

await main()
