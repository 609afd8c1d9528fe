// A pod that is being observed: it is asked things, and what it then publishes is read to the last event.
import { setTimeout as delay } from 'node:timers/promises'
import { Dealer, Subscriber } from 'zeromq'
import { readMsgpack } from '../../real/msgpack.ts'
import { type Answer, type Asked, exchangeWith } from './exchange.ts'
import { API_KEY, type Kind } from './pods.ts'
import { range } from './token-ids.ts'

const RECEIVE_TIMEOUT_MS = 10_000
const FIRST_RECEIVE_TIMEOUT_MS = 500
const FIRST_TRIES = 40
const POLL_MS = 20
const CONDITION_TIMEOUT_MS = 10_000
const BLOCK_SIZE_TOKENS = 32
/** A pod without a key does not mind. */
const CREDENTIALS = { authorization: `Bearer ${API_KEY}` }
/** Token ids of the requests that mark an end; no row may use them. */
const MARKER_FROM = 120_000
const MARKER_STRIDE = 40

/** As published, with hashes as text and token ids as the first, the last and how many. */
export type ObservedEvent = Readonly<Record<string, unknown>>

export type PodAddress = {
  readonly url: string
  /** Both `tcp://…`. */
  readonly eventsEndpoint: string
  readonly replayEndpoint: string
}

export type ObservedPod = PodAddress & {
  /** What a request of one's own has to carry. */
  readonly credentials: Asked['headers']
  readonly ask: (method: string, path: string, body?: unknown, headers?: Asked['headers']) => Promise<Answer>
  /** The events of everything asked since the last call, one batch after the other. */
  readonly events: () => Promise<readonly ObservedEvent[]>
  /** The number of the last batch that was read. */
  readonly lastSeq: () => bigint
  /** The topic of all batches. */
  readonly topic: () => string
  readonly replay: (from: bigint) => Promise<readonly (readonly Buffer[])[]>
  readonly close: () => void
}

export type ObservationRow = {
  readonly name: string
  readonly kind: Kind
  /** Gives what must be the same, as JSON. */
  readonly look: (pod: ObservedPod) => Promise<unknown>
}

type Batch = { readonly topic: string; readonly seq: bigint; readonly events: readonly Record<string, unknown>[] }

/** Resolves once events are sure to arrive. */
export async function observe(address: PodAddress): Promise<ObservedPod> {
  const { url, eventsEndpoint, replayEndpoint } = address
  const subscriber = new Subscriber({ linger: 0, receiveTimeout: FIRST_RECEIVE_TIMEOUT_MS })
  let markers = 0
  let last: Batch | undefined

  const ask: ObservedPod['ask'] = (method, path, body, headers = {}) =>
    exchangeWith(url, {
      method,
      path,
      headers: {
        ...CREDENTIALS,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      body,
    })

  async function receive(): Promise<Batch> {
    const [topic, seq, payload] = (await subscriber.receive()) as [Buffer, Buffer, Buffer]
    const [, events] = readMsgpack(payload) as [number, readonly Record<string, unknown>[], number]
    const batch = { topic: topic.toString(), seq: seq.readBigUInt64BE(), events }
    if (last && batch.seq !== last.seq + 1n) throw new Error(`batch ${batch.seq} came after ${last.seq}`)
    last = batch
    return batch
  }

  /** A request whose one block nobody else stores. */
  async function mark(): Promise<number> {
    const prompt = range(MARKER_FROM + MARKER_STRIDE * markers++, BLOCK_SIZE_TOKENS)
    const { status } = await ask('POST', '/v1/completions', { prompt, max_tokens: 1, temperature: 0 })
    if (status !== 200) throw new Error(`a marker was answered ${status}`)
    return prompt[0] as number
  }

  subscriber.connect(eventsEndpoint)
  subscriber.subscribe('')
  // A publisher drops what it sends before it knows of its subscribers.
  for (let tries = 0; last === undefined; tries++) {
    if (tries === FIRST_TRIES) throw new Error(`no event came from ${eventsEndpoint}`)
    await mark()
    await receive().catch(() => undefined)
  }
  subscriber.receiveTimeout = RECEIVE_TIMEOUT_MS

  const pod: ObservedPod = {
    ...address,
    credentials: CREDENTIALS,
    ask,
    events: async () => {
      const first = await mark()
      const seen: ObservedEvent[] = []
      for (;;) {
        const { events } = await receive()
        const isMarker = ({ token_ids: ids }: Record<string, unknown>) => (ids as readonly number[])?.[0] === first
        seen.push(...events.filter((event) => !isMarker(event)).map(told))
        if (events.some(isMarker)) return seen
      }
    },
    lastSeq: () => last?.seq ?? -1n,
    topic: () => last?.topic ?? '',
    replay: async (from) => {
      const dealer = new Dealer({ linger: 0, receiveTimeout: RECEIVE_TIMEOUT_MS })
      try {
        dealer.connect(replayEndpoint)
        const start = Buffer.alloc(8)
        start.writeBigUInt64BE(from)
        await dealer.send(['', start])
        const replies: Buffer[][] = []
        for (;;) {
          const frames = await dealer.receive()
          replies.push(frames)
          if (frames[2]?.equals(Buffer.alloc(8, 0xff))) return replies
        }
      } finally {
        dealer.close()
      }
    },
    close: () => subscriber.close(),
  }
  await pod.events()
  return pod
}

function told(event: Record<string, unknown>): ObservedEvent {
  const { token_ids: ids, ...others } = event as { readonly token_ids?: readonly number[] }
  const tokens = ids === undefined ? {} : { token_ids: `${ids.length} from ${ids[0]} to ${ids.at(-1)}` }
  const members = { members: Object.keys(event).join(' ') }
  const plain = JSON.stringify(others, (_, value) => (typeof value === 'bigint' ? String(value) : value))
  return { ...(JSON.parse(plain) as object), ...tokens, ...members }
}

/** Asks again until the answer is the wanted one; what it was last, where that does not come. */
export async function settled<T>(ask: () => Promise<T>, isWanted: (value: T) => boolean): Promise<T> {
  const endMs = performance.now() + CONDITION_TIMEOUT_MS
  for (;;) {
    const value = await ask()
    if (isWanted(value) || performance.now() > endMs) return value
    await delay(POLL_MS)
  }
}
