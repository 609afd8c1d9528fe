// One connection to a Redis, over ioredis, from the greeting to its loss. It is never made again: what was sent on it is
// settled with it, so a late answer has nobody that it could be taken for.
import { randomUUID } from 'node:crypto'
import net from 'node:net'
import tls from 'node:tls'
import { AbstractConnector, Redis } from 'ioredis'
import { ReplyGate } from './redis-replies.ts'
import type { RedisTarget } from './redis-url.ts'

/** From the first packet to the end of the greeting. */
const CONNECT_WITHIN_MS = 2_000
/** A Redis may close a connection that says nothing; a firewall forgets one without a word. */
const KEEP_ALIVE_MS = 30_000
const READ_BUFFER_BYTES = 64 * 1024
const NOT_ASKED = 'it answers what it was not asked'

export type RedisConnection = {
  /** Rejects with a RedisFault. */
  readonly get: (key: Buffer) => Promise<Buffer | null>
  /** Resolves when Redis says that it is saved. Rejects with a RedisFault. */
  readonly set: (key: Buffer, value: Buffer, ttlMs: number) => Promise<void>
  /** At once; what is under way is rejected. */
  readonly drop: () => void
  /** Resolves when Redis has answered what is under way and closed. It may never. */
  readonly quit: () => Promise<void>
}

export type ConnectOptions = {
  readonly target: RedisTarget
  readonly valueBytesMax: number
  /** A key that begins so is looked up at the end of the greeting. */
  readonly keyPrefix: string
  /** What takes longer to answer that is not connected to. */
  readonly probeWithinMs: number
  /** Ends an attempt; what is established is parted with by other means. */
  readonly signal: AbortSignal
  /** Once, in words, when an established connection is gone; not after drop() or quit(). */
  readonly onLost: (why: string) => void
}

/** Its message is our own words: what Redis says may repeat a command, and with it a password. */
export class RedisFault extends Error {
  /** It refused this one command; the connection is whole. */
  readonly refused: boolean

  constructor(words: string, refused = false) {
    super(words)
    this.refused = refused
  }
}

/** Connects and greets in bounded time. Rejects with a RedisFault, and then leaves nothing behind. */
export async function openRedis(options: ConnectOptions): Promise<RedisConnection> {
  const { target, valueBytesMax, keyPrefix, probeWithinMs, signal, onLost } = options
  const gate = new ReplyGate(valueBytesMax)
  const gone = Promise.withResolvers<never>()
  // Somebody may listen, or nobody.
  gone.promise.catch(() => {})
  let established = false
  let over = false

  function lose(why: string): void {
    if (over) return
    over = true
    redis.disconnect()
    gone.reject(new RedisFault(why))
    if (established) onLost(why)
  }

  const redis = new Redis({
    Connector: connectorOf(target, gate, lose),
    ...(target.tls && { tls: {} }),
    lazyConnect: true,
    protocol: 2,
    // The greeting is ours: ioredis prints to the console what it does not like about a password, and asks for INFO,
    // which a user of few rights may not.
    enableReadyCheck: false,
    disableClientInfo: true,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    autoResubscribe: false,
    retryStrategy: null,
    maxRetriesPerRequest: null,
    connectTimeout: CONNECT_WITHIN_MS,
    keepAlive: KEEP_ALIVE_MS,
  })
  redis.on('error', (error) => lose(wordsOf(error)))
  redis.on('close', () => lose('it closed the connection'))

  async function send<T>(command: () => Promise<T>): Promise<T> {
    if (over) throw new RedisFault('the connection is gone')
    gate.expect()
    try {
      return await command()
    } catch (error) {
      throw isReply(error) ? new RedisFault(wordsOf(error), true) : new RedisFault(wordsOf(error))
    }
  }

  async function greet(): Promise<void> {
    await redis.connect()
    const { username, password, database } = target
    const said: Promise<unknown>[] = []
    if (password) said.push(send(() => (username ? redis.auth(username, password) : redis.auth(password))))
    if (database > 0) said.push(send(() => redis.select(database)))
    // In turn, not at once: of several that fail the first tells why.
    for (const reply of await Promise.allSettled(said)) if (reply.status === 'rejected') throw reply.reason
    // A key that nobody has: an answer would be another's.
    const probe = send(() => redis.getBuffer(`${keyPrefix}probe:${randomUUID()}`))
    const reply = await within(probeWithinMs, probe)
    if (reply === 'late') throw new RedisFault(`it took longer than ${probeWithinMs} ms to answer`)
    if (reply !== null) throw reply instanceof RedisFault ? reply : new RedisFault(NOT_ASKED)
  }

  const giveUp = (): void => lose('it is asked for nothing any more')
  signal.addEventListener('abort', giveUp, { once: true })
  const deadline = setTimeout(lose, CONNECT_WITHIN_MS, `no connection within ${CONNECT_WITHIN_MS} ms`)
  try {
    await Promise.race([greet(), gone.promise])
    established = true
  } catch (error) {
    const fault = error instanceof RedisFault ? error : new RedisFault(wordsOf(error))
    lose(fault.message)
    throw fault
  } finally {
    clearTimeout(deadline)
    signal.removeEventListener('abort', giveUp)
  }

  return {
    get: (key) => send(() => redis.getBuffer(key)),
    async set(key, value, ttlMs) {
      const reply = await send(() => redis.set(key, value, 'PX', ttlMs))
      if (reply === 'OK') return
      lose(NOT_ASKED)
      throw new RedisFault(NOT_ASKED)
    },
    drop() {
      over = true
      redis.disconnect()
    },
    async quit() {
      established = false
      await send(() => redis.quit()).catch(() => {})
      over = true
      redis.disconnect()
    },
  }
}

/** What the promise gives, or its RedisFault; `late` when that takes longer. */
export function within<T>(limitMs: number, promise: Promise<T>): Promise<T | RedisFault | 'late'> {
  return new Promise((resolve) => {
    // In the end phase of the same turn: after a pause of this process the timer comes first, and the answer that lies
    // in the socket already is not late.
    const timer = setTimeout(() => setImmediate(resolve, 'late'), limitMs)
    const settle = (outcome: T | RedisFault): void => {
      clearTimeout(timer)
      resolve(outcome)
    }
    promise.then(settle, (error) => settle(error instanceof RedisFault ? error : new RedisFault('the command failed')))
  })
}

/** ioredis' own waits for the other side to close, and hands it every byte that comes. */
function connectorOf(target: RedisTarget, gate: ReplyGate, lose: (why: string) => void) {
  const { host, port } = target
  return class extends AbstractConnector {
    #socket: net.Socket | undefined

    constructor() {
      super(0)
    }

    override async connect(): Promise<net.Socket> {
      const buffer = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES)
      // In place of the stream's own 'data' events: those cannot be kept from whoever listens.
      const callback = (length: number): boolean => {
        // A copy: the values that the library cuts from it outlive it.
        const chunk = Buffer.from(buffer.subarray(0, length))
        const fault = gate.read(chunk)
        if (fault === undefined) socket.emit('data', chunk)
        else lose(fault)
        return fault === undefined
      }
      const options = { host, port, onread: { buffer, callback } }
      const socket: net.Socket = target.tls
        ? tls.connect({ ...options, ...(net.isIP(host) === 0 && { servername: host }) })
        : net.connect(options)
      // The library takes its listener away after the first.
      socket.on('error', () => {})
      this.#socket = socket
      return socket
    }

    override disconnect(): void {
      this.#socket?.destroy()
    }
  }
}

/** What Redis says begins with a word for programs. */
const REPLIES: Readonly<Record<string, string>> = {
  NOAUTH: 'it wants a password',
  WRONGPASS: 'it refuses the password',
  NOPERM: 'it does not permit this user to read and write these keys',
  LOADING: 'it is still loading its data',
  READONLY: 'it is a replica, which only reads',
  OOM: 'its memory is full',
  MISCONF: 'it cannot save to its disk and takes no writes',
  MASTERDOWN: 'it is a replica that has lost its primary',
  BUSY: 'it is busy with a script',
  DENIED: 'it is protected and takes no connections from other machines',
  MOVED: 'it is one node of a Redis Cluster, which is not supported',
  CLUSTERDOWN: 'it is one node of a Redis Cluster, which is not supported',
}

const NETWORK: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nothing listens there',
  ECONNRESET: 'it reset the connection',
  EPIPE: 'it closed the connection',
  ENOTFOUND: 'its host name is not known',
  EAI_AGAIN: 'its host name cannot be looked up now',
  EHOSTUNREACH: 'there is no way to it',
  ENETUNREACH: 'there is no way to it',
  ETIMEDOUT: 'it does not answer',
}

function isReply(error: unknown): error is Error {
  return error instanceof Error && error.name === 'ReplyError'
}

function wordsOf(error: unknown): string {
  const { message = '', code } = error as { readonly message?: string; readonly code?: unknown }
  if (isReply(error)) {
    const word = /^[A-Z]+/.exec(message)?.[0] ?? ''
    if (Object.hasOwn(REPLIES, word)) return REPLIES[word] as string
    if (/\bmax number of clients\b/.test(message)) return 'it has too many clients'
    if (/\bDB index\b/.test(message)) return 'it has no database of this number'
    if (/\bno password is set\b|\bwithout any password\b/.test(message))
      return 'it has no password, and the URL has one'
    if (/password/i.test(message)) return 'it refuses the password'
    return 'it answers with an error'
  }
  if (typeof code === 'string') {
    if (Object.hasOwn(NETWORK, code)) return NETWORK[code] as string
    if (/^(ERR_TLS|ERR_SSL|CERT_|UNABLE_TO|SELF_SIGNED|DEPTH_ZERO)/.test(code))
      return `its TLS is not accepted (${code})`
  }
  return 'the connection failed'
}
