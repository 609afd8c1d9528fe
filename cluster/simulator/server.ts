// A simulated vLLM pod: the HTTP surface of vLLM 0.32's OpenAI server in front of the simulated engine.
import { createHash } from 'node:crypto'
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { createRandom } from '../../shared/random.ts'
import { listen } from '../listen.ts'
import { createAdapters } from './adapters.ts'
import { createAdmission } from './admission.ts'
import type { EngineConfig, EngineSnapshot } from './engine.ts'
import type { LivingFaults } from './faults.ts'
import { type Generation, type GenerationDeps, reportFault } from './generation.ts'
import { startKvPublisher } from './kv-publisher.ts'
import { createLoraUses } from './lora-uses.ts'
import { isSystemFirst } from './message-conversation.ts'
import { ToolParserCalls } from './metrics.ts'
import { metricsPage } from './metrics-page.ts'
import { loadTokenizer } from './model-tokenizer.ts'
import { type Settings, type SimulatorOptions, settleOptions } from './options.ts'
import { createRank, leastLoaded, type Rank } from './rank.ts'
import { createResponseStore } from './response-store.ts'
import { type Pod, route, VLLM_VERSION } from './routes.ts'
import { createSleep } from './sleep.ts'
import { requestDurationMs } from './timing.ts'
import { createBuiltInTokenizer } from './tokenizer.ts'

export type { LivingFaults } from './faults.ts'
export type { SimulatorOptions } from './options.ts'

export type SimulatorStats = {
  readonly running: number
  readonly waiting: number
  /** Of all ranks together, and so is what follows. */
  readonly steps: number
  readonly preemptions: number
  /** Sequences that ended, by how. */
  readonly finished: number
  readonly aborted: number
  readonly failed: number
  /** 0 to 1: the share of KV blocks that running sequences hold. */
  readonly kvCacheUsage: number
  /** KV blocks that the prefix cache can find, held or not. */
  readonly cachedBlocks: number
}

export type Simulator = {
  readonly url: string
  readonly port: number
  /** Where the first rank's KV events are published, and sent again; undefined when they are off. */
  readonly kvEvents: { readonly port: number; readonly replayPort: number } | undefined
  readonly faults: {
    /** Replaces all faults; `{}` heals the pod. */
    readonly set: (faults: LivingFaults) => void
  }
  readonly stats: () => SimulatorStats
  /**
   * What SIGTERM does to a vLLM: for so long it finishes what is in flight and ends at once what comes; then it is gone but
   * for the connections of answers that did not end, which stay open and silent. Resolves when their clients have left.
   */
  readonly terminate: (drainMs: number) => Promise<void>
  /** Aborts what is in flight and closes every connection. */
  readonly close: () => Promise<void>
}

const DRAIN_LOOK_MS = 20
/** uvicorn's; clients that keep a connection longer run into its end. */
const KEEP_ALIVE_MS = 5_000

/** Starts a pod. Rejects with a UserError when an option is wrong or the port is taken; `portFlag` chooses another. */
export async function startSimulator(options: SimulatorOptions = {}, portFlag = '--port'): Promise<Simulator> {
  const settings = settleOptions(options)
  const { host, models, blockSize, seed, tls, tokenizerDir, maxModelLen } = settings
  const tokenizer = tokenizerDir === undefined ? createBuiltInTokenizer() : loadTokenizer(tokenizerDir)
  const nowMs = () => performance.now()
  const startedAtMs = Date.now()
  const blocks = Math.floor(settings.kvCacheTokens / blockSize)
  let faults: LivingFaults = {}
  let stalePage: string | undefined
  const chance = createRandom(seed)
  const loraUses = createLoraUses(settings.maxLoras, () => Date.now() / 1000)
  const ranks = Array.from({ length: settings.dataParallelSize }, (_, index) =>
    createRank(index, engineConfigOf(settings, blocks), maxModelLen, {
      nowMs,
      onStep: loraUses.see,
      fateOfEvents: () => {
        // Both shares are of all batches.
        const { dropEventsShare: drop = 0, corruptEventsShare: corrupt = 0 } = faults
        if (drop === 0 && corrupt === 0) return 'sent'
        const at = chance()
        return at < drop ? 'lost' : at < drop + corrupt ? 'corrupt' : 'sent'
      },
    }),
  )
  const sleep = createSleep(ranks)
  const adapters = createAdapters({ models, enabled: settings.maxLoras > 0 }, settings.loraModules)
  const admission = createAdmission(settings, ranks)
  const parserCalls = new ToolParserCalls()
  let isDraining = false
  let placed = 0
  const exchange: GenerationDeps = {
    place: (rank) => ranks[rank ?? -1] ?? leastLoaded(ranks, placed++),
    parserCalls,
    tokenizer,
    random: createRandom(seed),
    nowMs,
    delayMs: (promptTokens) => requestDurationMs(settings.preset.timing.request, promptTokens, settings.speed),
    faults: () => faults,
    isDraining: () => isDraining,
    promptTokensDetails: settings.promptTokensDetails,
    streamInterval: settings.streamInterval,
    systemFingerprint: fingerprintOf(settings),
  }
  const page = { model: models[0] as string, maxModelLen, blockSizeTokens: blockSize, blocks, createdAtMs: startedAtMs }
  const pod: Pod = {
    settings,
    limits: { models, adapter: adapters.of, maxModelLen, tokenizer, systemFirst: isSystemFirst(tokenizer) },
    exchange,
    responses: {
      generation: exchange,
      store: settings.responsesStore ? createResponseStore() : undefined,
      background: new Map<string, Generation>(),
    },
    ranks,
    adapters,
    admission,
    sleep,
    metricsPage: (withEngine) => {
      const snapshots = ranks.map(({ metrics, told }) => ({ metrics, snapshot: told() }))
      const lora = loraUses.list()
      return metricsPage(
        { config: page, ranks: snapshots, sleepState: sleep.state(), parserCalls, refused: admission.refused, lora },
        withEngine,
      )
    },
    stalePage: () => stalePage,
    serverLoad: () => serverLoad,
    faults: () => faults,
    startedAtMs,
  }
  let serverLoad = 0
  const serverOptions = { keepAliveTimeout: KEEP_ALIVE_MS, keepAliveTimeoutBuffer: 0 }
  const onRequest = (req: IncomingMessage, res: ServerResponse) => {
    if (settings.trackServerLoad && req.method === 'POST') {
      serverLoad++
      res.once('close', () => serverLoad--)
    }
    route(pod, req, res)
  }
  const server = tls
    ? createHttpsServer({ ...serverOptions, ...tls }, onRequest)
    : createHttpServer(serverOptions, onRequest)
  server.on('connection', (socket) => {
    if (faults.resetConnections) socket.resetAndDestroy()
  })
  const port = await listen(server, host, settings.port, 'the simulated pod', portFlag)
  const authority = `${host.includes(':') ? `[${host}]` : host}:${port}`
  const close = async () => {
    for (const { driver } of ranks) driver.stop()
    for (const rank of ranks) rank.drop()
    const closed = new Promise((resolve) => server.close(resolve))
    server.closeAllConnections()
    await Promise.all([closed, ...ranks.map(({ publisher }) => publisher()?.close())])
  }
  if (settings.kvEventsPort !== 'off') {
    // No step before there is somewhere to tell of it.
    for (const { driver } of ranks) driver.hang(true)
    try {
      const { address } = server.address() as AddressInfo
      await publishFrom(ranks, settings, address, `kv@${authority}@${models[0]}`, () => !faults.noReplay)
    } catch (error) {
      await close()
      throw error
    }
    for (const { driver } of ranks) driver.hang(false)
  }
  const [first] = ranks as [Rank]
  const kvEvents = first.publisher()

  return {
    url: `${tls ? 'https' : 'http'}://${authority}`,
    port,
    kvEvents: kvEvents && { port: kvEvents.port, replayPort: kvEvents.replayPort },
    faults: {
      set: (wanted) => {
        faults = wanted
        if (!wanted.staleMetrics) stalePage = undefined
        else stalePage ??= pod.metricsPage(!wanted.noMetrics)
        for (const { driver } of ranks) {
          driver.stretch(wanted.slowFactor ?? 1)
          driver.hang(wanted.hang === true)
        }
      },
    },
    stats: () => statsOf(ranks),
    terminate: async (drainMs) => {
      isDraining = true
      const isIdle = () => statsOf(ranks).running + statsOf(ranks).waiting === 0
      for (let waitedMs = 0; waitedMs < drainMs && !isIdle(); waitedMs += DRAIN_LOOK_MS) await delay(DRAIN_LOOK_MS)
      for (const { driver } of ranks) driver.stop()
      await Promise.all([
        new Promise((resolve) => {
          server.close(resolve)
          server.closeIdleConnections()
        }),
        ...ranks.map(({ publisher }) => publisher()?.close()),
      ])
    },
    close,
  }
}

function engineConfigOf(settings: Settings, blocks: number): EngineConfig {
  return {
    maxNumSeqs: settings.maxNumSeqs,
    maxNumBatchedTokens: settings.maxNumBatchedTokens,
    policy: settings.schedulingPolicy,
    maxLoras: settings.maxLoras,
    offload: settings.offload,
    blocks,
    blockSizeTokens: settings.blockSize,
    hashSeed: settings.hashSeed,
    kvEvents: settings.kvEventsPort !== 'off',
    timing: settings.preset.timing.step,
    speed: settings.speed,
  }
}

/** As vLLM does, each rank's ports are the first one's and its number more. */
async function publishFrom(
  ranks: readonly Rank[],
  settings: Settings,
  host: string,
  topic: string,
  answersReplays: () => boolean,
): Promise<void> {
  for (const rank of ranks) {
    const portOf = (first: number) => (first === 0 ? 0 : first + rank.index)
    rank.publishTo(
      await startKvPublisher({
        host,
        port: portOf(settings.kvEventsPort as number),
        replayPort: portOf(settings.kvReplayPort),
        topic,
        batches: {
          blockSizeTokens: settings.blockSize,
          rank: rank.index,
          form: settings.kvEventForm,
          hashes: settings.kvEventHashes,
        },
        nowSeconds: () => Date.now() / 1000,
        onFault: reportFault,
        answersReplays,
      }),
    )
  }
}

function statsOf(ranks: readonly Rank[]): SimulatorStats {
  const sum = (of: (rank: Rank) => number) => ranks.reduce((total, rank) => total + of(rank), 0)
  const snapshots = new Map(ranks.map((rank) => [rank, rank.engine.snapshot()]))
  const seen = (of: (snapshot: EngineSnapshot) => number) => sum((rank) => of(snapshots.get(rank) as EngineSnapshot))
  return {
    running: seen(({ running }) => running),
    waiting: seen(({ waiting }) => waiting),
    steps: seen(({ steps }) => steps),
    preemptions: seen(({ preemptions }) => preemptions),
    finished: sum(({ metrics }) => metrics.finishedWith('stop') + metrics.finishedWith('length')),
    aborted: sum(({ metrics }) => metrics.left + metrics.finishedWith('abort')),
    failed: sum(({ metrics }) => metrics.finishedWith('error')),
    kvCacheUsage: seen(({ usedBlocks }) => usedBlocks) / seen(({ blocks }) => blocks),
    cachedBlocks: seen(({ cachedBlocks }) => cachedBlocks),
  }
}

/** vLLM's names its version and eight digits that pods of one configuration share. */
function fingerprintOf({ models, maxModelLen, blockSize, maxNumSeqs, maxNumBatchedTokens }: Settings): string {
  const config = JSON.stringify([models, maxModelLen, blockSize, maxNumSeqs, maxNumBatchedTokens])
  return `vllm-${VLLM_VERSION}-${createHash('sha256').update(config).digest('hex').slice(0, 8)}`
}
