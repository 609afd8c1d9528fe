// Sleep and waking, as the developer routes of vLLM have them.
import { describe, expect, it } from 'vitest'
import { post, startPod, until } from './pod.ts'

const ask = { prompt: [1, 2, 3, 4, 5, 6, 7, 8, 9], max_tokens: 3, ignore_eos: true }

async function say(pod: { readonly url: string }, path: string): Promise<unknown> {
  const answer = await post(pod, path, undefined)
  return answer.json()
}

describe('a pod that sleeps', () => {
  it('takes requests and answers them once it is awake again; its cache is gone by then', async () => {
    const pod = await startPod({ blockSize: 4 })
    await (await post(pod, '/v1/completions', ask)).text()
    expect(pod.stats().cachedBlocks).toBe(2)
    expect(await say(pod, '/sleep?level=1')).toEqual({ status: 'sleeping', level: 1 })
    expect(await (await fetch(`${pod.url}/is_sleeping`)).json()).toEqual({ is_sleeping: true })
    expect((await fetch(`${pod.url}/health`)).status).toBe(200)
    const steps = pod.stats().steps
    const asked = post(pod, '/v1/completions', ask)
    await until(() => pod.stats().waiting === 1)
    const page = await (await fetch(`${pod.url}/metrics`)).text()
    expect(page).toContain('sleep_state="awake"} 0.0')
    expect(page).toContain('sleep_state="weights_offloaded"} 1.0')
    expect(pod.stats()).toMatchObject({ steps, cachedBlocks: 0 })
    expect(await say(pod, '/wake_up?tags=weights')).toEqual({ status: 'sleeping', tags: ['weights'] })
    expect(await say(pod, '/wake_up')).toEqual({ status: 'awake', tags: null })
    const { usage } = (await (await asked).json()) as { usage: { prompt_tokens_details: { cached_tokens: number } } }
    expect(usage.prompt_tokens_details.cached_tokens).toBe(0)
    expect(await (await fetch(`${pod.url}/is_sleeping`)).json()).toEqual({ is_sleeping: false })
  })

  it('ends what is in flight, and says so to whoever asked', async () => {
    const pod = await startPod({ speed: 1 })
    const answer = await post(pod, '/v1/completions', { ...ask, max_tokens: 10_000, stream: true })
    await until(() => pod.stats().running === 1)
    await say(pod, '/sleep?level=0')
    const stream = await answer.text()
    expect(stream).toContain('"finish_reason":"abort"')
    expect(stream.trimEnd().endsWith('data: [DONE]')).toBe(true)
    const page = await (await fetch(`${pod.url}/metrics`)).text()
    expect(page).toMatch(/request_success_total\{engine="0",finished_reason="abort".*\} 1\.0/)
  })

  it('computes what is in flight to its end first, where it is told to wait', async () => {
    const pod = await startPod({ speed: 1 })
    const answer = await post(pod, '/v1/completions', { ...ask, max_tokens: 20, stream: true })
    await until(() => pod.stats().running === 1)
    const sleeping = say(pod, '/sleep?level=1&mode=wait')
    expect(await answer.text()).toContain('"finish_reason":"length"')
    expect(await sleeping).toEqual({ status: 'sleeping', level: 1 })
  })

  it('goes on where it was, if what is in flight was kept', async () => {
    const pod = await startPod({ speed: 1 })
    const answer = await post(pod, '/v1/completions', { ...ask, max_tokens: 20, stream: true })
    await until(() => pod.stats().running === 1)
    await say(pod, '/sleep?level=2&mode=keep')
    const { steps } = pod.stats()
    await (await fetch(`${pod.url}/metrics`)).text()
    expect(pod.stats().steps - steps).toBeLessThanOrEqual(1)
    await say(pod, '/wake_up')
    expect((await answer.text()).match(/"text":/g)).toHaveLength(20)
  })

  it.each(['level=3', 'level=-1', 'level=x', 'mode=never'])('refuses %s', async (query) => {
    const pod = await startPod()
    const answer = await post(pod, `/sleep?${query}`, undefined)
    expect(answer.status).toBe(400)
    expect(await answer.json()).toMatchObject({ error: { param: `query.${query.split('=')[0]}` } })
  })
})
