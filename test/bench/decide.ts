// The CPU time of one routing decision by prompt length and pool size: `node test/bench/decide.ts`. A prompt whose token
// ids are known (the cache of whole prompts) and whose shared beginning every pod holds, a third of the pods half of it,
// one of them nearly all. The parts of a decision are measured one by one, then the whole.
import { createHash } from 'node:crypto'
import type { Endpoint, EndpointId } from '../../cluster/endpoints/endpoint.ts'
import { createEndpointSet } from '../../cluster/endpoints/set.ts'
import { gatherPrompt } from '../../cluster/epp/context.ts'
import { decide } from '../../cluster/epp/decide.ts'
import { createKvIndex, type KvSource } from '../../cluster/kv/kv-index.ts'
import { bestByEndpoint, type EndpointPrefix, type PromptQuery } from '../../cluster/kv/prefix-match.ts'
import { buildProfile } from '../../cluster/scheduling/profile.ts'
import { createEngineTokenizer } from '../../cluster/tokens/engine-tokenizer.ts'
import { readTokenIds } from '../../cluster/tokens/token-ids.ts'
import { createRandom, randomInteger } from '../../shared/random.ts'

type Known = ReadonlyMap<EndpointId, EndpointPrefix>

const MODEL = 'm'
const BLOCK_TOKENS = 16
const SHARED_TOKENS = 1_024
/** What each pod holds of other prompts. */
const OTHER_BLOCKS = 4_000
const BYTES_PER_TOKEN = 4
const ROUNDS = 7
const ROUND_MS = 150

const random = createRandom(1)
const tokens = (count: number): Uint32Array =>
  Uint32Array.from({ length: count }, () => randomInteger(random, 0, 150_000))

let nextHash = 1

/** Tells the index that a pod has stored these tokens. */
function store(source: KvSource, tokenIds: Uint32Array): void {
  const blocks = Math.floor(tokenIds.length / BLOCK_TOKENS)
  const hashes = new Uint32Array(2 * blocks)
  for (let block = 0; block < blocks; block++) hashes[2 * block + 1] = nextHash++
  source.apply({
    atSeconds: 0,
    rank: 0,
    unknownEvents: 0,
    events: [
      {
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
      },
    ],
  })
}

/** Microseconds of CPU for one call: the median over rounds. */
async function cpuUs(run: () => unknown): Promise<number> {
  const samples: number[] = []
  for (let round = 0; round <= ROUNDS; round++) {
    const until = performance.now() + ROUND_MS
    const before = process.cpuUsage()
    let calls = 0
    while (performance.now() < until) {
      const result = run()
      if (result instanceof Promise) await result
      calls++
    }
    const { user, system } = process.cpuUsage(before)
    if (round > 0) samples.push((user + system) / calls)
  }
  samples.sort((a, b) => a - b)
  return samples[samples.length >> 1] ?? Number.NaN
}

async function measure(promptTokens: number, pods: number): Promise<readonly number[]> {
  const prompt = tokens(promptTokens)
  const list = Array.from({ length: pods }, (_, pod): Endpoint => {
    const id = `10.0.${pod >> 8}.${pod & 255}:8000`
    return { id: id as EndpointId, origin: `http://${id}`, role: 'both', labels: {} }
  })
  const index = createKvIndex()
  for (const [pod, { id }] of list.entries()) {
    const source = index.open({ endpoint: id, rank: 0, model: MODEL })
    const share = pod === 0 ? 0.95 : pod % 3 === 0 ? 0.5 : 0
    store(source, prompt.subarray(0, Math.max(SHARED_TOKENS, Math.floor(promptTokens * share))))
    store(source, tokens(OTHER_BLOCKS * BLOCK_TOKENS))
    source.complete(true)
  }
  const set = createEndpointSet(list, () => performance.now())
  for (const { id } of list) set.modelsListed(id, [{ id: MODEL }])

  const body = Buffer.alloc(promptTokens * BYTES_PER_TOKEN, 'x')
  const answer = Buffer.from(JSON.stringify({ count: promptTokens, max_model_len: 1, tokens: [...prompt] }))
  const tokenize = createEngineTokenizer({
    askable: () => [list[0]?.id as EndpointId],
    ask: async () => ({ status: 200, body: answer }),
    nowMs: () => 0,
    budgetMs: () => 1_000,
  })
  const gather = {
    tokenize,
    findPrefixes: (query: PromptQuery) => ({ matches: index.match(query), by: undefined }),
    knowsCaches: () => true,
    guesses: { fill: (_: unknown, known: Known) => known },
    confidence: () => 1,
  }
  const request = {
    model: MODEL,
    cacheSalt: undefined,
    prompt: () => ({ kind: 'text', forEngine: () => ({ ok: true, body }) as const }) as const,
    promptBytes: () => undefined,
    promptTokensEstimate: promptTokens,
  }
  const scorers = [
    { name: 'cache-scorer', weight: 0.5 },
    { name: 'load-scorer', weight: 0.3 },
    { name: 'latency-scorer', weight: 0.2 },
  ] as const
  const profiles = { decode: buildProfile('decode', { filters: [{ name: 'decode' }], scorers, picker: 'max-score' }) }
  const query = { tokenIds: prompt, model: MODEL, lora: undefined, cacheSalt: undefined }
  const prefixes = bestByEndpoint(index.match(query))
  const facts = { model: MODEL, promptTokens, prefixes, session: undefined, bound: undefined }

  return [
    await cpuUs(() => readTokenIds(answer)),
    await cpuUs(() => createHash('sha256').update(body).digest('base64')),
    await cpuUs(() => bestByEndpoint(index.match(query))),
    await cpuUs(() => decide(profiles, facts, set.snapshot(), random)),
    await cpuUs(async () => {
      const found = await gatherPrompt(gather, request, set.snapshot())
      decide(profiles, { ...facts, ...found }, set.snapshot(), random)
    }),
  ]
}

const COLUMNS = ['tokens', 'pods', 'read ids once', 'find ids again', 'match', 'decide', 'whole decision']
process.stdout.write(`µs of CPU (Node ${process.version})\n${COLUMNS.map((name) => name.padStart(15)).join('')}\n`)
for (const promptTokens of [2_000, 32_000, 128_000]) {
  for (const pods of [3, 30, 300]) {
    const row = await measure(promptTokens, pods)
    const cells = [promptTokens, pods, ...row.map((value) => value.toFixed(1))]
    process.stdout.write(`${cells.map((cell) => String(cell).padStart(15)).join('')}\n`)
  }
}
