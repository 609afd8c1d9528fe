// Reads a request's body into one buffer, with a limit for each and one for all of them together.
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Rejection } from '../../shared/rejection.ts'

export type BodyRead =
  | { readonly ok: true; readonly body: Buffer }
  | { readonly ok: false; readonly rejection: Rejection }

const NOTHING = Buffer.alloc(0)

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
    if (over) return
    const whole = body.subarray(0, bytes)
    // The request and its listeners live as long as the answer streams: they must not hold the prompt.
    body = NOTHING
    done({ ok: true, body: whole })
  })
}

function tooLarge(bytesMax: number): BodyRead {
  const message = `The request body is larger than ${bytesMax} bytes.`
  return { ok: false, rejection: { reason: 'body-too-large', message } }
}

/** How many bytes all bodies may hold that are being read or answered. */
export type BodyBudget = {
  /** Reserves room for a request's body until its answer is over, or says why there is none. */
  readonly enter: (req: IncomingMessage, res: ServerResponse) => Rejection | undefined
}

/** Without it a few callers that send slowly would hold gigabytes before admission ever saw them. */
export function createBodyBudget(bytesMax: number, bodyBytesMax: number): BodyBudget {
  let reserved = 0
  return {
    enter(req, res) {
      const length = req.headers['content-length']
      const bytes = Math.min(bodyBytesMax, length === undefined ? bodyBytesMax : Number(length))
      if (reserved + bytes > bytesMax) {
        const message = `The router holds ${reserved} bytes of requests and has no room for ${bytes} more. Try again later.`
        return { reason: 'overloaded', message, retryAfterSeconds: 1 }
      }
      reserved += bytes
      res.once('close', () => {
        reserved -= bytes
      })
      return undefined
    },
  }
}
