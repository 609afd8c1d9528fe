// Bytes in, bytes out: what a process in the middle costs before it knows any HTTP.
// Usage: node relay.ts PORT ENGINE_PORT. Ends when its stdin does.
import { connect, createServer, type Socket } from 'node:net'

const [port, enginePort] = process.argv.slice(2).map(Number) as [number, number]

// One buffer for all reads from the engine: a fresh one for each costs more than the copy of what was read.
const readBuffer = Buffer.allocUnsafe(64 * 1024)

createServer({ noDelay: true }, (client) => {
  const engine: Socket = connect({
    port: enginePort,
    host: '127.0.0.1',
    noDelay: true,
    onread: {
      buffer: readBuffer,
      callback: (size, buffer) => client.write(Buffer.from(buffer.subarray(0, size))),
    },
  })
  client.on('data', (data) => {
    if (!engine.write(data)) client.pause()
  })
  engine.on('drain', () => client.resume())
  client.on('drain', () => engine.resume())
  for (const [one, other] of [
    [client, engine],
    [engine, client],
  ] as const) {
    one.on('error', () => one.destroy())
    one.on('close', () => other.destroy())
  }
}).listen(port, '127.0.0.1')

process.stdin.on('end', () => process.exit()).resume()
