// Events of pods that dial this process: one socket for all of them. Who a pod is stands in its topic, `kv@<host:port>@<model>`,
// because nothing else in a message tells it.
import { Context, Subscriber } from 'zeromq'
import { systemClock } from '../../shared/clock.ts'
import type { EndpointId } from '../endpoints/endpoint.ts'
import { UserError } from '../user-error.ts'
import { decodeEvents } from './decode-events.ts'
import type { EventFeed } from './event-feed.ts'
import type { KvBatch } from './kv-event.ts'
import type { KvIndex, KvSource } from './kv-index.ts'
import { createLoopShare } from './loop-share.ts'
import { restoreInto, type SourceSnapshot } from './snapshot.ts'
import { KvStream, type StreamPosition, type StreamState } from './stream.ts'
import { readSeq } from './subscription.ts'

/** Ranks of pods that may dial. */
const PUBLISHERS_MAX = 4_096
const FRAME_BYTES_MAX = 16 * 1024 * 1024
const QUEUE_BATCHES_MAX = 10_000
const TOPIC_BYTES_MAX = 1_024
const FAULT_TOLD_INTERVAL_MS = 60_000
const SWEEP_INTERVAL_MS = 1_000

/** The flag that gives a pod's events their topic, for messages. */
export const TOPIC_FLAG =
  '--kv-events-config \'{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"tcp://<this host>:<port>","topic":"kv@$(POD_IP):8000@<model>"}\''

export type BoundEvent =
  | { readonly type: 'kv-bound-source'; readonly endpoint: EndpointId; readonly rank: number; readonly model: string }
  | { readonly type: 'kv-bound-silent'; readonly endpoint: EndpointId; readonly rank: number; readonly seconds: number }
  /** `count` of the kind so far. */
  | { readonly type: 'kv-bound-fault'; readonly message: string; readonly count: number }

export type BoundPublishersOptions = {
  /** Like `tcp://*:5555`. */
  readonly address: string
  readonly index: KvIndex
  readonly feed: EventFeed
  /** A pod that said nothing for so long is forgotten, unless `lives` knows better. */
  readonly silentMs: number
  readonly lives: (endpoint: EndpointId) => boolean
  /** What another replica knew of pods that dial. */
  readonly restored?: readonly SourceSnapshot[]
  /** Whether this endpoint's events are read from its own socket: those count. */
  readonly dialled: (endpoint: EndpointId) => boolean
  readonly nowMs: () => number
  readonly onEvent: (event: BoundEvent) => void
}

export type BoundPublishers = {
  /** Where it is bound: a wildcard port has become a number. */
  readonly address: string
  /** Pods that have dialled, and their base models. */
  readonly endpoints: () => readonly {
    readonly endpoint: EndpointId
    readonly rank: number
    readonly state: StreamState
  }[]
  readonly faults: () => Readonly<Record<BoundFault, number>>
  readonly dumps: () => readonly (() => SourceSnapshot | undefined)[]
  readonly close: () => Promise<void>
}

/** Why a message was dropped. */
export type BoundFault = 'topic' | 'frames' | 'unreadable' | 'too-many'

type Publisher = Identity & {
  readonly rank: number
  readonly table: KvSource
  readonly stream: KvStream
  heardAtMs: number
  position: StreamPosition | undefined
}

// One event loop: its share is for all sockets of the process.
const loopShare = createLoopShare(systemClock.monotonicMs)

/** Binds the address. Rejects with a UserError that names the flag when that cannot be done. */
export async function bindPublishers(options: BoundPublishersOptions, flag = '--zmq-bind'): Promise<BoundPublishers> {
  const { address, index, feed, nowMs, onEvent } = options
  // Invariant: a publisher stands under its topic and rank; its table is open.
  const publishers = new Map<string, Publisher>()
  const faults: Record<BoundFault, number> = { topic: 0, frames: 0, unreadable: 0, 'too-many': 0 }
  const toldAtMs = new Map<BoundFault, number>()
  let closed = false

  function fault(kind: BoundFault, message: string): void {
    faults[kind]++
    const told = toldAtMs.get(kind) ?? Number.NEGATIVE_INFINITY
    if (nowMs() - told < FAULT_TOLD_INTERVAL_MS) return
    toldAtMs.set(kind, nowMs())
    onEvent({ type: 'kv-bound-fault', message, count: faults[kind] })
  }

  function take(frames: readonly Buffer[]): void {
    const [topic, seqFrame, payload] = frames
    const seq = readSeq(seqFrame)
    if (frames.length !== 3 || topic === undefined || payload === undefined || typeof seq !== 'number') {
      return fault('frames', `a message of ${frames.length} frames without a sequence number`)
    }
    const identity = readTopic(topic)
    if (identity === undefined) {
      const said = JSON.stringify(topic.toString('utf8', 0, 60))
      return fault('topic', `events with the topic ${said} say not whose they are: start vLLM with ${TOPIC_FLAG}`)
    }
    if (options.dialled(identity.endpoint)) return
    const decoded = decodeEvents(payload)
    if (!decoded.ok) fault('unreadable', `a batch of ${identity.endpoint} cannot be read: ${decoded.message}`)
    const rank = decoded.ok ? decoded.batch.rank : 0
    const publisher = publisherOf(identity, rank)
    if (publisher === undefined)
      return fault('too-many', `more than ${PUBLISHERS_MAX} pods dial: the rest are not heard`)
    publisher.heardAtMs = nowMs()
    publisher.stream.push({ type: 'live', seq, payload })
    if (!decoded.ok) publisher.stream.push({ type: 'unreadable' })
    drain(publisher, payload, decoded.ok ? decoded.batch : undefined)
  }

  function drain(publisher: Publisher, payload: Uint8Array, batch: KvBatch | undefined): void {
    const { stream, table } = publisher
    // Without a replay nothing is held back: what comes out is what went in.
    for (let output = stream.next(); output !== undefined; output = stream.next()) {
      if (output.type === 'clear') table.clear()
      else if (output.type === 'apply') {
        if (batch !== undefined) table.apply(batch, output.seq)
        publisher.position = { seq: output.seq, payload, complete: false }
      }
    }
    const { state, complete } = stream.state
    table.complete(state === 'live' && complete)
  }

  function publisherOf({ endpoint, model }: Identity, rank: number): Publisher | undefined {
    const key = `${endpoint} ${rank} ${model}`
    const known = publishers.get(key)
    if (known !== undefined) return known
    if (publishers.size >= PUBLISHERS_MAX) return undefined
    return open({ endpoint, model }, rank, undefined)
  }

  function open({ endpoint, model }: Identity, rank: number, from: StreamPosition | undefined): Publisher {
    const stream = new KvStream(false, from)
    stream.push({ type: 'connected' })
    const table = feed.tap(index.open({ endpoint, rank, model }), endpoint, rank)
    const publisher = { endpoint, model, rank, table, stream, heardAtMs: nowMs(), position: from }
    publishers.set(`${endpoint} ${rank} ${model}`, publisher)
    onEvent({ type: 'kv-bound-source', endpoint, rank, model })
    return publisher
  }

  for (const { endpoint, model, rank, position, content } of options.restored ?? []) {
    await restoreInto(open({ endpoint, model }, rank, position).table, content, () => false)
  }

  function sweep(): void {
    for (const [key, { endpoint, rank, table, heardAtMs }] of publishers) {
      const isDialled = options.dialled(endpoint)
      if (!isDialled && (nowMs() - heardAtMs < options.silentMs || options.lives(endpoint))) continue
      publishers.delete(key)
      table.close()
      if (!isDialled) onEvent({ type: 'kv-bound-silent', endpoint, rank, seconds: options.silentMs / 1_000 })
    }
    index.sweep()
  }

  const socket = new Subscriber({
    linger: 0,
    maxMessageSize: FRAME_BYTES_MAX,
    receiveHighWaterMark: QUEUE_BATCHES_MAX,
    ipv6: address.includes('['),
    context: new Context({ blocky: false }),
  })
  socket.subscribe()
  try {
    await socket.bind(address)
  } catch (error) {
    socket.close()
    throw new UserError(
      `cannot bind ${address} for KV events: ${(error as Error).message}; choose another with ${flag}`,
    )
  }
  const timer = setInterval(sweep, SWEEP_INTERVAL_MS)
  const reading = (async () => {
    for await (const frames of socket) {
      take(frames)
      if (loopShare.spent()) await loopShare.nextTurn()
    }
  })().catch((error: unknown) => {
    if (!closed) fault('frames', `reading from ${address} ended: ${(error as Error).message}`)
  })

  return {
    address: socket.lastEndpoint ?? address,
    endpoints: () =>
      [...publishers.values()].map(({ endpoint, rank, stream }) => ({ endpoint, rank, state: stream.state })),
    faults: () => faults,
    dumps: () =>
      [...publishers.values()].map((publisher) => () => {
        const { endpoint, rank, model, position, table, stream } = publisher
        if (position === undefined) return undefined
        const content = table.dump()
        return { endpoint, rank, model, dials: true, position: { ...position, complete: stream.whole }, content }
      }),
    async close() {
      closed = true
      clearInterval(timer)
      socket.close()
      await reading
      for (const { table } of publishers.values()) table.close()
    },
  }
}

type Identity = { readonly endpoint: EndpointId; readonly model: string }

/** A model's name may have an `@` of its own. */
const TOPIC = /^kv@([^@\s]+:\d{1,5})@(.+)$/

/** Who publishes under this topic; undefined when it does not say. */
export function readTopic(topic: Uint8Array): Identity | undefined {
  if (topic.length > TOPIC_BYTES_MAX) return undefined
  const [, endpoint, model] = TOPIC.exec(Buffer.from(topic).toString()) ?? []
  return endpoint === undefined || model === undefined ? undefined : { endpoint: endpoint as EndpointId, model }
}
