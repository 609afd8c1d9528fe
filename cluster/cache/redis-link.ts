// Keeps one connection to a Redis for as long as Redis is worth asking: made in the background, left alone in the
// breaker's rests, tried again by one probe.
import { createBreaker } from './breaker.ts'
import { type ConnectOptions, openRedis, type RedisConnection } from './redis-connection.ts'

/** A connection that is lost after this long was a good one. */
const LASTED_MS = 30_000
/** Connections in a row that did not last until Redis is left alone, whatever was answered on them. */
const BRIEF_MAX = 5

export type RedisLink = {
  /** What may be asked now. Undefined while there is none. */
  readonly connection: () => RedisConnection | undefined
  readonly state: () => 'connected' | 'connecting' | 'resting'
  /** An answer came on this connection. */
  readonly answered: (on: RedisConnection) => void
  /** It failed, or came late; after several in a row the connection is given up and Redis left alone for a while. */
  readonly failed: (on: RedisConnection, why: string) => void
  /** Nothing that comes on this connection can be trusted: it is given up at once. */
  readonly broken: (on: RedisConnection, why: string) => void
  /** Nothing is made any more. Gives the last connection, for whoever wants to part with it well. */
  readonly close: () => RedisConnection | undefined
}

export type LinkDeps = Omit<ConnectOptions, 'onLost' | 'signal'> & {
  readonly nowMs: () => number
  readonly random: () => number
  readonly onUp: () => void
  /** Each time that it begins to rest. */
  readonly onRest: (why: string) => void
}

export function createRedisLink({ nowMs, random, onUp, onRest, ...options }: LinkDeps): RedisLink {
  // Invariant: of `connection`, an attempt and `resting` there is one at a time, and none after the end.
  const breaker = createBreaker(random)
  let connection: RedisConnection | undefined
  let resting: NodeJS.Timeout | undefined
  let madeAtMs = 0
  let brief = 0
  const ending = new AbortController()

  async function connect(): Promise<void> {
    resting = undefined
    // Timers may fire early.
    if (!breaker.enter(nowMs())) return rest()
    let made: RedisConnection | undefined
    // Between its end of the greeting and ours nobody holds it yet.
    let lostAtOnce: string | undefined
    const onLost = (why: string): void => {
      if (made) broken(made, why)
      else lostAtOnce = why
    }
    try {
      made = await openRedis({ ...options, signal: ending.signal, onLost })
    } catch (error) {
      if (ending.signal.aborted) return
      breaker.open(nowMs())
      onRest((error as Error).message)
      return rest()
    }
    if (ending.signal.aborted) return made.drop()
    connection = made
    madeAtMs = nowMs()
    breaker.succeeded(nowMs())
    onUp()
    if (lostAtOnce !== undefined) broken(made, lostAtOnce)
  }

  function rest(): void {
    resting = setTimeout(connect, breaker.restMs(nowMs()))
  }

  /** Made again at once, unless that happens often. Redis may close a connection after years, or because it was idle. */
  function broken(on: RedisConnection, why: string): void {
    on.drop()
    if (on !== connection) return
    connection = undefined
    brief = nowMs() - madeAtMs < LASTED_MS ? brief + 1 : 0
    if (brief < BRIEF_MAX) return void connect()
    brief = 0
    breaker.open(nowMs())
    onRest(why)
    rest()
  }

  void connect()

  return {
    connection: () => connection,
    state: () => (connection ? 'connected' : resting ? 'resting' : 'connecting'),
    answered(on) {
      if (on === connection) breaker.succeeded(nowMs())
    },
    failed(on, why) {
      if (on !== connection) return
      breaker.failed(nowMs())
      if (breaker.state() !== 'open') return
      connection = undefined
      on.drop()
      onRest(why)
      rest()
    },
    broken,
    close() {
      ending.abort()
      clearTimeout(resting)
      resting = undefined
      const last = connection
      connection = undefined
      return last
    },
  }
}
