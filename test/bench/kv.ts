// The KV index alone, in this process: look-ups, whole prompts, memory, ingestion, clearing. An index made of Maps stands
// beside it in the same run. `node test/bench/kv.ts [blocks in millions]`, 1 when not given.
import { readFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { EndpointId } from '../../cluster/endpoints/endpoint.ts'
import { hashBlocks, seedOf } from '../../cluster/kv/block-hash.ts'
import { decodeEvents } from '../../cluster/kv/decode-events.ts'
import type { BlocksRemoved, BlocksStored, KvBatch, KvEvent } from '../../cluster/kv/kv-event.ts'
import { createKvIndex, type KvSource } from '../../cluster/kv/kv-index.ts'
import { BLOCK_TOKENS, CHAIN_BLOCKS, cpuMs, hashesOf, MODEL, mixed, promptOf, quantile, SOURCES } from './kv-prompts.ts'
import { CHAINS, fromWire, type Prefill, visible } from './kv-wire.ts'

setFlagsFromString('--expose-gc')
const collectGarbage: () => void = runInNewContext('gc')

const FIXTURES = new URL('../fixtures/vllm/', import.meta.url)
/** A step of 2048 tokens, vLLM's usual one, stores as many and evicts as many, all in one batch. */
const STEP_BLOCKS = 128
const ROUNDS = 300

type Row = { readonly what: string; readonly ours: string; readonly maps?: string }

/** What both indexes can do. */
type Side = {
  readonly apply: (source: number, batch: KvBatch) => void
  /** Of memory outside the heap, if that is where it lies. */
  readonly bytes?: () => number
  /** Blocks of the best source. */
  readonly match: (tokenIds: Uint32Array) => number
}

function ours(sources: number): Side & { readonly open: readonly KvSource[] } {
  const index = createKvIndex()
  const open = Array.from({ length: sources }, (_, rank) =>
    index.open({ endpoint: `pod-${rank}:8000` as EndpointId, rank: 0, model: MODEL }),
  )
  return {
    open,
    apply: (source, batch) => open[source]?.apply(batch),
    match(tokenIds) {
      const matches = index.match({ tokenIds, model: MODEL, lora: undefined, cacheSalt: undefined })
      let best = 0
      for (const { matchedTokens } of matches) if (matchedTokens > best) best = matchedTokens
      return best / BLOCK_TOKENS
    },
    bytes: () => index.stats().bytes,
  }
}

/** As fast as Maps go: numbers for keys (53 bits of a hash), one word of bits for the holders, at most 32 of them. */
function maps(sources: number): Side {
  const seed = seedOf({ model: MODEL, lora: undefined, cacheSalt: undefined })
  const holders = new Map<number, number>()
  const ownOf = Array.from({ length: sources }, () => new Map<number, { hi: number; lo: number; times: number }>())
  function store(source: number, { hashes, parent, tokenIds }: BlocksStored): void {
    const held = ownOf[source]
    const after = parent ? held?.get(keyOf(parent.hi, parent.lo)) : seed
    if (!held || !after) return
    const own = hashBlocks(after as typeof seed, tokenIds, BLOCK_TOKENS)
    for (let at = 0; at < hashes.length; at += 2) {
      const key = keyOf(hashes[at] as number, hashes[at + 1] as number)
      const known = held.get(key)
      if (known) {
        known.times++
        continue
      }
      const hi = own[at] as number
      const lo = own[at + 1] as number
      held.set(key, { hi, lo, times: 1 })
      holders.set(keyOf(hi, lo), (holders.get(keyOf(hi, lo)) ?? 0) | (1 << source))
    }
  }

  function remove(source: number, { hashes }: BlocksRemoved): void {
    const held = ownOf[source]
    for (let at = 0; at < hashes.length; at += 2) {
      const key = keyOf(hashes[at] as number, hashes[at + 1] as number)
      const known = held?.get(key)
      if (!known) continue
      known.times--
      if (known.times > 0) continue
      held?.delete(key)
      const left = (holders.get(keyOf(known.hi, known.lo)) ?? 0) & ~(1 << source)
      if (left === 0) holders.delete(keyOf(known.hi, known.lo))
      else holders.set(keyOf(known.hi, known.lo), left)
    }
  }

  return {
    apply(source, { events }) {
      for (const event of events) {
        if (event.type === 'stored') store(source, event)
        else if (event.type === 'removed') remove(source, event)
      }
    },
    match(tokenIds) {
      const own = hashBlocks(seed, tokenIds.subarray(0, tokenIds.length - 1), BLOCK_TOKENS)
      let alive = -1
      for (let at = 0; at < own.length; at += 2) {
        alive &= holders.get(keyOf(own[at] as number, own[at + 1] as number)) ?? 0
        if (alive === 0) return at / 2
      }
      return own.length / 2
    },
  }
}

function keyOf(hi: number, lo: number): number {
  return (hi & 0x1fffff) * 2 ** 32 + lo
}

function eventsOf(chain: number, blocks: number, perEvent: number): BlocksStored[] {
  const tokens = promptOf(chain, blocks)
  const events: BlocksStored[] = []
  for (let from = 0; from < blocks; from += perEvent) {
    const to = Math.min(blocks, from + perEvent)
    const [hi = 0, lo = 0] = from === 0 ? [] : hashesOf(chain, from - 1, from)
    events.push({
      type: 'stored',
      hashes: hashesOf(chain, from, to),
      parent: from === 0 ? undefined : { hi, lo },
      tokenIds: tokens.subarray(from * BLOCK_TOKENS, to * BLOCK_TOKENS),
      blockSizeTokens: BLOCK_TOKENS,
      medium: 'GPU',
      loraName: undefined,
      extraKeys: undefined,
      group: 0,
      specKind: 'full_attention',
    })
  }
  return events
}

/** Last blocks first, as vLLM evicts, and those of a batch in one event, as the decoder joins them. */
function evictionsOf(chain: number): KvBatch[] {
  const hashes = hashesOf(chain, 0, CHAIN_BLOCKS)
  const batches: KvBatch[] = []
  for (let to = CHAIN_BLOCKS; to > 0; to -= STEP_BLOCKS) {
    const from = Math.max(0, to - STEP_BLOCKS)
    batches.push(batchOf([{ type: 'removed', hashes: hashes.slice(2 * from, 2 * to), medium: 'GPU', group: 0 }]))
  }
  return batches
}

function batchOf(events: readonly KvEvent[]): KvBatch {
  return { atSeconds: 0, rank: 0, events, unknownEvents: 0 }
}

/** Fills a side with chains, each in one source, and takes some away; both timed. */
function fill(side: Side, chains: number, perEvent: number): { storedPerS: number; slowestMs: number } {
  let ms = 0
  let slowestMs = 0
  for (let chain = 0; chain < chains; chain++) {
    const batches = eventsOf(chain, CHAIN_BLOCKS, perEvent).map((event) => batchOf([event]))
    const beforeMs = cpuMs()
    for (const batch of batches) {
      const before = performance.now()
      side.apply(chain % SOURCES, batch)
      const took = performance.now() - before
      if (took > slowestMs) slowestMs = took
    }
    ms += cpuMs() - beforeMs
  }
  return { storedPerS: (chains * CHAIN_BLOCKS * 1000) / ms, slowestMs }
}

function removedPerS(side: Side, from: number, to: number): number {
  let ms = 0
  for (let chain = from; chain < to; chain++) {
    const batches = evictionsOf(chain)
    const before = cpuMs()
    for (const batch of batches) side.apply(chain % SOURCES, batch)
    ms += cpuMs() - before
  }
  return ((to - from) * CHAIN_BLOCKS * 1000) / ms
}

/** Microseconds for one known prompt, each time another one, so that nothing of it is in the processor's caches. */
function promptUs(side: Side, chains: number): { p50: number; p99: number } {
  const us: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const tokens = promptOf(mixed(round) % chains, CHAIN_BLOCKS)
    const before = performance.now()
    const blocks = side.match(tokens)
    us.push((performance.now() - before) * 1000)
    if (blocks !== CHAIN_BLOCKS) throw new Error(`${blocks} blocks found instead of ${CHAIN_BLOCKS}`)
  }
  return { p50: quantile(us, 0.5), p99: quantile(us, 0.99) }
}

function hashing(): Row {
  const seed = seedOf({ model: MODEL, lora: undefined, cacheSalt: undefined })
  const tokens = promptOf(1, CHAIN_BLOCKS)
  const into = new Uint32Array(2 * CHAIN_BLOCKS)
  const ns: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const before = performance.now()
    for (let again = 0; again < 10; again++) hashBlocks(seed, tokens, BLOCK_TOKENS, into)
    ns.push(((performance.now() - before) * 1e6) / (10 * CHAIN_BLOCKS))
  }
  return { what: 'hash a block of 16 tokens', ours: `${quantile(ns, 0.5).toFixed(1)} ns` }
}

type Measured = {
  readonly prompt: { readonly p50: number; readonly p99: number }
  readonly prefillPerS: number
  readonly decodePerS: number
  readonly removedPerS: number
  readonly slowestMs: number
  readonly bytesPerBlock: number
}

/** One side after the other, so that one's garbage is not collected in the other's time. */
function measure(make: () => Side, chains: number): Measured {
  // What was compiled for small numbers is compiled once more for large ones.
  const warmUp = make()
  fill(warmUp, 300, STEP_BLOCKS)
  removedPerS(warmUp, 0, 300)
  fill(warmUp, 300, 1)
  collectGarbage()
  const before = process.memoryUsage().heapUsed
  const side = make()
  const { storedPerS: prefillPerS, slowestMs } = fill(side, chains, STEP_BLOCKS)
  collectGarbage()
  const bytes = side.bytes?.() ?? process.memoryUsage().heapUsed - before
  promptUs(side, chains)
  const prompt = promptUs(side, chains)
  const some = Math.min(chains, 400)
  const removed = removedPerS(side, 0, some)
  const { storedPerS: decodePerS } = fill(side, some, 1)
  return {
    prompt,
    prefillPerS,
    decodePerS,
    removedPerS: removed,
    slowestMs,
    bytesPerBlock: bytes / (chains * CHAIN_BLOCKS),
  }
}

function filled(millions: number): Row[] {
  const chains = Math.round((millions * 1e6) / CHAIN_BLOCKS)
  const our = measure(() => ours(SOURCES), chains)
  // Map throws above 2^24 entries, and far below that it takes gigabytes.
  const their = millions <= 2 ? measure(() => maps(SOURCES), chains) : undefined
  const row = (what: string, show: (measured: Measured) => string): Row => ({
    what: `${millions} M blocks, ${SOURCES} sources: ${what}`,
    ours: show(our),
    ...(their === undefined ? {} : { maps: show(their) }),
  })
  const perS = (perSecond: number) => `${(perSecond / 1e6).toFixed(2)} M/s`
  return [
    row(
      '12k-token prompt, hashed and matched',
      ({ prompt }) => `${prompt.p50.toFixed(0)} µs (p99 ${prompt.p99.toFixed(0)})`,
    ),
    row('… as block look-ups', ({ prompt }) => perS((CHAIN_BLOCKS * 1e6) / prompt.p50)),
    row('stored, 128 blocks an event', ({ prefillPerS }) => perS(prefillPerS)),
    row('… longest event, by the clock', ({ slowestMs }) => `${slowestMs.toFixed(2)} ms`),
    row('stored, 1 block an event', ({ decodePerS }) => perS(decodePerS)),
    row('removed, 128 blocks a batch', (measured) => perS(measured.removedPerS)),
    row('memory of a block', ({ bytesPerBlock }) => `${bytesPerBlock.toFixed(0)} B`),
  ]
}

/** A step of a chunked prefill as a real vLLM published it: 64 blocks of 32 tokens. */
function fromTheWire(): Row {
  const lines = readFileSync(new URL('kv-events.sha256_cbor.int.jsonl', FIXTURES), 'utf8').trimEnd().split('\n')
  const { frames_hex: frames } = JSON.parse(lines[11] ?? '') as { frames_hex: string[] }
  const payload = Buffer.from(frames[2] ?? '', 'hex')
  const side = ours(1)
  const ROUNDS_HERE = 5000
  const STEP = 64
  let ms = 0
  for (let round = 0; round < ROUNDS_HERE; round++) {
    const before = cpuMs()
    const decoded = decodeEvents(payload)
    if (!decoded.ok) throw new Error(decoded.message)
    side.apply(0, decoded.batch)
    ms += cpuMs() - before
    side.apply(0, batchOf([{ type: 'cleared' }]))
  }
  const perS = (ROUNDS_HERE * STEP * 1000) / ms
  return {
    what: 'decoded from the wire and stored, 64 blocks of 32 tokens an event',
    ours: `${(perS / 1e6).toFixed(2)} M/s`,
  }
}

/** A conversation that all know at first, and each source to another depth. */
function manySources(blocks: number, sources: number): Row {
  const side = ours(sources)
  for (let source = 0; source < sources; source++) {
    const depth = Math.max(1, Math.round((blocks * (source + 1)) / sources))
    for (const event of eventsOf(5, depth, 128)) side.apply(source, batchOf([event]))
  }
  const tokens = promptOf(5, blocks)
  const us: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const before = performance.now()
    side.match(tokens)
    us.push((performance.now() - before) * 1000)
  }
  const length = `${Math.round((blocks * BLOCK_TOKENS) / 1000)}k-token prompt`
  const p50 = quantile(us, 0.5)
  return {
    what: `${length}, ${sources} sources, each to another depth`,
    ours: `${p50.toFixed(0)} µs (p99 ${quantile(us, 0.99).toFixed(0)})`,
  }
}

function clearing(): Row[] {
  const side = ours(SOURCES)
  for (let source = 0; source < SOURCES; source++) {
    for (let chain = 0; chain < 40; chain++) {
      for (const event of eventsOf(source * 1000 + chain, CHAIN_BLOCKS, 128)) side.apply(source, batchOf([event]))
    }
  }
  const clearMs: number[] = []
  const sweepMs: number[] = []
  for (const source of side.open) {
    const before = performance.now()
    source.clear()
    clearMs.push(performance.now() - before)
    for (let part = 0; part < 100; part++) {
      const start = performance.now()
      source.apply({ atSeconds: 0, rank: 0, events: [], unknownEvents: 0 })
      sweepMs.push(performance.now() - start)
    }
  }
  return [
    { what: 'clear a source of 30k blocks, longest', ours: `${quantile(clearMs, 1).toFixed(3)} ms` },
    { what: '… and a part of the sweep after it, longest', ours: `${quantile(sweepMs, 1).toFixed(3)} ms` },
  ]
}

const millions = Number(process.argv[2] ?? 1)
const prefill: Prefill = (apply) => {
  for (let chain = CHAINS; chain < CHAINS + (millions * 1e6) / CHAIN_BLOCKS; chain++) {
    for (const event of eventsOf(chain, CHAIN_BLOCKS, STEP_BLOCKS)) apply(chain, batchOf([event]))
  }
}
const rows: Row[] = []
rows.push(hashing(), ...filled(millions), fromTheWire(), ...fromWire(prefill), ...(await visible(prefill)))
for (const blocks of [CHAIN_BLOCKS, 8000]) {
  for (const sources of [3, 30, 256, 1000]) rows.push(manySources(blocks, sources))
}
rows.push(...clearing())
const width = Math.max(...rows.map(({ what }) => what.length))
for (const { what, ours: mine, maps: other } of rows) {
  process.stdout.write(`${what.padEnd(width)}  ${mine.padEnd(22)}${other === undefined ? '' : `  Maps: ${other}`}\n`)
}
