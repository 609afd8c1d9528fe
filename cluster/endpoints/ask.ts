// One small question to an engine, beside the requests of callers: answered in time and of a bounded size, or not at all.
import type { Connections } from './connections.ts'
import type { EndpointId } from './endpoint.ts'
import { readBounded } from './read-bounded.ts'

export type Question = { readonly path: string; readonly body?: string | Buffer }

/** Undefined when it gave no answer in time, or one that is larger than `bytesMax`. Never rejects. */
export async function askEngine(
  connections: Connections,
  id: EndpointId,
  { path, body }: Question,
  { timeoutMs, bytesMax }: { readonly timeoutMs: number; readonly bytesMax: number },
): Promise<{ readonly status: number; readonly body: Buffer } | undefined> {
  try {
    const answer = await connections.to(id).request({
      method: body === undefined ? 'GET' : 'POST',
      path,
      headers: { ...connections.headersFor(id), ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      body: body ?? null,
      signal: AbortSignal.timeout(timeoutMs),
    })
    const read = await readBounded(answer.body, bytesMax)
    return read && { status: answer.statusCode, body: read }
  } catch {
    return undefined
  }
}
