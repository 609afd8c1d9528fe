// GET /v1/responses/{id}?stream=true: the events of a streamed background response, from any of them on. What is expected
// here was seen of a real vLLM 0.32, odd as some of it is.
import OpenAI from 'openai'
import { describe, expect, it } from 'vitest'
import type { Simulator } from '../../../cluster/simulator/server.ts'
import { eventsOf, post, startPod, until } from './pod.ts'

const RESPONSES = '/v1/responses'
const STREAMED = { input: 'x', background: true, stream: true, temperature: 0, ignore_eos: true, request_id: 'r' }

type Event = { readonly type: string; readonly sequence_number: number }

const parsed = (stream: string): readonly Event[] => eventsOf(stream).map((data) => JSON.parse(data))

async function streamed(pod: Simulator, body: object = {}): Promise<readonly Event[]> {
  const answer = await post(pod, RESPONSES, { ...STREAMED, max_output_tokens: 6, ...body })
  return parsed(await answer.text())
}

const follow = (pod: Simulator, query: string) => fetch(`${pod.url}${RESPONSES}/r?${query}`)

async function followed(pod: Simulator, query: string): Promise<readonly Event[]> {
  const answer = await follow(pod, query)
  expect([answer.status, answer.headers.get('content-type')]).toEqual([200, 'text/event-stream; charset=utf-8'])
  return parsed(await answer.text())
}

/** Reads an answer in the background: what came so far, and whether it came to its end. */
function reading(answer: Response): { text: string; ended: boolean } {
  const state = { text: '', ended: false }
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader()
  const read = async () => {
    for (;;) {
      const { done, value } = (await reader?.read()) ?? { done: true }
      if (done) break
      state.text += value
    }
    state.ended = true
  }
  // The pod of a test that is over closes what is still open.
  read().catch(() => undefined)
  return state
}

describe('the official OpenAI client', () => {
  it('takes a background stream up again where it lost it', async () => {
    const pod = await startPod({ responsesStore: true, speed: 2 })
    const client = new OpenAI({ baseURL: `${pod.url}/v1`, apiKey: 'none', maxRetries: 0 })
    const first = await client.responses.create({
      ...{ model: 'sim-8b', input: 'x', max_output_tokens: 300, ignore_eos: true },
      ...{ background: true, stream: true },
    })
    const seen: number[] = []
    let id = ''
    for await (const event of first) {
      seen.push(event.sequence_number)
      if (event.type === 'response.created') id = event.response.id
      if (seen.length === 7) break
    }
    expect(pod.stats().finished).toBe(0)
    const rest = await client.responses.retrieve(id, { stream: true, starting_after: seen.at(-1) ?? 0 })
    let last: string | undefined
    for await (const event of rest) {
      seen.push(event.sequence_number)
      last = event.type
    }
    expect(seen).toEqual([...seen.keys()])
    expect(last).toBe('response.completed')
    expect(pod.stats()).toMatchObject({ finished: 1, aborted: 0 })
  })
})

describe('the events of a background stream', () => {
  it.each<[string, number]>([
    ['stream=true', 0],
    ['stream=1&starting_after=3', 4],
    ['stream=true&starting_after=3.0', 4],
    ['stream=on&starting_after=-1', 0],
    ['stream=true&starting_after=-2', -1],
    ['stream=true&starting_after=-3', -2],
  ])('are sent again for ?%s from number %i on', async (query, from) => {
    const pod = await startPod({ responsesStore: true })
    const events = await streamed(pod)
    expect(events.at(-1)?.type).toBe('response.completed')
    expect(await followed(pod, query)).toEqual(events.slice(from))
  })

  it('reach every reader as they are made, whatever each has seen before', async () => {
    const pod = await startPod({ responsesStore: true, speed: 20 })
    const first = post(pod, RESPONSES, { ...STREAMED, max_output_tokens: 100 }).then((answer) => answer.text())
    await until(() => pod.stats().running === 1)
    const others = Promise.all([followed(pod, 'stream=true'), followed(pod, 'stream=true&starting_after=50')])
    const events = parsed(await first)
    expect(await others).toEqual([events, events.slice(51)])
  })

  it('are waited for where there are none yet, even when there will be none', async () => {
    const pod = await startPod({ responsesStore: true })
    const events = await streamed(pod)
    const waiting = [
      reading(await follow(pod, `stream=true&starting_after=${events.length - 1}`)),
      reading(await follow(pod, 'stream=true&starting_after=99999999999999999999999999')),
    ]
    await followed(pod, 'stream=true')
    expect(waiting).toEqual(Array(2).fill({ text: '', ended: false }))
  })

  it('that never were end the connection behind a 200', async () => {
    const pod = await startPod({ responsesStore: true })
    await streamed(pod)
    const answer = await follow(pod, 'stream=true&starting_after=-99')
    expect(answer.status).toBe(200)
    await expect(answer.text()).rejects.toThrow()
  })

  it('are those of the newer response where two had one id', async () => {
    const pod = await startPod({ responsesStore: true })
    await streamed(pod)
    const events = await streamed(pod, { input: 'other', max_output_tokens: 9 })
    expect(await followed(pod, 'stream=true')).toEqual(events)
  })
})

describe('asking for the events', () => {
  it.each<[string, object]>([
    ['in the background, but no stream', { background: true, stream: false }],
    ['a stream, but not in the background', { background: false, stream: true }],
    ['neither', { background: false, stream: false }],
  ])('of a response that was %s ends the connection behind a 200', async (_, how) => {
    const pod = await startPod({ responsesStore: true })
    await (await post(pod, RESPONSES, { ...STREAMED, max_output_tokens: 2, ...how })).text()
    const answer = await follow(pod, 'stream=true')
    expect([answer.status, answer.headers.get('content-type')]).toEqual([200, 'text/event-stream; charset=utf-8'])
    await expect(answer.text()).rejects.toThrow()
    expect((await follow(pod, 'stream=false')).status).toBe(200)
  })

  it('of a response that is not kept is refused as any other look at it', async () => {
    const pod = await startPod({ responsesStore: true })
    const answer = await follow(pod, 'stream=true&starting_after=1')
    expect([answer.status, await answer.json()]).toEqual([
      404,
      {
        error: {
          message: "Response with id 'r' not found.",
          type: 'invalid_request_error',
          param: 'response_id',
          code: 404,
        },
      },
    ])
  })

  it.each(['starting_after=3', 'stream=0', 'stream=true&stream=false'])('with ?%s gets the response', async (query) => {
    const pod = await startPod({ responsesStore: true })
    await streamed(pod)
    expect(await (await follow(pod, query)).json()).toMatchObject({ id: 'r', status: 'incomplete' })
  })

  it('in other words than numbers and truths is refused with all that is wrong', async () => {
    const pod = await startPod({ responsesStore: true })
    const answer = await follow(pod, 'stream=nope&starting_after=x')
    const integer = 'Input should be a valid integer, unable to parse string as an integer'
    const boolean = 'Input should be a valid boolean, unable to interpret input'
    expect([answer.status, await answer.json()]).toEqual([
      400,
      {
        error: {
          message: [
            '2 validation errors:',
            `  {'type': 'int_parsing', 'loc': 'query.starting_after', 'msg': '${integer}', 'input': 'x'}`,
            `  {'type': 'bool_parsing', 'loc': 'query.stream', 'msg': '${boolean}', 'input': 'nope'}`,
          ].join('\n'),
          type: 'Bad Request',
          param: 'query.starting_after',
          code: 400,
        },
      },
    ])
  })
})

describe('a background stream that ends without response.completed', () => {
  const long = { ...STREAMED, max_output_tokens: 9_000 }

  it('leaves its readers waiting when it is cancelled, as vLLM 0.32 does: a caller needs a timeout', async () => {
    const pod = await startPod({ responsesStore: true, speed: 1 })
    const readers = [reading(await post(pod, RESPONSES, long)), reading(await follow(pod, 'stream=true'))]
    await until(() => readers.every(({ text }) => text.includes('output_text.delta')))
    const cancelled = await post(pod, `${RESPONSES}/r/cancel`, {})
    expect(await cancelled.json()).toMatchObject({ status: 'cancelled', output: [] })
    await until(() => pod.stats().aborted === 1)
    // Whoever asks now gets what there is, and waits as well.
    const late = reading(await follow(pod, 'stream=true'))
    await until(() => late.text !== '' && late.text === readers[0]?.text && late.text === readers[1]?.text)
    expect([...readers, late].map(({ ended }) => ended)).toEqual([false, false, false])
    expect(parsed(late.text).map(({ type }) => type)).not.toContain('response.completed')
    expect(await (await follow(pod, '')).json()).toMatchObject({ status: 'cancelled' })
  })

  it('leaves them waiting when the engine fails, and stays queued: vLLM 0.32 tells nobody', async () => {
    const pod = await startPod({ responsesStore: true })
    pod.faults.set({ errorAfterTokens: 3 })
    const reader = reading(await post(pod, RESPONSES, long))
    await until(() => pod.stats().failed === 1 && reader.text.includes('output_text.delta'))
    expect(await (await follow(pod, '')).json()).toMatchObject({ status: 'queued' })
    expect(reader.ended).toBe(false)
  })

  it('loses its readers when the pod dies', async () => {
    const pod = await startPod({ responsesStore: true })
    pod.faults.set({ dieAfterTokens: 3 })
    const answer = await post(pod, RESPONSES, long)
    await expect(answer.text()).rejects.toThrow()
  })
})
