// The claim of the KV index, held to real vLLM servers: the cached tokens that the router predicts are those that the engine
// then reports, in every request, whatever its kind, and whatever has happened to the engine or to its events.
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { DIALECTS } from '../../shared/dialect.ts'
import { createRandom } from '../../shared/random.ts'
import { freePort } from '../e2e/program.ts'
import { eventually } from '../eventually.ts'
import { randomTexts, startOwnTokenizer } from './own-tokenizer.ts'
import {
  ask,
  cachedWhenAsked,
  idsAt,
  json,
  misses,
  type Outcome,
  type Rig,
  settled,
  startRig,
} from './predictions/asking.ts'
import { adapterRows, ROWS, type Row } from './predictions/rows.ts'
import { makeTinyAdapter } from './tiny-adapter.ts'
import { type Family, makeTinyModel } from './tiny-model.ts'
import { BLOCK_SIZE_TOKENS, MODEL, startVllm, type Vllm } from './vllm.ts'

const ADAPTER = 'tuned'

async function startPair(options: Parameters<typeof startVllm>[0]): Promise<[Vllm, Vllm]> {
  // One after the other: they would only take each other's cores.
  const one = await startVllm(options)
  const two = await startVllm(options).catch(async (error: unknown) => {
    await one.stop()
    throw error
  })
  return [one, two]
}

const hostOf = ({ url }: Vllm): string => new URL(url).host

/** Sends them one after another, each once the events of the one before have come to all these routers. */
async function askAll(rigs: readonly Rig[], engines: readonly Vllm[], rows: readonly Row[]): Promise<Outcome[]> {
  const outcomes: Outcome[] = []
  for (const [at, row] of rows.entries()) {
    const outcome = await ask(rigs[at % rigs.length] as Rig, row)
    outcomes.push(outcome)
    const engine = engines.find((each) => hostOf(each) === outcome.endpoint) as Vllm
    const ids = await idsAt(engine.url, outcome)
    expect([row.name, ids.length]).toEqual([row.name, outcome.promptTokens])
    for (const { admin } of rigs) await settled(admin, outcome, ids)
  }
  return outcomes
}

const completion = (name: string, prompt: readonly number[]): Row => ({
  name,
  dialect: 'completions',
  request: { prompt },
})
const idsFrom = (first: number, blocks: number, more = 1) =>
  Array.from({ length: blocks * BLOCK_SIZE_TOKENS + more }, (_, at) => first + at)

describe.each<[Family]>([['qwen3'], ['llama3_1']])('predicted is what is reported: %s', (family) => {
  let engines: [Vllm, Vllm]
  let folder: string
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'warmpath-adapters-'))
    makeTinyAdapter(join(folder, ADAPTER), 7)
    const lora = ['--enable-lora', '--max-lora-rank', '8', '--lora-modules', `${ADAPTER}=${join(folder, ADAPTER)}`]
    engines = await startPair({
      family,
      maxModelLen: 16_384,
      flags: [...(family === 'qwen3' ? lora : []), '--enable-scale-out'],
    })
  })
  afterAll(async () => {
    await Promise.all(engines?.map((engine) => engine.stop()) ?? [])
    rmSync(folder, { recursive: true })
  })

  async function rigOf(over = {}, text = '') {
    const rig = await startRig({ endpoints: engines.map(({ url }) => url), ...over }, text)
    onTestFinished(() => rig.router.close({ drainNoticeMs: 0, drainMs: 0 }))
    return rig
  }

  it('in every one of two hundred requests, with the tokens that this router finds itself', async () => {
    const rig = await rigOf({ tokenizers: [await makeTinyModel(family)] })
    const rows = family === 'qwen3' ? [...ROWS, ...adapterRows(ADAPTER)] : ROWS
    expect(rows.length).toBeGreaterThanOrEqual(200)
    const outcomes = await askAll([rig], engines, rows)
    expect(misses(outcomes)).toEqual([])
    // A table of zeros would prove nothing.
    expect(outcomes.filter(({ actual }) => (actual ?? 0) > 0).length).toBeGreaterThan(rows.length / 2)
    const metrics = await (await fetch(`${rig.admin}/metrics`)).text()
    expect(metrics).toMatch(/warmpath_prompts_tokenized\{by="local"\} [1-9]\d\d/)
    expect(metrics).toContain('warmpath_prompts_tokenized{by="engine"} 0')
    expect(await json(`${rig.admin}/accuracy`)).toMatchObject({ total: { over: 0, under: 0, exact: rows.length } })
  }, 240_000)

  it('because the tokens that the router finds are those of the engine’s render and of /tokenize', async () => {
    const own = await startOwnTokenizer(await makeTinyModel(family))
    onTestFinished(() => own.close())
    const [{ url }] = engines
    for (const { name, dialect, request } of ROWS) {
      const asked = { model: MODEL, max_tokens: 2, ...request }
      const rendered = await json(`${url}${DIALECTS[dialect].path}/render`, asked)
      const [{ token_ids: ids }] = Array.isArray(rendered) ? rendered : [rendered]
      const found = await own.tokenize(dialect, request)
      expect([name, found.ok ? [...found.ids] : found.because]).toEqual([name, ids])
    }
    for (const prompt of randomTexts(300, createRandom(11))) {
      if (prompt === '') continue
      const { tokens } = await json(`${url}/tokenize`, { model: MODEL, prompt })
      const found = await own.tokenize('completions', { prompt })
      expect([prompt, found.ok && [...found.ids]]).toEqual([prompt, tokens])
    }
  }, 120_000)

  it('with the tokens that the engine finds, by two routers that watch the same pods, whoever asked', async () => {
    const [one, two] = [await rigOf(), await rigOf()]
    const rows = ROWS.filter((_, at) => at % 5 === 0).map(({ request, ...row }) => ({
      ...row,
      request: { ...request, cache_salt: 'two' },
    }))
    const outcomes = await askAll([one, two], engines, rows)
    expect(misses(outcomes)).toEqual([])
    expect(outcomes.some(({ actual }) => (actual ?? 0) > 0)).toBe(true)
  }, 120_000)
})

describe('what happens to an engine and to its events', () => {
  const BLOCKS = 64
  let engine: Vllm
  let httpPort: number
  beforeAll(async () => {
    httpPort = await freePort()
    engine = await startVllm({ port: httpPort, blocks: BLOCKS, maxModelLen: 1_024 })
  })
  afterAll(() => engine?.stop())

  async function rigOf(over = {}, text = '') {
    const rig = await startRig({ endpoints: [engine.url], ...over }, text)
    onTestFinished(() => rig.router.close({ drainNoticeMs: 0, drainMs: 0 }))
    return rig
  }

  it('evictions, while more is asked for than fits', async () => {
    const rig = await rigOf()
    const prompts = Array.from({ length: 6 }, (_, at) => idsFrom(10_000 * (at + 1), 16, 5 + at))
    // Some come back while they are still there, some when they are gone.
    const order = [0, 1, 0, 2, 0, 3, 0, 1, 4, 4, 5, 0, 2, 2, 3, 5, 5, 1, 0, 0, 4, 3, 3, 1, 5, 2, 4, 4, 0, 5]
    const rows = order.map((which, time) => completion(`prompt ${which}, time ${time}`, prompts[which] as number[]))
    const outcomes = await askAll([rig], [engine], rows)
    expect(misses(outcomes)).toEqual([])
    const hits = outcomes.slice(6).map(({ actual, promptTokens }) => (actual ?? 0) / cachedWhenAsked(promptTokens))
    expect(hits).toContain(1)
    expect(hits.some((hit) => hit < 1)).toBe(true)
  }, 60_000)

  it('a reset: what it announces late is predicted wrong once, and not again', async () => {
    const rig = await rigOf()
    const rows = [1, 2, 3].map((at) => completion(`before, ${at}`, idsFrom(700, 8, at)))
    expect(misses(await askAll([rig], [engine], rows))).toEqual([])
    expect((await fetch(`${engine.url}/reset_prefix_cache`, { method: 'POST' })).status).toBe(200)
    const [first, ...after] = await askAll([rig], [engine], rows)
    expect([first?.predicted, first?.actual]).toEqual([cachedWhenAsked(first?.promptTokens ?? 0), 0])
    expect(misses(after)).toEqual([])
    expect(after.at(-1)?.actual).toBe(8 * BLOCK_SIZE_TOKENS)
  }, 60_000)

  it('a subscriber that is cut off, misses what happens, and comes back', async () => {
    const relays = await Promise.all(
      [engine.eventsEndpoint, engine.replayEndpoint].map((address) => startRelay(address)),
    )
    const [events, replay] = relays.map(({ port }) => `tcp://127.0.0.1:${port}`)
    const rig = await rigOf(
      { endpoints: [] },
      `endpoints: [{ url: "${engine.url}", events: "${events}", replay: "${replay}" }]`,
    )
    const rows = [1, 2].map((at) => completion(`relayed, ${at}`, idsFrom(2_700, 8, at)))
    expect(misses(await askAll([rig], [engine], rows))).toEqual([])
    for (const relay of relays) relay.cut()
    const meanwhile = idsFrom(3_700, 8)
    await json(`${engine.url}/v1/completions`, { model: MODEL, prompt: meanwhile, max_tokens: 1 })
    for (const relay of relays) relay.mend()
    await eventually(
      () => json(`${rig.admin}/score`, { model: MODEL, token_ids: meanwhile }),
      ({ scores }) => scores[0].matchedTokens === 8 * BLOCK_SIZE_TOKENS && !scores[0].stale,
    )
    expect(misses(await askAll([rig], [engine], [completion('what was missed', meanwhile), ...rows]))).toEqual([])
  }, 60_000)

  it('a kill, and another engine at the same address', async () => {
    const rig = await rigOf()
    const rows = [1, 2].map((at) => completion(`killed, ${at}`, idsFrom(4_700, 8, at)))
    expect(misses(await askAll([rig], [engine], rows))).toEqual([])
    await engine.kill()
    await eventually(
      () => json(`${rig.admin}/score`, { model: MODEL, token_ids: idsFrom(4_700, 8) }),
      ({ scores }) => (scores ?? []).every(({ matchedTokens }: { matchedTokens: number }) => matchedTokens === 0),
    )
    engine = await startVllm({ port: httpPort, blocks: BLOCKS, maxModelLen: 1_024 })
    await eventually(
      () => json(`${rig.admin}/endpoints`),
      ([{ availability, cache }]) =>
        availability.state === 'available' && cache[0]?.state === 'live' && cache[0].complete,
    )
    const outcomes = await askAll([rig], [engine], [...rows, ...rows])
    expect(misses(outcomes)).toEqual([])
    expect(outcomes.at(-1)?.actual).toBe(8 * BLOCK_SIZE_TOKENS)
  }, 120_000)
})

/** A TCP relay before a publisher, that can be cut. */
async function startRelay(address: string) {
  const to = Number(new URL(address.replace('tcp:', 'http:')).port)
  const sockets = new Set<Socket>()
  const keep = (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => socket.destroy()).on('close', () => sockets.delete(socket))
  }
  let isCut = false
  const server: Server = createServer((inward) => {
    if (isCut) return void inward.destroy()
    const outward = connect(to, '127.0.0.1')
    for (const socket of [inward, outward]) keep(socket)
    inward.pipe(outward).pipe(inward)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return {
    port: (server.address() as AddressInfo).port,
    cut() {
      isCut = true
      for (const socket of sockets) socket.destroy()
    },
    mend() {
      isCut = false
    },
  }
}
