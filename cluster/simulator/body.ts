// What the routes of a pod share: a request's body and headers, and a refusal.
import type { IncomingMessage, ServerResponse } from 'node:http'
import { type ApiError, unsupportedMediaType } from './errors.ts'
import { sendFailure, sendJson } from './exchange.ts'
import { reportFault } from './generation.ts'

/** Twice what the edge and the router pass on; more would hold up every pod of the process. */
const BODY_BYTES_MAX = 16 * 1024 * 1024

export function refuse(res: ServerResponse, { status, body }: ApiError): void {
  sendJson(res, status, body)
}

/** Reads a JSON body's text; answers by itself what is no JSON body. */
export function withJson(req: IncomingMessage, res: ServerResponse, use: (text: string) => void): void {
  const chunks: Buffer[] = []
  let length = 0
  req.on('data', (chunk: Buffer) => {
    length += chunk.length
    if (length <= BODY_BYTES_MAX) chunks.push(chunk)
    else chunks.length = 0
  })
  req.on('end', () => {
    if (length > BODY_BYTES_MAX) return sendJson(res, 413, { detail: 'Request Entity Too Large' })
    const mediaType = headerOf(req, 'content-type')?.split(';', 1)[0]?.trim().toLowerCase()
    if (mediaType !== 'application/json') return refuse(res, unsupportedMediaType())
    try {
      use(Buffer.concat(chunks).toString('utf8'))
    } catch (error) {
      // A fault of ours, met by one request: the other requests of the pod, and whoever shares the process, go on.
      reportFault(error)
      sendFailure(res)
    }
  })
  // A client that goes away with half a body said nothing to answer.
  req.on('error', () => undefined)
}

/** The first, where a header came twice. */
export function headerOf(req: IncomingMessage, name: string): string | undefined {
  const value = req.headers[name]
  return Array.isArray(value) ? value[0] : value
}
