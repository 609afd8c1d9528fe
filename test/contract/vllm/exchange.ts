// One request to a pod and its whole answer, as the recordings hold them.
import { Agent, fetch } from 'undici'
import { eventsOf } from '../../cluster/simulator/pod.ts'

export type Asked = {
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body?: unknown
  /** Sent as it stands, where the body is no JSON. */
  readonly rawBody?: string
}

export type Answer = {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  /** One of three, by what the answer is. */
  readonly json?: unknown
  readonly text?: string
  readonly stream?: string
}

export type Exchange = { readonly name: string; readonly request: Asked; readonly response: Answer }

/** What vLLM says of itself and clients act on; the rest is of the connection or of the moment. */
const HEADERS = ['server', 'content-type', 'vary', 'allow', 'endpoint-load-metrics', 'x-request-id']
const EXCHANGE_TIMEOUT_MS = 60_000
/** A connection for each request: one that is kept may be closed by the server just when it is used again. */
const CONNECTIONS = new Agent({ pipelining: 0 })

/** Long inputs are recorded as what to repeat how often. */
function revive(_: string, value: unknown): unknown {
  const { repeat, times } = (value ?? {}) as { readonly repeat?: unknown; readonly times?: number }
  if (times === undefined) return value
  return typeof repeat === 'string' ? repeat.repeat(times) : new Array(times).fill(repeat)
}

/** Sends a request and reads its answer to the end. */
export async function exchangeWith(url: string, { method, path, headers, body, rawBody }: Asked): Promise<Answer> {
  const sent = rawBody ?? (body === undefined ? undefined : JSON.stringify(JSON.parse(JSON.stringify(body), revive)))
  const answer = await fetch(`${url}${path}`, {
    method,
    headers,
    signal: AbortSignal.timeout(EXCHANGE_TIMEOUT_MS),
    dispatcher: CONNECTIONS,
    ...(sent === undefined ? {} : { body: sent }),
  })
  const told = HEADERS.flatMap((name) => {
    const value = answer.headers.get(name)
    return value === null ? [] : [[name, value] as const]
  })
  const head = { status: answer.status, headers: Object.fromEntries(told) }
  const text = await answer.text()
  const type = answer.headers.get('content-type') ?? ''
  if (type.startsWith('text/event-stream')) return { ...head, stream: text }
  return type === 'application/json' && text !== '' ? { ...head, json: JSON.parse(text) } : { ...head, text }
}

/** The bodies of a stream's events; only the last one of some dialects is no JSON. */
export function streamedBodies(stream: string): unknown[] {
  return eventsOf(stream).map((data) => (data === '[DONE]' ? data : JSON.parse(data)))
}
