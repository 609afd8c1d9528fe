// A caller with a key and a router that answers what a test wants, around the real Worker.
import { env, exports } from 'cloudflare:workers'
import { vi } from 'vitest'
import { type KeyRecord, keyDigest, keyRecordName, mintApiKey } from '../../shared/api-key.ts'

export const CHAT = '/v1/chat/completions'

/** What reached the router. */
export type Arrived = { readonly url: string; readonly request: Request; readonly body: string }

/** Stores a fresh key with the given record and answers it. */
export async function storedKey(record: Partial<KeyRecord> = {}): Promise<string> {
  const key = mintApiKey((count) => crypto.getRandomValues(new Uint8Array(count)))
  const full: KeyRecord = { tenant: 'acme', createdAt: '2026-11-01T00:00:00Z', ...record }
  await env.KEYS.put(keyRecordName(await keyDigest(env.KEY_PEPPER, key)), JSON.stringify(full))
  return key
}

/** Stands in for the router. Answers are made inside the call: a Response belongs to the request it was made in. */
export function fakeRouter(answer: (arrived: Arrived) => Response | Promise<Response>): Arrived[] {
  const arrived: Arrived[] = []
  vi.spyOn(globalThis, 'fetch').mockImplementation(async (input, init) => {
    const request = new Request(input as string, init as RequestInit)
    const one = { url: request.url, request, body: await request.clone().text() }
    arrived.push(one)
    return answer(one)
  })
  return arrived
}

export function call(path: string, init: RequestInit = {}): Promise<Response> {
  return exports.default.fetch(new Request(`https://edge.example${path}`, init))
}

/** Posts a chat as OpenAI's clients do. */
export function chat(key: string, body: string | object, headers: Record<string, string> = {}): Promise<Response> {
  return post(CHAT, key, body, headers)
}

export function post(
  path: string,
  key: string,
  body: string | object,
  headers: Record<string, string> = {},
): Promise<Response> {
  return call(path, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })
}

export function sse(...data: string[]): string {
  return data.map((one) => `data: ${one}\n\n`).join('')
}

/** An event stream that sends the chunks and then ends, or breaks. */
export function streamed(chunks: readonly string[], end: 'close' | 'break' = 'close'): Response {
  const encoder = new TextEncoder()
  const left = [...chunks]
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      const chunk = left.shift()
      if (chunk !== undefined) controller.enqueue(encoder.encode(chunk))
      else if (end === 'close') controller.close()
      else controller.error(new Error('connection lost'))
    },
  })
  return new Response(body, { headers: { 'content-type': 'text/event-stream' } })
}
