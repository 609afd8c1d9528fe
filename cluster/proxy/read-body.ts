// Reads a request's body with a limit, into one buffer.
import type { IncomingMessage } from 'node:http'
import type { Rejection } from '../../shared/rejection.ts'

export type BodyRead =
  | { readonly ok: true; readonly body: Buffer }
  | { readonly ok: false; readonly rejection: Rejection }

/** Calls `done` once; not at all when the caller leaves in the middle. */
export function readBody(req: IncomingMessage, bytesMax: number, done: (read: BodyRead) => void): void {
  const length = req.headers['content-length']
  if (length !== undefined && Number(length) > bytesMax) {
    done(tooLarge(bytesMax))
    return
  }
  // One allocation when the length is known: joining pieces at the end would copy everything once more.
  let body = Buffer.allocUnsafe(length === undefined ? 64 * 1024 : Number(length))
  let bytes = 0
  let over = false
  req.on('data', (chunk: Buffer) => {
    if (over) return
    if (bytes + chunk.length > bytesMax) {
      over = true
      done(tooLarge(bytesMax))
      return
    }
    if (bytes + chunk.length > body.length) {
      const larger = Buffer.allocUnsafe(Math.min(bytesMax, Math.max(body.length * 2, bytes + chunk.length)))
      body.copy(larger, 0, 0, bytes)
      body = larger
    }
    chunk.copy(body, bytes)
    bytes += chunk.length
  })
  req.on('end', () => {
    if (!over) done({ ok: true, body: body.subarray(0, bytes) })
  })
}

function tooLarge(bytesMax: number): BodyRead {
  const message = `The request body is larger than ${bytesMax} bytes.`
  return { ok: false, rejection: { reason: 'body-too-large', message } }
}
