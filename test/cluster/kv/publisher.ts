// A publisher of KV events that speaks as vLLM does: PUB for what is new, ROUTER for what was; and, where a test wants it,
// as vLLM should not. Its PUB is an XPUB, which is the same on the wire and tells of subscriptions.
import { Context, Router, XPublisher } from 'zeromq'

const END = Buffer.alloc(8, 0xff)
const TOPIC = Buffer.from('kv@127.0.0.1:8000@model')
// Of its own, so that the sockets under test cannot disturb it.
const context = new Context({ blocky: false })

/** Without any, libzmq may abort the process: see the simulator's publisher. */
const LINGER_MS = 500

const FREE_WITHIN_MS = 5_000

export type PublisherOptions = {
  /** Addresses of an earlier publisher, to take its place. */
  readonly at?: { readonly events: string; readonly replay: string }
  /** `vllm`: 0.26 and later. `old`: without a topic. `mute`: never answers. `endless`: never says that it has ended. */
  readonly replay?: 'vllm' | 'old' | 'mute' | 'endless'
}

export type TestPublisher = {
  readonly events: string
  readonly replay: string
  /** Resolves when somebody has subscribed: what is published from then on gets there. */
  readonly subscribed: Promise<unknown>
  /** Sends a batch to the subscribers, and keeps it for replays. Gives its number. */
  readonly publish: (payload: Uint8Array) => Promise<number>
  /** Keeps a batch without sending it: what a full queue does. */
  readonly lose: (payload: Uint8Array) => number
  /** Drops what is kept before this number. */
  readonly forget: (before: number) => void
  /** Sends frames as they are. */
  readonly send: (frames: readonly (string | Uint8Array)[]) => Promise<void>
  /** Sends a replayed message to whoever has asked last. */
  readonly sendReplayed: (frames: readonly (string | Uint8Array)[]) => Promise<void>
  /** Numbers that replays were asked from, in order. */
  readonly asked: () => readonly number[]
  readonly close: () => void
}

export async function startPublisher({ at, replay = 'vllm' }: PublisherOptions = {}): Promise<TestPublisher> {
  const publisher = new XPublisher({ context, linger: LINGER_MS })
  const router = new Router({ context, linger: LINGER_MS })
  await bindOnceFree(publisher, at?.events)
  await bindOnceFree(router, at?.replay)
  const kept: { readonly seq: number; readonly payload: Uint8Array }[] = []
  const asked: number[] = []
  let next = 0
  let lastPeer: Buffer = Buffer.alloc(0)

  async function answer(peer: Buffer, from: number): Promise<void> {
    if (replay === 'mute') return
    const topic = (text: Uint8Array) => (replay === 'old' ? [] : [text])
    for (const { seq, payload } of kept) {
      if (seq < from) continue
      await router.send([peer, Buffer.alloc(0), ...topic(TOPIC), seqFrame(seq), payload])
      // The queue takes 1,000 and drops the rest: its thread gets a chance to empty it.
      if (seq % 200 === 199) await new Promise(setImmediate)
    }
    if (replay === 'endless') return
    await router.send([peer, Buffer.alloc(0), ...topic(Buffer.alloc(0)), END, Buffer.alloc(0)])
  }

  async function serve(): Promise<void> {
    for await (const frames of router) {
      const [peer, empty, seq] = frames
      // vLLM answers nothing else either.
      if (frames.length !== 3 || peer === undefined || empty?.length !== 0 || seq?.length !== 8) continue
      lastPeer = peer
      asked.push(Number(seq.readBigUInt64BE()))
      await answer(peer, Number(seq.readBigUInt64BE()))
    }
  }
  // Ends with its socket: a send that is under way then fails.
  serve().catch(() => {})

  function keep(payload: Uint8Array): number {
    kept.push({ seq: next, payload })
    return next++
  }

  return {
    events: publisher.lastEndpoint ?? '',
    replay: router.lastEndpoint ?? '',
    subscribed: publisher.receive().catch(() => {}),
    async publish(payload) {
      const seq = keep(payload)
      await publisher.send([TOPIC, seqFrame(seq), payload])
      return seq
    },
    lose: keep,
    forget(before) {
      while ((kept[0]?.seq ?? before) < before) kept.shift()
    },
    send: (frames) => publisher.send([...frames]),
    sendReplayed: (frames) => router.send([lastPeer, ...frames]),
    asked: () => asked,
    close() {
      publisher.close()
      router.close()
    },
  }
}

/** libzmq gives an address back some time after the socket that had it was closed. */
async function bindOnceFree(socket: XPublisher | Router, address = 'tcp://127.0.0.1:0'): Promise<void> {
  const deadlineMs = performance.now() + FREE_WITHIN_MS
  for (;;) {
    try {
      return await socket.bind(address)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || performance.now() > deadlineMs) throw error
      await new Promise(setImmediate)
    }
  }
}

export function seqFrame(seq: number | bigint): Buffer {
  const frame = Buffer.alloc(8)
  frame.writeBigUInt64BE(BigInt(seq))
  return frame
}

/** A batch without events, known by its time. */
export function batchAt(seconds: number): Buffer {
  const batch = Buffer.from('93cb00000000000000009000', 'hex')
  batch.writeDoubleBE(seconds, 2)
  return batch
}
