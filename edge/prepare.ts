// From the body that a caller sends to the bytes that go on: canonical, without engine controls, salted for the tenant,
// and with usage asked for.
import { BODY_BYTES_MAX, bodyTooLarge, readBody, serialiseBody } from '../shared/canonical-body.ts'
import { DIALECTS, type Dialect } from '../shared/dialect.ts'
import { CALLER_FORBIDDEN_MEMBERS } from '../shared/engine-controls.ts'
import type { Rejection, RejectionReason } from '../shared/rejection.ts'
import { readStreamWish } from '../shared/stream-wish.ts'
import { readAtMost } from './bytes.ts'

export type Prepared = {
  ok: true
  bytes: Uint8Array
  /** What the bytes are made of: name → canonical JSON text. */
  members: ReadonlyMap<string, string>
  model: string
  stream: boolean
  /** Whether the stream's usage event is ours alone: the caller did not ask for it. */
  withholdUsage: boolean
}
export type Unprepared = { ok: false; rejection: Rejection }

/** As long as the router waits for the same bytes. */
const BODY_TIMEOUT_MS = 60_000

/** Reads and checks the body of a request for an engine, and makes the one to forward. */
export async function prepareBody(
  request: Request,
  dialect: Dialect,
  cacheSalt: string,
): Promise<Prepared | Unprepared> {
  const wrongType = refuseMediaType(request.headers)
  if (wrongType) return wrongType
  if (Number(request.headers.get('content-length')) > BODY_BYTES_MAX) return bodyTooLarge()
  const read = await readAtMost(request.body, BODY_BYTES_MAX, BODY_TIMEOUT_MS)
  if (read === 'too-large') return bodyTooLarge()
  if (read === 'late') {
    return refuse('request-timeout', `the body did not arrive within ${BODY_TIMEOUT_MS / 1000} s`)
  }
  if (read === 'lost') return refuse('invalid-body', 'the body ended early')
  const body = readBody(read)
  if (!body.ok) return body

  const { members } = body
  const model = textOf(members.get('model'))
  if (!model) return refuse('invalid-body', 'model must be the name of a model', 'model')
  const wish = readStreamWish(dialect, members.get('stream'), members.get('stream_options'))
  if (!wish.ok) return wish
  const { salted, forbidden } = DIALECTS[dialect]
  for (const name of [...CALLER_FORBIDDEN_MEMBERS, ...forbidden]) members.delete(name)
  if (salted) members.set('cache_salt', JSON.stringify(cacheSalt))
  if (wish.askUsageBy !== undefined) members.set('stream_options', wish.askUsageBy)
  const bytes = new TextEncoder().encode(serialiseBody(members))
  return { ok: true, bytes, members, model, stream: wish.stream, withholdUsage: wish.askUsageBy !== undefined }
}

function refuseMediaType(headers: Headers): Unprepared | undefined {
  const [mediaType = ''] = (headers.get('content-type') ?? '').split(';')
  if (mediaType.trim().toLowerCase() !== 'application/json') {
    return refuse('unsupported-media-type', 'the body must be JSON: send content-type: application/json')
  }
  const encoding = headers.get('content-encoding') ?? 'identity'
  if (encoding.toLowerCase() !== 'identity') {
    return refuse('unsupported-media-type', 'compressed bodies are not accepted: send it without content-encoding')
  }
  return undefined
}

function textOf(json: string | undefined): string | undefined {
  return json?.startsWith('"') ? JSON.parse(json) : undefined
}

function refuse(reason: RejectionReason, message: string, param?: string): Unprepared {
  return { ok: false, rejection: { reason, message, ...(param !== undefined && { param }) } }
}
