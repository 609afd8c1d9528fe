// Recorded exchanges of a real vLLM 0.32, and what of an answer a client can rely on.
import { readFileSync } from 'node:fs'
import { expect } from 'vitest'
import type { SimulatorOptions } from '../../../cluster/simulator/server.ts'
import { startPod } from './pod.ts'

export type Exchange = {
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

export function recordedExchanges(file: string): readonly Exchange[] {
  return JSON.parse(readFileSync(new URL(`../../fixtures/vllm/${file}`, import.meta.url), 'utf8'))
}

export const isError = ({ response }: Exchange) => response.status >= 400
export const isStream = ({ response }: Exchange) => response.stream !== undefined

/** Members whose values clients branch on. */
const TELLING = new Set([
  ...['object', 'role', 'type', 'finish_reason', 'stop_reason', 'index', 'owned_by', 'version', 'status', 'name'],
  ...['tool_choice', 'reason'],
])

/** What a client can rely on: names in their order, nulls, types, and the telling values. */
export function shapeOf(value: unknown, name = ''): unknown {
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

/** Sends a recorded request to a pod that is set as the real server was. */
export async function ask(
  { method, path, headers, body, rawBody }: Exchange['request'],
  options: SimulatorOptions = {},
): Promise<Response> {
  const pod = await startPod({
    models: ['tiny-qwen3'],
    maxModelLen: 8192,
    blockSize: 32,
    kvCacheTokens: 1_048_576,
    ...options,
  })
  const sent = rawBody ?? (body === undefined ? undefined : JSON.stringify(JSON.parse(JSON.stringify(body), revive)))
  return fetch(`${pod.url}${path}`, { method, headers, ...(sent === undefined ? {} : { body: sent }) })
}

export function withoutRepeats(shapes: readonly unknown[]): unknown[] {
  return shapes.filter((shape, index) => JSON.stringify(shape) !== JSON.stringify(shapes[index - 1]))
}

export async function expectHead(answer: Response, { response }: Exchange): Promise<void> {
  expect(answer.status, await answer.clone().text()).toBe(response.status)
  for (const [name, value] of Object.entries(response.headers)) expect(answer.headers.get(name), name).toBe(value)
  expect(answer.headers.get('x-request-id')).toMatch(/^\S+$/)
}
