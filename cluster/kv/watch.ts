// Follows the KV events of every endpoint that publishes some: finds out where they are, subscribes, feeds the index. An
// endpoint without events, or whose stream is lost, is asked again: it may have been restarted with others.
import type { Endpoint, EndpointId } from '../endpoints/endpoint.ts'
import type { EventFeed } from './event-feed.ts'
import type { KvIndex, KvSource } from './kv-index.ts'
import { restoreInto, type SourceSnapshot } from './snapshot.ts'
import { type EventSource, readEventSources, sourceOfConfiguration } from './sources.ts'
import type { StreamPosition } from './stream.ts'
import { type StreamState, type Subscription, type SubscriptionOptions, subscribe } from './subscription.ts'

const ASK_INTERVAL_MS = 10_000
/** A stream of garbage gets a line in the log now and then, not one for each frame. */
const FAULT_TOLD_INTERVAL_MS = 60_000

/** What an engine says to `GET /kv_event_sources`. */
export type SourcesAnswer = { readonly status: number; readonly body: Buffer }

export type KvWatchDeps = {
  readonly index: KvIndex
  /** Undefined when the engine gave no answer. */
  readonly askSources: (id: EndpointId) => Promise<SourcesAnswer | undefined>
  /** Told of every batch. */
  readonly feed?: EventFeed
  /** What another replica knew of a source; it is asked once for each. */
  readonly restored?: (endpoint: EndpointId, rank: number, model: string) => SourceSnapshot | undefined
  readonly subscribe?: (options: SubscriptionOptions) => Subscription
  readonly nowMs: () => number
  /** Told of changes worth a log line. */
  readonly onEvent: (event: KvWatchEvent) => void
}

export type KvWatchEvent =
  | { readonly type: 'kv-source'; readonly endpoint: EndpointId; readonly rank: number; readonly events: string }
  | {
      readonly type: 'kv-stream'
      readonly endpoint: EndpointId
      readonly rank: number
      readonly state: StreamState['state']
      readonly complete: boolean
    }
  | { readonly type: 'kv-fault'; readonly endpoint: EndpointId; readonly message: string; readonly faults: number }
  | { readonly type: 'kv-none'; readonly endpoint: EndpointId; readonly because: string }

export type KvSourceView = StreamState & { readonly rank: number; readonly events: string; readonly faults: number }

export type KvWatch = {
  /**
   * From now on this endpoint's events are followed, its blocks seeded with this model; called again when either
   * changes. Resolves when its sources were looked for once.
   */
  readonly follow: (endpoint: Endpoint, baseModel: string) => Promise<void>
  /** Its blocks are gone at once. */
  readonly unfollow: (id: EndpointId) => void
  /** It is gone, for all that is known: its blocks go at once, and all is asked for again when it is back. */
  readonly restart: (id: EndpointId) => void
  /** What each source holds, and where its stream is: each is copied when it is called. */
  readonly dumps: () => readonly (() => SourceSnapshot | undefined)[]
  /** Whether anybody's events are followed. */
  readonly follows: () => boolean
  readonly sourcesOf: (id: EndpointId) => readonly KvSourceView[]
  readonly close: () => Promise<void>
}

type Stream = {
  readonly source: EventSource
  readonly table: KvSource
  /** Undefined while what another replica knew is taken over. */
  subscription: Subscription | undefined
  closed: boolean
  state: StreamState
  faults: number
  faultToldAtMs: number
}

type Followed = {
  readonly endpoint: Endpoint
  readonly baseModel: string
  streams: readonly Stream[]
  timer: NodeJS.Timeout | undefined
  toldNone: string | undefined
}

export function createKvWatch(deps: KvWatchDeps): KvWatch {
  // Invariant: an endpoint in here has one timer or one question under way; `open` counts the streams of all of them.
  const followed = new Map<EndpointId, Followed>()
  const closing = new Set<Promise<void>>()
  let open = 0
  let closed = false

  async function look(its: Followed): Promise<void> {
    const found = await findSources(its.endpoint, deps.askSources)
    if (followed.get(its.endpoint.id) !== its) return
    // No answer says nothing: what was found before stays until the engine speaks again.
    if (found !== undefined) {
      if (!sameSources(its.streams, found.sources)) replaceStreams(its, found.sources)
      tellNone(its, found.because)
    }
    its.timer = setTimeout(() => void tick(its), ASK_INTERVAL_MS)
  }

  async function tick(its: Followed): Promise<void> {
    // Where no events come any more, nothing else sweeps up what those left behind that are gone.
    deps.index.sweep()
    const lost = its.streams.some(({ state }) => state.state === 'lost' || state.state === 'connecting')
    if (its.streams.length === 0 || lost) await look(its)
    else its.timer = setTimeout(() => void tick(its), ASK_INTERVAL_MS)
  }

  function tellNone(its: Followed, because: string | undefined): void {
    if (because === its.toldNone) return
    its.toldNone = because
    if (because !== undefined) deps.onEvent({ type: 'kv-none', endpoint: its.endpoint.id, because })
  }

  function replaceStreams(its: Followed, sources: readonly EventSource[]): void {
    closeStreams(its)
    its.streams = sources.map((source) => startStream(its, source))
    open += its.streams.length
  }

  function startStream({ endpoint: { id }, baseModel }: Followed, source: EventSource): Stream {
    const opened = deps.index.open({ endpoint: id, rank: source.rank, model: baseModel })
    const table = deps.feed?.tap(opened, id, source.rank) ?? opened
    const stream: Stream = {
      source,
      table,
      subscription: undefined,
      closed: false,
      state: { state: 'connecting', complete: false },
      faults: 0,
      faultToldAtMs: Number.NEGATIVE_INFINITY,
    }
    const restored = deps.restored?.(id, source.rank, baseModel)
    if (restored === undefined) stream.subscription = subscribeTo(id, stream, undefined)
    else void takeOver(id, stream, restored)
    deps.onEvent({ type: 'kv-source', endpoint: id, rank: source.rank, events: source.events })
    return stream
  }

  async function takeOver(id: EndpointId, stream: Stream, { content, position }: SourceSnapshot): Promise<void> {
    await restoreInto(stream.table, content, () => stream.closed)
    if (!stream.closed) stream.subscription = subscribeTo(id, stream, position)
  }

  function subscribeTo(id: EndpointId, stream: Stream, from: StreamPosition | undefined): Subscription {
    const { source, table } = stream
    return (deps.subscribe ?? subscribe)({
      events: source.events,
      ...(from && { from }),
      replay: source.replay,
      onBatch: (batch, seq) => table.apply(batch, seq),
      onClear: () => table.clear(),
      onState(state) {
        if (state.state === 'lost' && stream.state.state !== 'lost') void lost(id, stream)
        stream.state = state
        table.complete(state.state === 'live' && state.complete)
        deps.onEvent({ type: 'kv-stream', endpoint: id, rank: source.rank, ...state })
      },
      onFault(message) {
        stream.faults++
        if (deps.nowMs() - stream.faultToldAtMs < FAULT_TOLD_INTERVAL_MS) return
        stream.faultToldAtMs = deps.nowMs()
        deps.onEvent({ type: 'kv-fault', endpoint: id, message, faults: stream.faults })
      },
    })
  }

  /** Where the engine itself does not answer either, it is gone, and what it had with it. */
  async function lost(id: EndpointId, stream: Stream): Promise<void> {
    const answer = await deps.askSources(id)
    const its = followed.get(id)
    if (answer !== undefined || stream.closed || its === undefined || stream.state.state !== 'lost') return
    replaceStreams(
      its,
      its.streams.map(({ source }) => source),
    )
  }

  function closeStreams(its: Followed): void {
    open -= its.streams.length
    for (const stream of its.streams) {
      stream.closed = true
      stream.table.close()
      const closed = (stream.subscription?.close() ?? Promise.resolve()).finally(() => closing.delete(closed))
      closing.add(closed)
    }
    its.streams = []
  }

  function unfollow(id: EndpointId): void {
    const its = followed.get(id)
    if (!its) return
    followed.delete(id)
    clearTimeout(its.timer)
    closeStreams(its)
  }

  return {
    async follow(endpoint, baseModel) {
      const before = followed.get(endpoint.id)
      // Whoever was asked when all this ended may answer yet.
      if (closed) return
      if (before && before.baseModel === baseModel && sameWay(before.endpoint, endpoint)) return
      unfollow(endpoint.id)
      const its: Followed = { endpoint, baseModel, streams: [], timer: undefined, toldNone: undefined }
      followed.set(endpoint.id, its)
      await look(its)
    },
    unfollow,
    restart(id) {
      const its = followed.get(id)
      if (its)
        replaceStreams(
          its,
          its.streams.map(({ source }) => source),
        )
    },
    dumps: () =>
      [...followed.values()].flatMap(({ endpoint, baseModel, streams }) =>
        streams.map((stream) => () => {
          const position = stream.subscription?.position()
          if (position === undefined || stream.closed) return undefined
          return {
            endpoint: endpoint.id,
            rank: stream.source.rank,
            model: baseModel,
            dials: false,
            position,
            content: stream.table.dump(),
          }
        }),
      ),
    follows: () => open > 0,
    sourcesOf: (id) =>
      followed
        .get(id)
        ?.streams.map(({ source: { rank, events }, state, faults }) => ({ rank, events, ...state, faults })) ?? [],
    async close() {
      closed = true
      for (const id of [...followed.keys()]) unfollow(id)
      await Promise.all(closing)
    },
  }
}

/** Whether its events come the same way: labels and the like change nothing of what it has cached. */
function sameWay(a: Endpoint, b: Endpoint): boolean {
  return WAY.every((name) => a[name] === b[name])
}

const WAY = ['origin', 'ca', 'apiKey', 'events', 'replay'] as const satisfies readonly (keyof Endpoint)[]

type Found = { readonly sources: readonly EventSource[]; readonly because: string | undefined }

/** What an operator configured; else what the engine says of itself. Undefined when it says nothing now. */
async function findSources(
  { id, origin, events, replay }: Endpoint,
  askSources: KvWatchDeps['askSources'],
): Promise<Found | undefined> {
  const host = new URL(origin).hostname
  if (events !== undefined) return { sources: [sourceOfConfiguration(events, replay, host)], because: undefined }
  const answer = await askSources(id)
  if (answer === undefined || answer.status >= 500) return undefined
  if (answer.status !== 200) return { sources: [], because: `it answers ${answer.status} to /kv_event_sources` }
  const { sources, skipped } = readEventSources(parse(answer.body), host)
  const because = skipped.join('; ') || 'it publishes none: start vLLM with --kv-events-config'
  return { sources, because: sources.length > 0 ? undefined : because }
}

function parse(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString())
  } catch {
    return undefined
  }
}

function sameSources(streams: readonly Stream[], sources: readonly EventSource[]): boolean {
  const text = ({ rank, events, replay }: EventSource): string => `${rank} ${events} ${replay}`
  return streams.map(({ source }) => text(source)).join() === sources.map(text).join()
}
