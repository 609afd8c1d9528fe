// The stream to the caller when something goes wrong, without a Worker around it.
import { expect, it } from 'vitest'
import { type MeterOptions, meter } from '../../edge/meter.ts'
import { eventTap, plainTap, type Tap } from '../../edge/tap.ts'
import { SSE_EVENT_BYTES_MAX } from '../../shared/sse.ts'

const encoder = new TextEncoder()
const HOUR_MS = 3_600_000

function setUp(tap: Tap, options: Partial<MeterOptions> = {}) {
  let source: ReadableStreamDefaultController<Uint8Array> | undefined
  let cancelled = false
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      source = controller
    },
    cancel() {
      cancelled = true
    },
  })
  const upstream = new AbortController()
  const settled: string[] = []
  const out = meter(body, {
    tap,
    idleTimeoutMs: HOUR_MS,
    upstream,
    caller: new AbortController().signal,
    settle: (outcome) => settled.push(outcome),
    ...options,
  })
  return {
    out,
    settled,
    upstream: upstream.signal,
    send: (text: string) => source?.enqueue(encoder.encode(text)),
    close: () => source?.close(),
    break: () => source?.error(new Error('reset')),
    wasCancelled: () => cancelled,
  }
}

const CHUNK = 'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
const DONE = 'data: [DONE]\n\n'

it('cancels the upstream when the caller leaves', async () => {
  const world = setUp(eventTap('openai', false))
  world.send(CHUNK)
  const reader = world.out.getReader()
  await reader.read()
  const pending = reader.read()
  await reader.cancel()
  await pending
  expect(world.upstream.aborted).toBe(true)
  expect(world.wasCancelled()).toBe(true)
  expect(world.settled).toEqual(['client_abort'])
})

it('calls an answer complete whose caller leaves after the terminal event', async () => {
  const world = setUp(eventTap('openai', false))
  world.send(CHUNK + DONE)
  const reader = world.out.getReader()
  await reader.read()
  await reader.cancel()
  expect(world.settled).toEqual(['complete'])
})

it('calls an answer complete whose upstream breaks after the terminal event', async () => {
  const world = setUp(eventTap('openai', false))
  world.send(CHUNK + DONE)
  const reader = world.out.getReader()
  await reader.read()
  world.break()
  expect((await reader.read()).done).toBe(true)
  expect(world.settled).toEqual(['complete'])
})

it('gives up on an upstream that falls silent', async () => {
  const world = setUp(eventTap('openai', false), { idleTimeoutMs: 5 })
  world.send(CHUNK)
  const text = await new Response(world.out).text()
  expect(text).toMatch(/^data: .*\n\ndata: .*"code":"upstream_lost".*\n\n$/)
  expect(world.upstream.aborted).toBe(true)
  expect(world.settled).toEqual(['upstream_idle'])
})

it('gives up on an event that is too large', async () => {
  const world = setUp(eventTap('openai', false))
  world.send(CHUNK)
  world.send(`data: ${'x'.repeat(SSE_EVENT_BYTES_MAX)}`)
  const text = await new Response(world.out).text()
  expect(text).toContain('"code":"upstream_lost"')
  expect(world.upstream.aborted).toBe(true)
  expect(world.settled).toEqual(['upstream_event_too_large'])
})

it('tells of a failure in Anthropic’s shape where that is spoken', async () => {
  const world = setUp(eventTap('anthropic', false))
  world.close()
  expect(await new Response(world.out).text()).toMatch(/^event: error\n/)
})

it('tells of a failure in a named event where events are named', async () => {
  const world = setUp(eventTap('responses', false))
  world.close()
  const text = await new Response(world.out).text()
  expect(text).toMatch(/^event: error\ndata: .*\n\n$/)
  expect(JSON.parse(text.slice(text.indexOf('{')))).toMatchObject({
    type: 'error',
    code: 'upstream_truncated',
    error: { code: 'upstream_truncated' },
  })
})

it('breaks off a plain answer that breaks', async () => {
  const world = setUp(plainTap('openai'))
  world.send('{"cho')
  const reader = world.out.getReader()
  await reader.read()
  world.break()
  await expect(reader.read()).rejects.toThrow('lost')
  expect(world.settled).toEqual(['upstream_lost'])
})

it('keeps usage that comes with text, even from a caller who did not ask', async () => {
  const continuous = 'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
  const world = setUp(eventTap('openai', true))
  world.send(continuous + DONE)
  world.close()
  expect(await new Response(world.out).text()).toBe(continuous + DONE)
})
