// Listening and stopping, for every server of the program.
import type { Server } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { UserError } from './user-error.ts'

/** Resolves with the port, which the system chose if 0 was asked for. A taken port is a UserError that names the flag. */
export function listen(server: Server, host: string, port: number, what: string, flag: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => reject(new UserError(reason(error, host, port, what, flag))))
    server.listen(port, host, () => resolve((server.address() as AddressInfo).port))
  })
}

function reason(error: NodeJS.ErrnoException, host: string, port: number, what: string, flag: string): string {
  if (error.code === 'EADDRINUSE') {
    return `${what} cannot listen on ${host}:${port}: the port is taken. Stop what listens there, or choose another with ${flag}`
  }
  if (error.code === 'EACCES') return `${what} may not listen on ${host}:${port}: choose a port above 1023 with ${flag}`
  if (error.code === 'EADDRNOTAVAIL') return `${what} cannot listen on ${host}: this machine has no such address`
  return `${what} cannot listen on ${host}:${port}: ${error.message}`
}

const IDLE_CHECK_MS = 100

/**
 * What stops a server: no new connections, answers under way may finish for at most `graceMs`, then what is left is cut.
 * Made before the server listens, because it has to know the connections on which nothing was ever asked.
 */
export function stopper(server: Server): (graceMs: number) => Promise<void> {
  // A load balancer's spare connection is neither idle nor active to Node: it would hold the server for all of graceMs.
  const unused = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    unused.add(socket)
    socket.once('close', () => unused.delete(socket))
  })
  server.on('request', (req) => unused.delete(req.socket))
  return (graceMs) =>
    new Promise((resolve) => {
      // A kept connection whose answer ends after close() would stay open until its idle timeout.
      const sweep = setInterval(() => server.closeIdleConnections(), IDLE_CHECK_MS)
      const cut = setTimeout(() => server.closeAllConnections(), graceMs)
      server.close(() => {
        clearInterval(sweep)
        clearTimeout(cut)
        resolve()
      })
      server.closeIdleConnections()
      for (const socket of unused) socket.destroy()
    })
}
