// The end of a pod as SIGTERM brings it about, and the limits of its queue: as a real vLLM 0.32 was seen to have them.
import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { post, startPod, until } from './pod.ts'

const ask = { prompt: [1, 2, 3], max_tokens: 5_000, ignore_eos: true, stream: true }

describe('a pod that is told to end', () => {
  it('closes its port at once, and leaves streams open and silent: their callers need a time-out of their own', async () => {
    const pod = await startPod({ speed: 1 })
    const client = new AbortController()
    const stream = await post(pod, '/v1/completions', ask, { signal: client.signal })
    const reader = stream.body?.getReader()
    await reader?.read()
    const ended = pod.terminate(0)
    await expect(fetch(`${pod.url}/health`)).rejects.toThrow()
    // What was on its way arrives; then nothing does.
    const silent = (async () => {
      for (;;) {
        const next = await Promise.race([reader?.read(), delay(200, 'silence')])
        if (next === 'silence') return next
        expect(next).not.toMatchObject({ done: true })
      }
    })()
    expect(await silent).toBe('silence')
    client.abort()
    await ended
  })

  it('finishes what is in flight where it has time, and ends at once what comes meanwhile', async () => {
    const pod = await startPod({ speed: 1 })
    const stream = await post(pod, '/v1/completions', { ...ask, max_tokens: 30 })
    await until(() => pod.stats().running === 1)
    const ended = pod.terminate(10_000)
    const late = await post(pod, '/v1/completions', { ...ask, stream: false })
    expect(late.status).toBe(200)
    expect(await late.json()).toMatchObject({ choices: [{ finish_reason: 'abort', text: '' }] })
    expect(await stream.text()).toContain('"finish_reason":"length"')
    await ended
    await expect(fetch(`${pod.url}/health`)).rejects.toThrow()
  })
})

describe('a full queue', () => {
  it('refuses in vLLM’s words and dialects, counts it, and goes on with the rest', async () => {
    const pod = await startPod({ speed: 1, maxNumQueuedReqs: 1 })
    const client = new AbortController()
    await post(pod, '/v1/completions', ask, { signal: client.signal })
    await until(() => pod.stats().running === 1)
    const message =
      'The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.'
    const chat = { messages: [{ role: 'user', content: 'hi' }], max_tokens: 1 }
    for (const [path, body] of [
      ['/v1/chat/completions', chat],
      ['/v1/completions', { ...ask, stream: true }],
      ['/v1/responses', { input: 'hi' }],
    ] as const) {
      const refused = await post(pod, path, body)
      expect(refused.status).toBe(503)
      expect(await refused.json()).toEqual({ error: { message, type: 'Service Unavailable', param: null, code: 503 } })
    }
    const messages = await post(pod, '/v1/messages', { ...chat, model: 'sim-8b' })
    expect(await messages.json()).toEqual({ type: 'error', error: { type: 'Service Unavailable', message } })
    expect((await post(pod, '/tokenize', { prompt: 'hi' })).status).toBe(200)
    const page = await (await fetch(`${pod.url}/metrics`)).text()
    expect(page).toContain('vllm:admission_rejections_total{model_name="sim-8b",reason="max_num_queued_reqs"} 4.0')
    client.abort()
    await until(() => pod.stats().running === 0)
    expect((await post(pod, '/v1/chat/completions', chat)).status).toBe(200)
  })

  it('of prompt tokens refuses until they have their first token', async () => {
    const pod = await startPod({ speed: 1, maxNumQueuedTokens: 3 })
    pod.faults.set({ hang: true })
    const client = new AbortController()
    const first = post(pod, '/v1/completions', ask, { signal: client.signal })
    await until(() => pod.stats().waiting === 1)
    const refused = await post(pod, '/v1/completions', ask)
    expect(await refused.json()).toMatchObject({ error: { message: expect.stringContaining('prefill token backlog') } })
    pod.faults.set({})
    await (await first).body?.getReader().read()
    await until(() => pod.stats().running === 1)
    expect((await post(pod, '/v1/completions', { ...ask, max_tokens: 1 })).status).toBe(200)
    client.abort()
  })
})
