// Publishes KV events over ZeroMQ as vLLM does: a PUB socket of three frames a batch, numbered from 0, and a ROUTER socket
// that sends the newest batches again to whoever missed them.
import type { Publisher, Router } from 'zeromq'
import { UserError } from '../user-error.ts'
import type { BlockEvent } from './block-pool.ts'
import { type BatchOptions, encodeBatch } from './kv-events.ts'
import { BUFFER_STEPS, createReplayBuffer, type ReplayBuffer } from './replay-buffer.ts'

export type KvPublisherOptions = {
  /** An IP address. */
  readonly host: string
  /** 0 takes any free port. */
  readonly port: number
  readonly replayPort: number
  readonly topic: string
  readonly batches: BatchOptions
  /** Seconds since 1970. */
  readonly nowSeconds: () => number
  /** Told of what went wrong in a socket. */
  readonly onFault: (error: unknown) => void
  /** Whether whoever asks for events again is answered. */
  readonly answersReplays: () => boolean
}

/** What `GET /kv_event_sources` says of one rank. */
export type KvEventSource = {
  readonly enable_kv_cache_events: true
  readonly publisher: 'zmq'
  readonly endpoint: string
  readonly replay_endpoint: string
  readonly buffer_steps: number
  readonly hwm: number
  readonly max_queue_size: number
  readonly topic: string
}

/** What becomes of a batch that is published. */
export type BatchFate = 'sent' | 'lost' | 'corrupt'

export type KvPublisher = {
  readonly port: number
  readonly replayPort: number
  readonly source: KvEventSource
  /** Numbers a batch and keeps it to be sent again; what becomes of it on its way changes nothing of that. */
  readonly publish: (events: readonly BlockEvent[], fate: BatchFate) => void
  readonly close: () => Promise<void>
}

/** vLLM's defaults. */
const HIGH_WATER_MARK = 100_000
const QUEUE_SIZE_MAX = 100_000
/**
 * For what is under way when it closes. Without any, libzmq 4.3.5 aborts the process when a peer leaves at that moment in
 * the middle of a message of several frames (an assertion of `session_base_t::clean_pipes`).
 */
const LINGER_MS = 500
/** Far more than a replay request has. */
const REQUEST_BYTES_MAX = 1_024
/** -1 as a signed number of 64 bits: the end of a replay. */
const END_SEQUENCE = Buffer.alloc(8, 0xff)
const EMPTY = Buffer.alloc(0)

/** Binds both sockets. Rejects with a UserError when a port is taken. */
export async function startKvPublisher(options: KvPublisherOptions): Promise<KvPublisher> {
  const zmq = await import('zeromq')
  const publisher = new zmq.Publisher({ linger: LINGER_MS, sendHighWaterMark: HIGH_WATER_MARK })
  // A ROUTER drops what is above its mark: a whole replay must fit below it.
  const router = new zmq.Router({
    linger: LINGER_MS,
    sendHighWaterMark: BUFFER_STEPS + 1,
    maxMessageSize: REQUEST_BYTES_MAX,
  })
  const close = () => {
    publisher.close()
    router.close()
  }
  let ports: { readonly port: number; readonly replayPort: number }
  try {
    ports = {
      port: await bind(publisher, options.host, options.port, '--kv-events-port'),
      replayPort: await bind(router, options.host, options.replayPort, '--kv-replay-port'),
    }
  } catch (error) {
    close()
    throw error
  }
  const topic = Buffer.from(options.topic)
  const buffer = createReplayBuffer()
  const replaying = serveReplays(router, topic, buffer, options)

  return {
    ...ports,
    // vLLM tells what it was configured with, and it binds only where the address is a wildcard.
    source: {
      enable_kv_cache_events: true,
      publisher: 'zmq',
      endpoint: `tcp://*:${ports.port}`,
      replay_endpoint: `tcp://*:${ports.replayPort}`,
      buffer_steps: BUFFER_STEPS,
      hwm: HIGH_WATER_MARK,
      max_queue_size: QUEUE_SIZE_MAX,
      topic: options.topic,
    },
    publish: (events, fate) => {
      const payload = encodeBatch(options.nowSeconds(), events, options.batches)
      const sequence = buffer.add(payload)
      if (fate === 'lost') return
      const sent = fate === 'corrupt' ? corrupt(payload, sequence) : payload
      publisher.send([topic, sequenceBytes(sequence), sent]).catch(options.onFault)
    },
    close: async () => {
      close()
      await replaying
    },
  }
}

/** Answers requests of exactly [empty, number]; vLLM says nothing to any other. Ends when the socket is closed. */
async function serveReplays(
  router: Router,
  topic: Buffer,
  buffer: ReplayBuffer,
  { onFault, answersReplays }: Pick<KvPublisherOptions, 'onFault' | 'answersReplays'>,
): Promise<void> {
  for await (const frames of router) {
    const [client, , first] = frames
    if (frames.length !== 3 || !client || !first || !answersReplays()) continue
    try {
      for (const { sequence, payload } of buffer.from(BigInt(`0x0${first.toString('hex')}`))) {
        await router.send([client, EMPTY, topic, sequenceBytes(sequence), payload])
      }
      await router.send([client, EMPTY, EMPTY, END_SEQUENCE, EMPTY])
    } catch (error) {
      if (!router.closed) onFault(error)
    }
  }
}

/** A payload that was damaged on its way, in a manner that follows from its number: cut, altered or no batch at all. */
function corrupt(payload: Buffer, sequence: number): Buffer {
  const middle = Math.floor(payload.length / 2)
  switch (sequence % 3) {
    case 0:
      return payload.subarray(0, middle)
    case 1: {
      const altered = Buffer.from(payload)
      altered[middle] = (altered[middle] as number) ^ 0xff
      return altered
    }
    default:
      return Buffer.from([0xc1, ...payload.subarray(1)])
  }
}

function sequenceBytes(sequence: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(sequence))
  return bytes
}

async function bind(socket: Publisher | Router, host: string, port: number, flag: string): Promise<number> {
  const inBrackets = host.includes(':')
  if (inBrackets) socket.ipv6 = true
  const address = `tcp://${inBrackets ? `[${host}]` : host}`
  try {
    await socket.bind(`${address}:${port === 0 ? '*' : port}`)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const because = code === 'EADDRINUSE' ? 'the port is taken' : message
    throw new UserError(`${host}:${port}: ${because}; choose another one for KV events with ${flag}`)
  }
  return Number(socket.lastEndpoint?.split(':').at(-1))
}
