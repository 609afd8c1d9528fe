// A simulated vLLM pod: the HTTP surface of vLLM 0.32's OpenAI server in front of the simulated engine.
import { createHash } from 'node:crypto'
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { createRandom } from '../../shared/random.ts'
import { listen } from '../listen.ts'
import { createDriver } from './driver.ts'
import { Engine } from './engine.ts'
import type { Faults } from './faults.ts'
import { type Generation, type GenerationDeps, reportFault } from './generation.ts'
import { type KvPublisher, startKvPublisher } from './kv-publisher.ts'
import { isSystemFirst } from './message-conversation.ts'
import { EngineMetrics } from './metrics.ts'
import { loadTokenizer } from './model-tokenizer.ts'
import { type Settings, type SimulatorOptions, settleOptions } from './options.ts'
import { createResponseStore } from './response-store.ts'
import { type Pod, route, VLLM_VERSION } from './routes.ts'
import type { Emission } from './sequence.ts'
import { GPUS } from './timing.ts'
import { createBuiltInTokenizer } from './tokenizer.ts'

export type { Faults } from './faults.ts'
export type { SimulatorOptions } from './options.ts'

export type SimulatorStats = {
  readonly running: number
  readonly waiting: number
  /** Engine steps since the start. */
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
  /** Where KV events are published, and sent again; undefined when they are off. */
  readonly kvEvents: { readonly port: number; readonly replayPort: number } | undefined
  readonly faults: {
    /** Replaces all faults; `{}` heals the pod. */
    readonly set: (faults: Faults) => void
  }
  readonly stats: () => SimulatorStats
  /** Aborts what is in flight and closes every connection. */
  readonly close: () => Promise<void>
}

/** uvicorn's; clients that keep a connection longer run into its end. */
const KEEP_ALIVE_MS = 5_000

/** Starts a pod. Rejects with a UserError when an option is wrong or the port is taken; `portFlag` chooses another. */
export async function startSimulator(options: SimulatorOptions = {}, portFlag = '--port'): Promise<Simulator> {
  const settings = settleOptions(options)
  const { host, models, blockSize, speed, seed, tls, tokenizerDir } = settings
  const tokenizer = tokenizerDir === undefined ? createBuiltInTokenizer() : loadTokenizer(tokenizerDir)
  const nowMs = () => performance.now()
  const startedAtMs = Date.now()
  const blocks = Math.floor(settings.kvCacheTokens / blockSize)
  const engine = new Engine({
    maxNumSeqs: settings.maxNumSeqs,
    maxNumBatchedTokens: settings.maxNumBatchedTokens,
    blocks,
    blockSizeTokens: blockSize,
    hashSeed: settings.hashSeed,
    kvEvents: settings.kvEventsPort !== 'off',
    timing: GPUS[settings.gpu].timing,
    speed,
  })
  const metrics = new EngineMetrics({
    model: models[0] as string,
    maxModelLen: settings.maxModelLen,
    blockSizeTokens: blockSize,
    blocks,
    createdAtMs: startedAtMs,
  })
  const listeners = new Map<string, (emission: Emission) => void>()
  const driver = createDriver(engine, {
    nowMs,
    onStep: (result) => {
      metrics.recordStep(result)
      if (result.blockEvents.length > 0) publisher?.publish(result.blockEvents, faults.loseKvEvents === true)
      for (const emission of result.emissions) listeners.get(emission.id)?.(emission)
    },
  })
  let faults: Faults = {}
  let publisher: KvPublisher | undefined
  const exchange: GenerationDeps = {
    engine,
    metrics,
    tokenizer,
    random: createRandom(seed),
    nowMs,
    wake: driver.wake,
    faults: () => faults,
    promptTokensDetails: settings.promptTokensDetails,
    systemFingerprint: fingerprintOf(settings),
    listeners,
  }
  const pod: Pod = {
    settings,
    limits: { models, maxModelLen: settings.maxModelLen, tokenizer, systemFirst: isSystemFirst(tokenizer) },
    exchange,
    responses: {
      generation: exchange,
      store: settings.responsesStore ? createResponseStore() : undefined,
      background: new Map<string, Generation>(),
    },
    kvEventSource: () => publisher?.source,
    faults: () => faults,
    startedAtMs,
  }
  const serverOptions = { keepAliveTimeout: KEEP_ALIVE_MS, keepAliveTimeoutBuffer: 0 }
  const onRequest = (req: IncomingMessage, res: ServerResponse) => route(pod, req, res)
  const server = tls
    ? createHttpsServer({ ...serverOptions, ...tls }, onRequest)
    : createHttpServer(serverOptions, onRequest)
  const port = await listen(server, host, settings.port, 'the simulated pod', portFlag)
  const authority = `${host.includes(':') ? `[${host}]` : host}:${port}`
  if (settings.kvEventsPort !== 'off') {
    // No step before there is somewhere to tell of it.
    driver.hang(true)
    try {
      publisher = await startKvPublisher({
        host: (server.address() as AddressInfo).address,
        port: settings.kvEventsPort,
        replayPort: settings.kvReplayPort,
        topic: `kv@${authority}@${models[0]}`,
        blockSizeTokens: blockSize,
        nowSeconds: () => Date.now() / 1000,
        onFault: reportFault,
      })
    } catch (error) {
      server.close()
      throw error
    }
    driver.hang(false)
  }

  return {
    url: `${tls ? 'https' : 'http'}://${authority}`,
    port,
    kvEvents: publisher && { port: publisher.port, replayPort: publisher.replayPort },
    faults: {
      set: (wanted) => {
        faults = wanted
        driver.hang(wanted.hang === true)
      },
    },
    stats: () => {
      const { running, waiting, steps, preemptions, usedBlocks, cachedBlocks } = engine.snapshot()
      return {
        running,
        waiting,
        steps,
        preemptions,
        finished: metrics.finishedWith('stop') + metrics.finishedWith('length'),
        aborted: metrics.finishedWith('abort'),
        failed: metrics.finishedWith('error'),
        kvCacheUsage: usedBlocks / blocks,
        cachedBlocks,
      }
    },
    close: async () => {
      driver.stop()
      for (const id of listeners.keys()) {
        const finished = engine.abort(id, nowMs())
        if (finished) metrics.recordFinished(finished)
      }
      listeners.clear()
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeAllConnections()
      await Promise.all([closed, publisher?.close()])
      publisher = undefined
    },
  }
}

/** vLLM's names its version and eight digits that pods of one configuration share. */
function fingerprintOf({ models, maxModelLen, blockSize, maxNumSeqs, maxNumBatchedTokens }: Settings): string {
  const config = JSON.stringify([models, maxModelLen, blockSize, maxNumSeqs, maxNumBatchedTokens])
  return `vllm-${VLLM_VERSION}-${createHash('sha256').update(config).digest('hex').slice(0, 8)}`
}
