// What KV events cost from the wire on: decoded and applied, as vLLM writes them, and how soon after a frame was sent a
// score shows it. Rows of `node test/bench/kv.ts`.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { Subscriber } from 'zeromq'
import type { EndpointId } from '../../cluster/endpoints/endpoint.ts'
import { decodeEvents } from '../../cluster/kv/decode-events.ts'
import type { KvBatch } from '../../cluster/kv/kv-event.ts'
import { createKvIndex, type KvIndex } from '../../cluster/kv/kv-index.ts'
import { subscribe } from '../../cluster/kv/subscription.ts'
import { BLOCK_TOKENS, CHAIN_BLOCKS, cpuMs, hashesOf, MODEL, promptOf, quantile, SOURCES } from './kv-prompts.ts'
import { chainOf, nowSeconds, SENT_AT, type Steps } from './kv-steps.ts'
import { EventWriter } from './kv-writer.ts'

export type WireRow = { readonly what: string; readonly ours: string }

/** Stored and removed again and again, beside what the index holds all the time. */
export const CHAINS = 400
const ROUNDS = 7
/** One step's worth, all in one batch. */
const STEP_BLOCKS = 128
const VISIBLE_FRAMES = 2_000
/** Those before compile what they run, and fill the publisher's cache. */
const VISIBLE_FROM = 300
const VISIBLE_HELD = 200
const VISIBLE_SPACING_MS = 2
const POD = 'pod:8000' as EndpointId

/** Payloads, and the blocks in them. */
type Wire = { readonly payloads: readonly (readonly Buffer[])[]; readonly blocks: number }

function storedOnWire(perEvent: number): Wire {
  const payloads = Array.from({ length: CHAINS }, (_, chain) => {
    const tokens = promptOf(chain, CHAIN_BLOCKS)
    return batches(perEvent, (writer, from, to) => {
      const parent = from === 0 ? undefined : hashesOf(chain, from - 1, from)
      writer.stored(hashesOf(chain, from, to), parent, tokens.subarray(from * BLOCK_TOKENS, to * BLOCK_TOKENS))
    })
  })
  return { payloads, blocks: CHAINS * CHAIN_BLOCKS }
}

/** Last block first. */
function removedOnWire(perEvent: number): Wire {
  const payloads = Array.from({ length: CHAINS }, (_, chain) => {
    const hashes = hashesOf(chain, 0, CHAIN_BLOCKS)
    return batches(perEvent, (writer, from, to) => {
      writer.removed(hashes.subarray(2 * (CHAIN_BLOCKS - to), 2 * (CHAIN_BLOCKS - from)))
    })
  })
  return { payloads, blocks: CHAINS * CHAIN_BLOCKS }
}

function batches(perEvent: number, write: (writer: EventWriter, from: number, to: number) => void): Buffer[] {
  const payloads: Buffer[] = []
  for (let start = 0; start < CHAIN_BLOCKS; start += STEP_BLOCKS) {
    const end = Math.min(CHAIN_BLOCKS, start + STEP_BLOCKS)
    const writer = new EventWriter(Math.ceil((end - start) / perEvent))
    for (let from = start; from < end; from += perEvent) write(writer, from, Math.min(end, from + perEvent))
    payloads.push(writer.payload())
  }
  return payloads
}

/** Milliseconds of CPU time for decoding and applying. */
function ingest(index: KvIndex, { payloads }: Wire, open: ReturnType<typeof openSources>): number {
  const before = cpuMs()
  for (const [chain, ofChain] of payloads.entries()) {
    const source = open[chain % SOURCES]
    for (const payload of ofChain) {
      const decoded = decodeEvents(payload)
      if (!decoded.ok) throw new Error(decoded.message)
      source?.apply(decoded.batch)
    }
  }
  const ms = cpuMs() - before
  const { ignored, shedBlocks } = index.stats()
  const lost = shedBlocks + Object.values(ignored).reduce((sum, count) => sum + count, 0)
  if (lost > 0) throw new Error(`${lost} events or blocks were not applied`)
  return ms
}

function openSources(index: KvIndex) {
  return Array.from({ length: SOURCES }, (_, rank) =>
    index.open({ endpoint: `pod-${rank}:8000` as EndpointId, rank: 0, model: MODEL }),
  )
}

/** Applies what an index is to hold besides, in chains from number CHAINS on. */
export type Prefill = (apply: (chain: number, batch: KvBatch) => void) => void

/**
 * Each way of writing the same blocks, in turns: stored, and removed again. Over all rounds together: the clock of CPU time
 * counts in steps of 4 ms.
 */
export function fromWire(prefill: Prefill): WireRow[] {
  const sizes = [128, 8, 1]
  const stored = new Map(sizes.map((size) => [size, storedOnWire(size)]))
  const removed = new Map(sizes.map((size) => [size, removedOnWire(size)]))
  const sums = new Map<string, { ms: number; blocks: number }>()
  const index = createKvIndex()
  const open = openSources(index)
  prefill((chain, batch) => open[chain % SOURCES]?.apply(batch))
  const row = (what: string, size: number) =>
    `decoded from the wire and ${what}, ${size} ${size === 1 ? 'block' : 'blocks'} an event`
  for (let round = 0; round <= ROUNDS; round++) {
    for (const size of sizes) {
      for (const [what, wire] of [
        ['stored', stored.get(size)],
        ['removed', removed.get(size)],
      ] as const) {
        const { blocks } = wire as Wire
        const ms = ingest(index, wire as Wire, open)
        // The first round compiles.
        if (round === 0) continue
        const name = row(what, size)
        const sum = sums.get(name) ?? { ms: 0, blocks: 0 }
        sums.set(name, { ms: sum.ms + ms, blocks: sum.blocks + blocks })
      }
    }
  }
  return ['stored', 'removed'].flatMap((what) =>
    sizes.map((size) => {
      const name = row(what, size)
      const { ms, blocks } = sums.get(name) ?? { ms: Number.NaN, blocks: 0 }
      return { what: name, ours: `${(blocks / ms / 1000).toFixed(2)} M/s` }
    }),
  )
}

/**
 * From before a frame is handed to a PUB of another process until a score in this one has it, over loopback. Sockets and
 * their threads take most of it: what they take without us stands beside.
 */
export async function visible(prefill: Prefill): Promise<WireRow[]> {
  const row = (what: string, ms: number[]): WireRow => ({
    what,
    ours: `${quantile(ms, 0.5).toFixed(2)} ms (p99 ${quantile(ms, 0.99).toFixed(2)})`,
  })
  return [
    row(
      `a step stores and evicts ${STEP_BLOCKS} blocks: from before its PUB sends it until a score has it`,
      await published((...all) => scored(prefill, ...all)),
    ),
    row('… until a bare SUB has read its bytes', await published(received)),
  ]
}

type Listener = { readonly close: () => Promise<void> }
/** @param onFrame told of each, with its number and the seconds at which it was handed over. */
type Listen = (
  address: string,
  go: () => void,
  onFrame: (seq: number, sentAtSeconds: number) => void,
) => Promise<Listener>

/** Milliseconds from handed over to heard of, of each frame. */
async function published(listen: Listen): Promise<number[]> {
  const steps: Steps = {
    frames: VISIBLE_FRAMES,
    blocks: STEP_BLOCKS,
    spacingMs: VISIBLE_SPACING_MS,
    heldFrames: VISIBLE_HELD,
  }
  const publisher = fork(new URL('kv-publisher.ts', import.meta.url), [JSON.stringify(steps)])
  const [address] = (await once(publisher, 'message')) as [string]
  const ms: number[] = []
  let finish = () => {}
  const finished = new Promise<void>((resolve) => {
    finish = resolve
  })
  const go = () => void publisher.send('go')
  const listener = await listen(address, go, (seq, sentAtSeconds) => {
    ms.push((nowSeconds() - sentAtSeconds) * 1000)
    if (seq === VISIBLE_FRAMES - 1) finish()
  })
  await finished
  await listener.close()
  publisher.send('end')
  await once(publisher, 'exit')
  return ms.slice(VISIBLE_FROM)
}

async function scored(prefill: Prefill, ...[address, go, onFrame]: Parameters<Listen>): Promise<Listener> {
  const index = createKvIndex()
  const others = openSources(index)
  prefill((chain, batch) => others[chain % SOURCES]?.apply(batch))
  const source = index.open({ endpoint: POD, rank: 0, model: MODEL })
  const prompts = Array.from({ length: VISIBLE_FRAMES }, (_, frame) => promptOf(chainOf(frame), STEP_BLOCKS))
  return subscribe({
    events: address,
    replay: undefined,
    onBatch(batch, seq) {
      source.apply(batch)
      const tokenIds = prompts[seq] as Uint32Array
      const matches = index.match({ tokenIds, model: MODEL, lora: undefined, cacheSalt: undefined })
      if (matches.find(({ endpoint }) => endpoint === POD)?.matchedTokens !== STEP_BLOCKS * BLOCK_TOKENS)
        throw new Error(`frame ${seq} is in no score`)
      onFrame(seq, batch.atSeconds)
    },
    onClear() {},
    onState({ state }) {
      if (state === 'live') go()
    },
    onFault(message) {
      throw new Error(message)
    },
  })
}

const received: Listen = async (address, go, onFrame) => {
  const socket = new Subscriber()
  socket.events.on('handshake', go)
  socket.connect(address)
  socket.subscribe()
  const reading = (async () => {
    for await (const [, seq, payload] of socket) {
      onFrame((seq as Buffer).readUInt32BE(4), (payload as Buffer).readDoubleBE(SENT_AT))
    }
  })()
  return {
    async close() {
      socket.close()
      await reading
    },
  }
}
