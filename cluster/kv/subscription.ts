// The sockets of one publisher's KV events: a SUB for what comes live, a DEALER for each replay. What to do with what they
// bring is decided in stream.ts.
import { Context, Dealer, Subscriber } from 'zeromq'
import { type Clock, systemClock } from '../../shared/clock.ts'
import { decodeEvents } from './decode-events.ts'
import type { KvBatch } from './kv-event.ts'
import { createLoopShare } from './loop-share.ts'
import { KvStream, type StreamInput, type StreamOutput, type StreamPosition, type StreamState } from './stream.ts'

export type { StreamState } from './stream.ts'

/** A publisher that sends more in one frame is disconnected; the batch then counts as missing. A million tokens take 6 MB. */
const FRAME_BYTES_MAX = 16 * 1024 * 1024
/** Live batches that wait in this process; further ones wait at the publisher, which keeps 100,000. */
const LIVE_QUEUE_BATCHES_MAX = 1_000
/** Replayed batches that wait here. Beyond it vLLM's ROUTER drops them, so a whole replay of its default size fits in. */
const REPLAY_QUEUE_BATCHES_MAX = 10_000
/** The sockets of all subscriptions together: four each while a replay runs. */
const SOCKETS_MAX = 16_384
const RECONNECT_MS = 100
const RECONNECT_MS_MAX = 5_000
/** A peer that went without a word (a lost node) is noticed after the two together. */
const HEARTBEAT_MS = 5_000
const HEARTBEAT_TIMEOUT_MS = 10_000

const SEQ_BYTES = 8
const EMPTY_FRAME = Buffer.alloc(0)

export type ReplayTimes = {
  /** Longest wait for the next batch of a replay. */
  readonly idleMs: number
  /** Longest replay; what is left is asked for again. */
  readonly wholeMs: number
  /** Between the starts of two replays: serving one holds up the engine's publisher. */
  readonly spacingMs: number
}
const REPLAY_TIMES: ReplayTimes = { idleMs: 5_000, wholeMs: 60_000, spacingMs: 1_000 }

export type SubscriptionOptions = {
  /** `tcp://host:port` of the publisher; an IPv6 address stands in brackets. */
  readonly events: string
  /** The same of its replay socket; undefined when it has none. */
  readonly replay: string | undefined
  /** Called in the order of the publisher's numbers, each number once between two `onClear`. Must not throw. */
  readonly onBatch: (batch: KvBatch, seq: number) => void
  /** The publisher is a new one: everything from the old one is gone. */
  readonly onClear: () => void
  /** Called when it changed. The first state is `connecting`, incomplete, and not reported. */
  readonly onState: (state: StreamState) => void
  /** A message that cannot be read, a replay that failed, a bad address. May come as fast as messages do. */
  readonly onFault: (message: string) => void
  /** Where another reader left it. */
  readonly from?: StreamPosition | undefined
  readonly clock?: Clock
  readonly replayTimes?: ReplayTimes
}

export type Subscription = {
  /** The batch that was handed out last; undefined before the first, and after `onClear`. */
  readonly position: () => StreamPosition | undefined
  /** From the call on nothing is reported any more; resolves when the sockets are closed. */
  readonly close: () => Promise<void>
}

// The process has one event loop, and libzmq's threads are shared best by all of its sockets.
const loopShare = createLoopShare(systemClock.monotonicMs)
const context = new Context({ maxSockets: SOCKETS_MAX, blocky: false })

type OpenReplay = {
  readonly id: number
  socket: Dealer | undefined
  readonly timers: NodeJS.Timeout[]
}

/** Follows a publisher until it is closed, through its restarts and its absence. Nothing is reported before it returns. */
export function subscribe(options: SubscriptionOptions): Subscription {
  const { clock = systemClock, replayTimes = REPLAY_TIMES } = options
  const stream = new KvStream(options.replay !== undefined, options.from)
  let applied: { readonly seq: number; readonly payload: Uint8Array } | undefined = options.from
  // Invariants: at most one replay is open, and it is the one that the stream asked for last; `draining` is set while
  // outputs wait for the next turn of the event loop, and inputs then wait behind them.
  const readers = new Set<Promise<void>>()
  let replay: OpenReplay | undefined
  let replayBeganAtMs = Number.NEGATIVE_INFINITY
  let retryTimer: NodeJS.Timeout | undefined
  let draining: Promise<void> | undefined
  let told: StreamState = stream.state
  let closed = false

  /** Resolves when everything that came of the input is done. */
  function push(input: StreamInput): Promise<void> | undefined {
    if (closed) return undefined
    stream.push(input)
    if (draining === undefined && !drain()) draining = drainInTurns()
    return draining
  }

  async function drainInTurns(): Promise<void> {
    do await loopShare.nextTurn()
    while (!drain())
    draining = undefined
  }

  /** False when the loop's share was spent first. */
  function drain(): boolean {
    let spent = false
    while (!spent) {
      const output = closed ? undefined : stream.next()
      if (output === undefined) break
      perform(output)
      spent = loopShare.spent()
    }
    tellState()
    return !spent
  }

  function perform(output: StreamOutput): void {
    switch (output.type) {
      case 'apply':
        return apply(output.payload, output.seq)
      case 'clear':
        applied = undefined
        return options.onClear()
      case 'replay':
        return askReplay(output.replay, output.from)
      case 'abandon-replay':
        return closeReplay()
      case 'retry-later':
        clearTimeout(retryTimer)
        retryTimer = setTimeout(() => push({ type: 'retry' }), output.afterMs)
    }
  }

  function apply(payload: Uint8Array, seq: number): void {
    applied = { seq, payload }
    const decoded = decodeEvents(payload)
    if (decoded.ok) return options.onBatch(decoded.batch, seq)
    stream.push({ type: 'unreadable' })
    options.onFault(`batch ${seq} cannot be read: ${decoded.message}`)
  }

  function tellState(): void {
    const { state, complete } = stream.state
    if (closed || (state === told.state && complete === told.complete)) return
    told = { state, complete }
    options.onState(told)
  }

  function askReplay(id: number, from: number): void {
    closeReplay()
    const waitMs = Math.max(0, replayBeganAtMs + replayTimes.spacingMs - clock.monotonicMs())
    const its: OpenReplay = { id, socket: undefined, timers: [] }
    replay = its
    if (waitMs === 0) openReplay(its, from)
    else its.timers.push(setTimeout(() => openReplay(its, from), waitMs))
  }

  function openReplay(its: OpenReplay, from: number): void {
    replayBeganAtMs = clock.monotonicMs()
    const { idleMs, wholeMs } = replayTimes
    const late = (ms: number) => () => replayFailed(its, `the replay from ${from} got no further in ${ms} ms`)
    const idle = setTimeout(late(idleMs), idleMs)
    its.timers.push(idle, setTimeout(late(wholeMs), wholeMs))
    try {
      const socket = new Dealer({ ...SOCKET_OPTIONS, context, receiveHighWaterMark: REPLAY_QUEUE_BATCHES_MAX })
      its.socket = socket
      connect(socket, options.replay ?? '')
      const request = socket.send([EMPTY_FRAME, writeSeq(from)])
      follow(request.then(() => readReplay(its, socket, idle)))
    } catch (error) {
      // Not from inside `perform`: the stream would be asked for its next output twice at once.
      setImmediate(() => replayFailed(its, `no replay from ${options.replay}: ${messageOf(error)}`))
    }
  }

  async function readReplay(its: OpenReplay, socket: Dealer, idle: NodeJS.Timeout): Promise<void> {
    for (;;) {
      const frames = await receive(socket)
      if (frames === undefined || replay !== its) return
      idle.refresh()
      // vLLM sends a topic since 0.26: ['', topic, seq, payload], before it ['', seq, payload].
      const seq = frames.length === 3 || frames.length === 4 ? readSeq(frames.at(-2)) : undefined
      const payload = frames.at(-1)
      if (seq === undefined || payload === undefined) options.onFault(`a replayed message ${inWords(frames)}`)
      else if (seq === 'end') {
        closeReplay()
        await push({ type: 'replay-ended', replay: its.id })
        return
      } else await push({ type: 'replayed', replay: its.id, seq, payload })
      if (loopShare.spent()) await loopShare.nextTurn()
    }
  }

  function replayFailed(its: OpenReplay, because: string): void {
    if (closed || replay !== its) return
    closeReplay()
    options.onFault(because)
    push({ type: 'replay-failed', replay: its.id })
  }

  function closeReplay(): void {
    for (const timer of replay?.timers ?? []) clearTimeout(timer)
    replay?.socket?.close()
    replay = undefined
  }

  async function readLive(socket: Subscriber): Promise<void> {
    for (;;) {
      const frames = await receive(socket)
      if (frames === undefined || closed) return
      const seq = frames.length === 3 ? readSeq(frames[1]) : undefined
      const payload = frames[2]
      if (typeof seq !== 'number' || payload === undefined) options.onFault(`a message ${inWords(frames)}`)
      else await push({ type: 'live', seq, payload })
      if (loopShare.spent()) await loopShare.nextTurn()
    }
  }

  async function watchConnection(socket: Subscriber): Promise<void> {
    for await (const event of socket.events) {
      if (closed) return
      // Not `connect`: the subscription goes out right after the handshake.
      if (event.type === 'handshake') push({ type: 'connected' })
      else if (event.type === 'disconnect') push({ type: 'disconnected' })
      else if (event.type.startsWith('handshake:error')) options.onFault(`no ZMTP handshake with ${options.events}`)
    }
  }

  /** A reader ends with its socket. Any other end is told, and leaves the stream lost. */
  function follow(reading: Promise<void>): void {
    const reader = reading.catch(readerFailed).finally(() => readers.delete(reader))
    readers.add(reader)
  }

  function readerFailed(error: unknown): void {
    if (closed) return
    options.onFault(`reading from ${options.events} ended: ${messageOf(error)}`)
    push({ type: 'disconnected' })
  }

  let subscriber: Subscriber | undefined
  try {
    subscriber = new Subscriber({ ...SOCKET_OPTIONS, context, receiveHighWaterMark: LIVE_QUEUE_BATCHES_MAX })
    follow(watchConnection(subscriber))
    subscriber.subscribe()
    connect(subscriber, options.events)
    follow(readLive(subscriber))
  } catch (error) {
    const fault = `cannot subscribe to ${options.events}: ${messageOf(error)}`
    setImmediate(() => closed || options.onFault(fault))
  }

  return {
    position: () => applied && { seq: applied.seq, payload: applied.payload, complete: stream.whole },
    async close() {
      closed = true
      clearTimeout(retryTimer)
      closeReplay()
      subscriber?.close()
      await Promise.all(readers)
    },
  }
}

const SOCKET_OPTIONS = {
  linger: 0,
  maxMessageSize: FRAME_BYTES_MAX,
  reconnectInterval: RECONNECT_MS,
  reconnectMaxInterval: RECONNECT_MS_MAX,
  heartbeatInterval: HEARTBEAT_MS,
  heartbeatTimeout: HEARTBEAT_TIMEOUT_MS,
}

function connect(socket: Subscriber | Dealer, address: string): void {
  // Only for literals: with it on, libzmq dials a name's first IPv6 address and no other, where most engines listen on IPv4.
  socket.ipv6 = address.includes('[')
  socket.connect(address)
}

/** Undefined once the socket is closed. */
async function receive(socket: Subscriber | Dealer): Promise<readonly Buffer[] | undefined> {
  try {
    return await socket.receive()
  } catch (error) {
    if (socket.closed) return undefined
    throw error
  }
}

/** The number in a frame of eight bytes, big-endian; `end` for -1, undefined for what is no number up to 2^53. */
export function readSeq(frame: Buffer | undefined): number | 'end' | undefined {
  if (frame?.length !== SEQ_BYTES) return undefined
  const hi = frame.readUInt32BE(0)
  const lo = frame.readUInt32BE(4)
  if (hi === 0xffff_ffff && lo === 0xffff_ffff) return 'end'
  const seq = hi * 2 ** 32 + lo
  return Number.isSafeInteger(seq) ? seq : undefined
}

function writeSeq(seq: number): Buffer {
  const frame = Buffer.alloc(SEQ_BYTES)
  frame.writeUInt32BE(Math.floor(seq / 2 ** 32), 0)
  frame.writeUInt32BE(seq >>> 0, 4)
  return frame
}

function inWords(frames: readonly Buffer[]): string {
  return `of ${frames.length} frames without a sequence number`
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
