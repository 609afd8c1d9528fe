// A small Redis for tests, on loopback: strings with expiry, RESP2, a strict reader; and every fault that the real one, its
// network or an impostor can show.
import { once } from 'node:events'
import net from 'node:net'
import tls from 'node:tls'

export type RespFault =
  /** Reads and says nothing, as one that was stopped; when the fault is over it says all of it. */
  | { readonly kind: 'stall' }
  | { readonly kind: 'delay'; readonly delayMs: number }
  /** Closes the connection in place of an answer. */
  | { readonly kind: 'close' }
  /** From then on each answer is the one that the command before got. */
  | { readonly kind: 'off-by-one' }
  /** The line without its `-`. */
  | { readonly kind: 'error'; readonly line: string }
  /** Sent in place of an answer, as it is. */
  | { readonly kind: 'bytes'; readonly bytes: Buffer | string }
  /** Sent behind each answer. */
  | { readonly kind: 'more'; readonly bytes: Buffer | string }
  /** A value of this length, or as much of it as the other side takes. */
  | { readonly kind: 'bulk'; readonly length: number }

export type RespServer = {
  readonly port: number
  readonly values: Map<string, { readonly value: Buffer; readonly untilMs: number }>
  /** Commands so far, in capitals, each with its first argument. */
  readonly commands: () => readonly string[]
  readonly connections: () => number
  /** Connections taken so far. */
  readonly accepted: () => number
  /** What it does wrong from now on; with names, only to these commands. Undefined: nothing. */
  readonly fail: (fault: RespFault | undefined, names?: readonly string[]) => void
  /** Closes all connections; a new one is taken. */
  readonly dropAll: () => void
  /** Closes all connections and its port, and opens the port again. */
  readonly stop: () => Promise<void>
  readonly start: () => Promise<void>
}

export type RespServerOptions = {
  readonly username?: string
  readonly password?: string
  readonly databases?: number
  readonly tls?: { readonly key: Buffer; readonly cert: Buffer }
  /** Said to each connection that is made. */
  readonly banner?: string
}

const COMMAND_BYTES_MAX = 4 * 1024 * 1024
const CHUNK = Buffer.alloc(64 * 1024, 'x')

export async function startRespServer(options: RespServerOptions = {}): Promise<RespServer> {
  const values: RespServer['values'] = new Map()
  const commands: string[] = []
  const sockets = new Set<net.Socket>()
  const unstall = new Set<() => void>()
  let fault: RespFault | undefined
  let faulty: readonly string[] | undefined
  let accepted = 0
  let port = 0

  function serve(socket: net.Socket): void {
    accepted++
    sockets.add(socket)
    const session = { authorized: options.password === undefined, database: 0 }
    let unread: Buffer = Buffer.alloc(0)
    let held: Buffer | undefined
    let stalled = false
    const unsaid: (Buffer | string)[] = []
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
    if (options.banner) socket.write(options.banner)
    socket.on('data', (chunk) => {
      unread = Buffer.concat([unread, chunk])
      for (;;) {
        const read = readCommand(unread)
        if (read === undefined) return
        if (read === 'malformed' || unread.length > COMMAND_BYTES_MAX) {
          socket.end('-ERR Protocol error\r\n')
          return
        }
        unread = unread.subarray(read.bytes)
        const [name = '', ...args] = read.words
        commands.push([name.toString().toUpperCase(), args[0]?.toString() ?? ''].join(' ').trim())
        answer(name.toString().toUpperCase(), args)
      }
    })

    /** In turn: a real one never overtakes itself. */
    function say(bytes: Buffer | string, delayMs = 0): void {
      if (delayMs === 0 && !stalled && unsaid.length === 0) {
        socket.write(bytes)
        return
      }
      unsaid.push(bytes)
      if (!stalled) setTimeout(flush, delayMs, 1)
    }

    function flush(count = unsaid.length): void {
      for (const bytes of unsaid.splice(0, count)) if (socket.writable) socket.write(bytes)
    }

    function answer(name: string, args: readonly Buffer[]): void {
      const reply = execute(name, args, session)
      const wrong = faulty === undefined || faulty.includes(name) ? fault : undefined
      if (wrong?.kind === 'stall') stalled = true
      if (wrong === undefined || wrong.kind === 'stall') {
        say(reply)
        if (name === 'QUIT' && !stalled) socket.end()
      } else if (wrong.kind === 'close') socket.destroy()
      else if (wrong.kind === 'delay') say(reply, wrong.delayMs)
      else if (wrong.kind === 'error') say(`-${wrong.line}\r\n`)
      else if (wrong.kind === 'bytes') say(wrong.bytes)
      else if (wrong.kind === 'more') say(Buffer.concat([reply, Buffer.from(wrong.bytes)]))
      else if (wrong.kind === 'bulk') void writeBulk(socket, wrong.length)
      else {
        say(held ?? '$-1\r\n')
        held = reply
      }
    }
    unstall.add(() => {
      if (!stalled) return
      stalled = false
      flush()
    })
  }

  function execute(name: string, args: readonly Buffer[], session: { authorized: boolean; database: number }): Buffer {
    const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = args
    const at = (key: Buffer): string => `${session.database}/${key}`
    if (name === 'HELLO') return error('NOPROTO unsupported protocol version')
    if (name === 'AUTH') {
      if (options.password === undefined) {
        return error('ERR AUTH <password> called without any password configured for the default user.')
      }
      const [user, password] = args.length === 1 ? ['default', first] : [first.toString(), second]
      session.authorized = password.toString() === options.password && user === (options.username ?? 'default')
      return session.authorized ? OK : error('WRONGPASS invalid username-password pair or user is disabled.')
    }
    if (name === 'QUIT') return OK
    if (!session.authorized) return error('NOAUTH Authentication required.')
    switch (name) {
      case 'PING':
        return args.length === 0 ? Buffer.from('+PONG\r\n') : bulk(first)
      case 'CLIENT':
        return OK
      case 'INFO':
        return bulk(Buffer.from('# Persistence\r\nloading:0\r\n'))
      case 'SELECT': {
        const database = Number(first.toString())
        if (!Number.isInteger(database) || database < 0 || database >= (options.databases ?? 16)) {
          return error('ERR DB index is out of range')
        }
        session.database = database
        return OK
      }
      case 'GET': {
        const stored = values.get(at(first))
        if (stored && stored.untilMs > Date.now()) return bulk(stored.value)
        return Buffer.from('$-1\r\n')
      }
      case 'SET': {
        const [unit, time] = [args[2]?.toString().toUpperCase(), Number(args[3])]
        if (args.length !== 2 && !(args.length === 4 && unit === 'PX')) return error('ERR syntax error')
        if (unit && !(Number.isInteger(time) && time > 0)) return error("ERR invalid expire time in 'set' command")
        values.set(at(first), { value: Buffer.from(second), untilMs: unit ? Date.now() + time : Infinity })
        return OK
      }
      default:
        return error(`ERR unknown command '${name}'`)
    }
  }

  const server = options.tls ? tls.createServer(options.tls, serve) : net.createServer(serve)
  server.on('tlsClientError', () => {})

  function dropAll(): void {
    for (const socket of sockets) socket.destroy()
  }

  async function start(): Promise<void> {
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    port = (server.address() as net.AddressInfo).port
  }

  await start()
  return {
    port,
    values,
    commands: () => commands,
    connections: () => sockets.size,
    accepted: () => accepted,
    fail(next, names) {
      fault = next
      faulty = names
      if (next?.kind !== 'stall') for (const go of unstall) go()
    },
    dropAll,
    async stop() {
      if (!server.listening) return
      server.close()
      dropAll()
      await once(server, 'close')
    },
    start,
  }
}

const OK = Buffer.from('+OK\r\n')

function bulk(value: Buffer): Buffer {
  return Buffer.concat([Buffer.from(`$${value.length}\r\n`), value, Buffer.from('\r\n')])
}

function error(line: string): Buffer {
  return Buffer.from(`-${line}\r\n`)
}

async function writeBulk(socket: net.Socket, length: number): Promise<void> {
  socket.write(`$${length}\r\n`)
  for (let left = length; left > 0 && socket.writable; left -= CHUNK.length) {
    if (!socket.write(left < CHUNK.length ? CHUNK.subarray(0, left) : CHUNK)) {
      await Promise.race([once(socket, 'drain'), once(socket, 'close')]).catch(() => {})
    }
  }
  if (socket.writable) socket.write('\r\n')
}

/** One command from the beginning; undefined when it is not whole yet. */
function readCommand(
  bytes: Buffer,
): { readonly words: readonly Buffer[]; readonly bytes: number } | 'malformed' | undefined {
  let at = 0
  function number(mark: string): number | 'malformed' | undefined {
    const end = bytes.indexOf('\r\n', at)
    if (end === -1) return bytes.length - at > 16 ? 'malformed' : undefined
    const [, digits] = /^.(\d{1,9})$/.exec(bytes.toString('latin1', at, end)) ?? []
    if (digits === undefined || bytes[at] !== mark.charCodeAt(0)) return 'malformed'
    at = end + 2
    return Number(digits)
  }
  const count = number('*')
  if (typeof count !== 'number') return count
  if (count === 0) return 'malformed'
  const words: Buffer[] = []
  while (words.length < count) {
    const length = number('$')
    if (typeof length !== 'number') return length
    if (bytes.length < at + length + 2) return undefined
    if (bytes.toString('latin1', at + length, at + length + 2) !== '\r\n') return 'malformed'
    words.push(bytes.subarray(at, at + length))
    at += length + 2
  }
  return { words, bytes: at }
}
