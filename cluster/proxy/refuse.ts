// Refusals and small answers of the router's door, and what it reads of a request's head.
import type { IncomingMessage, ServerResponse } from 'node:http'
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { errorShapeOf } from '../../shared/dialect.ts'
import { type Rejection, rejectionToHttp } from '../../shared/rejection.ts'

export const DRAINING: Rejection = {
  reason: 'draining',
  message: 'This router is shutting down.',
  retryAfterSeconds: 1,
}

export function refuseMethod(req: IncomingMessage, res: ServerResponse, allow: string): void {
  res.setHeader('allow', allow)
  const message = `${req.method} is not allowed on ${pathOf(req)}; use ${allow}.`
  refuse(res, pathOf(req), { reason: 'method-not-allowed', message })
}

export function refuse(res: ServerResponse, path: string, rejection: Rejection): { readonly status: number } {
  const { status, headers, body } = rejectionToHttp(rejection, errorShapeOf(path))
  for (const [name, value] of Object.entries(headers)) res.setHeader(name, value)
  res.setHeader('content-length', Buffer.byteLength(body))
  res.writeHead(status)
  res.end(body)
  return { status }
}

/** A peer that was told off may never close its half of the connection. */
export const LINGER_MS = 1_000

/** Something that is not HTTP, or that came too slowly: there is no request to answer, only a socket. */
export function refuseUnreadable(error: NodeJS.ErrnoException, connection: Duplex): void {
  // An answer is, or was, under way there: what is written now would stand in the middle of it.
  if (!connection.writable || (connection as Socket).bytesWritten > 0) {
    connection.destroy()
    return
  }
  const { status, headers, body } = rejectionToHttp(unreadable(error), 'openai')
  const lines = Object.entries({ ...headers, 'content-length': String(Buffer.byteLength(body)), connection: 'close' })
  const head = lines.map(([name, value]) => `${name}: ${value}`).join('\r\n')
  connection.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${head}\r\n\r\n${body}`)
  setTimeout(() => connection.destroy(), LINGER_MS).unref()
}

export function unreadable({ code }: NodeJS.ErrnoException): Rejection {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return { reason: 'request-timeout', message: 'The request did not arrive in time.' }
  if (code === 'HPE_HEADER_OVERFLOW')
    return { reason: 'headers-too-large', message: 'The headers are larger than 16 KB.' }
  return { reason: 'invalid-header', message: 'The request is not valid HTTP.' }
}

export function sendJson(res: ServerResponse, status: number, value: unknown): void {
  const body = JSON.stringify(value)
  res.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) })
  res.end(body)
}

export function pathOf(req: IncomingMessage): string {
  const url = req.url ?? '/'
  const query = url.indexOf('?')
  return query === -1 ? url : url.slice(0, query)
}

export function headerOf(req: IncomingMessage, name: string): string | undefined {
  const value = req.headers[name]
  return typeof value === 'string' ? value : undefined
}
