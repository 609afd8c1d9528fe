// The CPU time of reading and placing a long chat: `node test/bench/prompts.ts [directory of a tokenizer]`. A conversation of
// 100,000 tokens with a new last turn of 1,000, and one that nobody has seen; before 100 pods whose caches are followed. The
// libraries' time for the same text stands beside it, in the same run.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Tokenizer } from '@huggingface/tokenizers'
import type { Endpoint, EndpointId } from '../../cluster/endpoints/endpoint.ts'
import { createEndpointSet } from '../../cluster/endpoints/set.ts'
import { gatherPrompt } from '../../cluster/epp/context.ts'
import { decide } from '../../cluster/epp/decide.ts'
import { createGuesses } from '../../cluster/epp/guesses.ts'
import { createApproximateIndex } from '../../cluster/kv/approximate-index.ts'
import { createInFlightPrefixes } from '../../cluster/kv/in-flight-prefixes.ts'
import { createKvIndex, type KvSource } from '../../cluster/kv/kv-index.ts'
import { scanBody } from '../../cluster/prompts/body.ts'
import { PROMPT_WORKER, promptBytesOf, promptOf } from '../../cluster/prompts/prompt.ts'
import { buildProfile } from '../../cluster/scheduling/profile.ts'
import { createRouterTokenizer } from '../../cluster/tokens/router-tokenizer.ts'
import { loadTextTokenizer } from '../../cluster/tokens/text-tokenizer.ts'
import { createRandom } from '../../shared/random.ts'
import { cacheDir } from '../real/cache.ts'
import { quantile } from './figures.ts'

const MODEL = 'm'
const PODS = 100
const BLOCK_TOKENS = 16
const TURNS = 20
const CONVERSATION_BYTES = 400_000
const TURN_BYTES = 4_000
const WARM_UP = 100
const ROUNDS = 400
const COLD_ROUNDS = 20
const HUGE_PROMPTS = 20
const TICK_MS = 1
const IDLE_MS = 3_000
const NOBODY = '10.0.0.1:8000' as EndpointId

const directory = process.argv[2] ?? someTokenizer()
if (directory === undefined) {
  process.stderr.write(
    'bench: give a directory with a tokenizer.json, or run npm run test:real once, which fetches some\n',
  )
  process.exit(1)
}

function someTokenizer(): string | undefined {
  const models = join(cacheDir(), 'models')
  const names = existsSync(models)
    ? readdirSync(models).filter((name) => existsSync(join(models, name, 'tokenizer.json')))
    : []
  const name = names.find((each) => each.startsWith('tiny-qwen3')) ?? names[0]
  return name === undefined ? undefined : join(models, name)
}

/** English and code, as in this repository; no two calls give the same. */
const source = readdirSync(new URL('../../cluster/simulator/', import.meta.url))
  .map((name) => readFileSync(new URL(`../../cluster/simulator/${name}`, import.meta.url), 'latin1'))
  .join('\n')
  .replaceAll(/[^\t\n\r -~]/g, ' ')
let taken = 0
function words(bytes: number): string {
  const start = (taken * 7_919) % (source.length - bytes - 1)
  return `${taken++} ${source.slice(start, start + bytes)}`
}

const tokenizer = createRouterTokenizer({
  worker: PROMPT_WORKER,
  directoryOf: () => directory,
  baseOf: (model) => model,
  engine: async () => ({ ok: false, because: 'nobody is asked' }),
  ask: async () => undefined,
  nowMs: () => performance.now(),
  random: () => 1,
  budgetMs: () => 60_000,
  onEvent: () => undefined,
})
await tokenizer.verify(NOBODY, MODEL)

const index = createKvIndex()
const pods = Array.from({ length: PODS }, (_, pod): Endpoint => {
  const id = `10.0.0.${pod + 1}:8000`
  return { id: id as EndpointId, origin: `http://${id}`, role: 'both', labels: {} }
})
const sources = pods.map(({ id }) => index.open({ endpoint: id, rank: 0, model: MODEL }))
const set = createEndpointSet(pods, () => performance.now())
for (const { id } of pods) set.modelsListed(id, [{ id: MODEL }])

let nextHash = 1
function store(kvSource: KvSource, tokenIds: Uint32Array): void {
  const blocks = Math.floor(tokenIds.length / BLOCK_TOKENS)
  const hashes = new Uint32Array(2 * blocks)
  for (let block = 0; block < blocks; block++) hashes[2 * block + 1] = nextHash++
  const event = {
    type: 'stored',
    hashes,
    parent: undefined,
    tokenIds: tokenIds.subarray(0, blocks * BLOCK_TOKENS),
    blockSizeTokens: BLOCK_TOKENS,
    medium: 'GPU',
    loraName: undefined,
    extraKeys: undefined,
    group: 0,
    specKind: 'full_attention',
  } as const
  kvSource.apply({ atSeconds: 0, rank: 0, unknownEvents: 0, events: [event] })
}

const guesses = createGuesses(
  createApproximateIndex({ cacheTokensOf: () => undefined, ttlSeconds: 3_600, nowMs: () => performance.now() }),
  createInFlightPrefixes(() => performance.now()),
)
const gather = {
  tokenize: tokenizer.tokenize,
  findPrefixes: (query: Parameters<typeof index.match>[0]) => ({ matches: index.match(query), by: undefined }),
  knowsCaches: () => true,
  guesses,
  confidence: () => 1,
}
const profiles = {
  decode: buildProfile('decode', {
    filters: [{ name: 'decode' }],
    scorers: [
      { name: 'cache-scorer', weight: 0.5 },
      { name: 'load-scorer', weight: 0.3 },
      { name: 'latency-scorer', weight: 0.2 },
    ],
    picker: 'max-score',
  }),
}
const random = createRandom(1)

type Message = { readonly role: string; readonly content: string }

function conversation(bytes: number): Message[] {
  const each = Math.floor(bytes / TURNS / 2)
  const turns = Array.from({ length: 2 * TURNS }, (_, turn) => ({
    role: turn % 2 === 0 ? 'user' : 'assistant',
    content: words(each),
  }))
  return [{ role: 'system', content: words(2_000) }, ...turns]
}

function bodyOf(messages: readonly Message[]): Buffer {
  return Buffer.from(JSON.stringify({ model: MODEL, messages }))
}

/** Body in, endpoint out; gives the tokens. */
async function place(body: Buffer): Promise<number> {
  const scan = scanBody(body)
  if (!scan.ok) throw new Error(scan.message)
  const { members } = scan
  const request = {
    model: MODEL,
    cacheSalt: undefined,
    prompt: () => promptOf('chat', body, members),
    promptBytes: () => promptBytesOf('chat', body, members),
    promptTokensEstimate: body.length / 4,
  }
  const facts = await gatherPrompt(gather, request, set.snapshot())
  const { promptTokens, prefixes, tokensUnknown } = facts
  if (tokensUnknown !== undefined) throw new Error(tokensUnknown)
  decide(
    profiles,
    { model: MODEL, promptTokens, prefixes, session: undefined, bound: undefined },
    set.snapshot(),
    random,
  )
  return promptTokens
}

/** How long this thread let a timer wait while something was done: in all, and but for waiting for a processor. */
async function stopsWhile(work: () => Promise<void>): Promise<string> {
  const clockMs: number[] = []
  const ownMs: number[] = []
  let [atMs, atWaitedMs] = [performance.now(), waitedForProcessorMs()]
  const timer = setInterval(() => {
    const [nowMs, nowWaitedMs] = [performance.now(), waitedForProcessorMs()]
    const stopMs = Math.max(0, nowMs - atMs - TICK_MS)
    clockMs.push(stopMs)
    ownMs.push(Math.max(0, stopMs - (nowWaitedMs - atWaitedMs)))
    atMs = nowMs
    atWaitedMs = nowWaitedMs
  }, TICK_MS)
  await work()
  clearInterval(timer)
  const told = (samples: number[]) => {
    const at = (share: number) => quantile(samples, share).toFixed(1)
    return `p50 ${at(0.5)}, p99 ${at(0.99)}, longest ${at(1)} ms`
  }
  return `${told(clockMs)}; but for waiting for a processor ${told(ownMs)}`
}

/** Of this thread, since it began: others had it. 0 where the system does not tell (it is Linux that does). */
function waitedForProcessorMs(): number {
  try {
    return Number(readFileSync('/proc/thread-self/schedstat', 'latin1').split(' ')[1]) / 1e6
  } catch {
    return 0
  }
}

/** Microseconds for each, on a clock. A body is made right before, as one that has just come. */
async function measure(rounds: number, make: () => Buffer, clockUs: () => number): Promise<number[]> {
  const samples: number[] = []
  for (let round = 0; round < rounds; round++) {
    const body = make()
    const before = clockUs()
    await place(body)
    samples.push(clockUs() - before)
  }
  return samples
}

function quantiles(samples: number[]): string {
  const at = (share: number) => `${(quantile(samples, share) / 1_000).toFixed(2)} ms`
  return `median ${at(0.5)}, p10 ${at(0.1)}, p90 ${at(0.9)}`
}

/** As many pods hold it as hold a conversation's beginning in a pool: all of them the system prompt, a third half of it. */
async function remember(messages: readonly Message[]): Promise<void> {
  // As it is rendered once another turn follows: some templates write the last answer otherwise.
  const body = bodyOf([...messages, { role: 'user', content: 'And?' }])
  const scan = scanBody(body)
  if (!scan.ok) throw new Error(scan.message)
  const tokens = await tokenizer.tokenize(MODEL, promptOf('chat', body, scan.members))
  if (!tokens.ok) throw new Error(tokens.because)
  for (const [pod, kvSource] of sources.entries()) {
    const share = pod === 0 ? 1 : pod % 3 === 0 ? 0.5 : 0.005
    store(kvSource, tokens.ids.subarray(0, Math.floor(tokens.ids.length * share)))
    kvSource.complete(true)
  }
}

const print = (line: string): void => void process.stdout.write(`${line}\n`)
print(
  `tokenizer ${directory.split('/').at(-1)}, ${PODS} pods, Node ${process.version}; CPU of the whole process, its worker thread included`,
)

const talk = conversation(CONVERSATION_BYTES)
await remember(talk)
// The words of the source are in the tokenizer's word cache from here on.
const next = () => bodyOf([...talk, { role: 'user', content: words(TURN_BYTES) }])
// It never waits for anything: its time is its CPU's, but for what others take of this one.
const wallUs = () => performance.now() * 1_000
const cpuUs = () => {
  const { user, system } = process.cpuUsage()
  return user + system
}
const tokens = await place(next())
await measure(WARM_UP, next, wallUs)
print(
  `a chat of ${tokens} tokens, its last turn new   ${quantiles(await measure(ROUNDS, next, wallUs))}   (budget 1.5 ms)`,
)
const again = () => bodyOf(talk)
print(`the same chat once more                     ${quantiles(await measure(ROUNDS, again, wallUs))}`)
const unseen = () => bodyOf(conversation(CONVERSATION_BYTES))
const cold = await measure(COLD_ROUNDS, unseen, cpuUs)
print(`a chat of as many that nobody has seen       ${quantiles(cold)}   (budget 30 ms)`)

// What a 2 MB prompt does to everybody else's streams. The second kind holds words that templates look for: it is read whole.
// What the measurements before have left in the heap is collected first.
setFlagsFromString('--expose-gc')
const collectGarbage: () => void = runInNewContext('gc')
const plain = source.replaceAll(/think|billing/g, 'guess').repeat(9)
for (const [kind, start] of [
  ['as most are', ''],
  ['read whole', '</think>'],
] as const) {
  const huge = Array.from({ length: HUGE_PROMPTS }, (_, which) =>
    bodyOf([{ role: 'user', content: `${start}${which} ${plain.slice(0, 2_000_000)}` }]),
  )
  collectGarbage()
  await delay(500)
  const stops = await stopsWhile(async () => {
    for (const body of huge) await place(body)
  })
  print(`timers wait, while ${HUGE_PROMPTS} prompts of 2 MB are read, ${kind}: ${stops}   (budget 5 ms)`)
}
print(`timers wait, while nothing happens: ${await stopsWhile(() => delay(IDLE_MS))}`)

// One text, three tokenizers.
const json = JSON.parse(readFileSync(join(directory, 'tokenizer.json'), 'utf8'))
const { tokenizer: ours, notOurs } = loadTextTokenizer(json, {})
const library = new Tokenizer(json, {})
for (const bytes of [4_000, 32_000, 400_000]) {
  const text = words(bytes)
  const time = (encode: (text: string) => { readonly length: number }): string => {
    for (let round = 0; round < 3; round++) encode(text)
    const rounds = Math.max(2, Math.floor(1_200_000 / bytes))
    const before = process.cpuUsage()
    let length = 0
    for (let round = 0; round < rounds; round++) length = encode(text).length
    const { user, system } = process.cpuUsage(before)
    const us = (user + system) / rounds
    return `${(bytes / us).toFixed(1)} MB/s, ${(length / us).toFixed(2)} M tokens/s`
  }
  const own = time((each) => ours.encode(each))
  const theirs = time((each) => library.encode(each, { add_special_tokens: false }).ids)
  print(
    `${String(bytes).padStart(7)} bytes   ours ${own}${notOurs ? ` (the library: ${notOurs})` : ''}   library in JavaScript ${theirs}`,
  )
}
await tokenizer.close()
