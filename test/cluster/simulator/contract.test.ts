// The recorded exchanges of a real vLLM 0.32, asked of the simulator again: status, error bodies, member names, their
// order and their nulls must be the same, for answers and for every kind of chunk.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { eventsOf, startPod } from './pod.ts'

type Exchange = {
  readonly name: string
  readonly request: {
    readonly method: string
    readonly path: string
    readonly headers: Record<string, string>
    readonly body?: unknown
    readonly rawBody?: string
  }
  readonly response: {
    readonly status: number
    readonly headers: Record<string, string>
    readonly json?: unknown
    readonly text?: string
    readonly stream?: string
  }
}

const exchanges: readonly Exchange[] = JSON.parse(
  readFileSync(new URL('../../fixtures/vllm/http-surface.json', import.meta.url), 'utf8'),
)

/** Members whose values clients branch on. */
const TELLING = new Set(['object', 'role', 'type', 'finish_reason', 'stop_reason', 'index', 'owned_by', 'version'])

/** What a client can rely on: names in their order, nulls, types, and the telling values. */
function shapeOf(value: unknown, name = ''): unknown {
  if (Array.isArray(value))
    return value.length > 0 && typeof value[0] !== 'object' ? ['…'] : value.map((one) => shapeOf(one))
  if (typeof value === 'object' && value !== null) {
    return Object.entries(value).map(([member, inner]) => [member, shapeOf(inner, member)])
  }
  return value === null || TELLING.has(name) ? value : typeof value
}

/** Long inputs are recorded as what to repeat how often. */
function revive(_: string, value: unknown): unknown {
  const { repeat, times } = (value ?? {}) as { readonly repeat?: unknown; readonly times?: number }
  if (times === undefined) return value
  return typeof repeat === 'string' ? repeat.repeat(times) : new Array(times).fill(repeat)
}

async function ask({ method, path, headers, body, rawBody }: Exchange['request']): Promise<Response> {
  const pod = await startPod({ models: ['tiny-qwen3'], maxModelLen: 8192, blockSize: 32, kvCacheTokens: 1_048_576 })
  const sent = rawBody ?? (body === undefined ? undefined : JSON.stringify(JSON.parse(JSON.stringify(body), revive)))
  return fetch(`${pod.url}${path}`, { method, headers, ...(sent === undefined ? {} : { body: sent }) })
}

function withoutRepeats(shapes: readonly unknown[]): unknown[] {
  return shapes.filter((shape, index) => JSON.stringify(shape) !== JSON.stringify(shapes[index - 1]))
}

const isError = ({ response }: Exchange) => response.status >= 400
const isStream = ({ response }: Exchange) => response.stream !== undefined

async function expectHead(answer: Response, { response }: Exchange): Promise<void> {
  expect(answer.status).toBe(response.status)
  for (const [name, value] of Object.entries(response.headers)) expect(answer.headers.get(name), name).toBe(value)
  expect(answer.headers.get('x-request-id')).toMatch(/^\S+$/)
}

describe('like the real vLLM', () => {
  it.each(exchanges.filter((exchange) => isError(exchange)))('it refuses $name in the same words', async (exchange) => {
    const { request, response } = exchange
    // The number is an id of the built-in vocabulary: the largest 32-bit one is not.
    const known = exchange.name === 'err_token_id_out_of_vocab'
    const sent = known ? { ...request, body: { ...(request.body as object), prompt: [4294967295] } } : request
    const answer = await ask(sent)
    await expectHead(answer, exchange)
    const expected = JSON.stringify(response.json).replaceAll('999999999', '4294967295')
    expect(JSON.stringify(await answer.json())).toBe(expected)
  })

  const answered = exchanges.filter((exchange) => !isError(exchange) && !isStream(exchange))
  it.each(answered)('it answers $name with the same members in the same order', async (exchange) => {
    const { request, response } = exchange
    const answer = await ask(request)
    await expectHead(answer, exchange)
    if (response.json === undefined) expect(await answer.text()).toBe(response.text)
    else expect(shapeOf(await answer.json())).toEqual(shapeOf(response.json))
  })

  it.each(exchanges.filter(isStream))('it streams $name in the same chunks', async (exchange) => {
    const { request, response } = exchange
    const answer = await ask(request)
    await expectHead(answer, exchange)
    const shapes = (stream: string) =>
      eventsOf(stream).map((data) => (data === '[DONE]' ? data : shapeOf(JSON.parse(data))))
    const [seen, recorded] = [shapes(await answer.text()), shapes(response.stream ?? '')]
    switch (request.path) {
      case '/v1/completions':
        // The recorded one was read slowly: vLLM put all its tokens into the last chunk.
        return expect(seen.slice(-recorded.length)).toEqual(recorded)
      case '/v1/responses':
        // Tokens that end in the middle of a character have no delta.
        return expect(withoutRepeats(seen)).toEqual(withoutRepeats(recorded))
      default:
        return expect(seen).toEqual(recorded)
    }
  })
})
