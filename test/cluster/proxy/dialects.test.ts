// The dialects beside chats through the router: conversations find their pod by what it has computed, and engines that
// fail are told of as each dialect's clients read it.
import { describe, expect, it, onTestFinished } from 'vitest'
import { startSimulator } from '../../../cluster/simulator/server.ts'
import { HEADER } from '../../../shared/headers.ts'
import { readUsage } from '../../../shared/usage.ts'
import { call, decisionOf, type Generation, type Rig, startEngine, startRig, until } from './rig.ts'

const LONG = 'You answer in few words and never guess. '.repeat(40)
const MESSAGES = '/v1/messages'

function ask(rig: Rig, path: string, body: object, headers: Record<string, string> = {}) {
  return call(rig.url + path, 'POST', JSON.stringify(body), { 'content-type': 'application/json', ...headers }).answer
}

describe('the second turn goes where the first one was computed, as predicted', () => {
  it.each([
    [
      'messages',
      MESSAGES,
      (...texts: string[]) => ({
        model: 'm',
        max_tokens: 4,
        system: LONG,
        messages: texts.map((content, index) => ({ role: index % 2 ? 'assistant' : 'user', content })),
      }),
    ],
    [
      'responses',
      '/v1/responses',
      (...texts: string[]) => ({
        model: 'm',
        max_output_tokens: 4,
        store: false,
        instructions: LONG,
        input: texts.map((content, index) => ({ role: index % 2 ? 'assistant' : 'user', content })),
      }),
    ],
  ])('of %s', async (_, path, turn) => {
    const urls: { url: string }[] = []
    for (const seed of [1, 2, 3]) {
      const pod = await startSimulator({ port: 0, models: ['m'], speed: 0, seed })
      onTestFinished(pod.close)
      urls.push(pod)
    }
    const rig = await startRig(urls)
    await until(async () => {
      const endpoints = (await (await fetch(`${rig.adminUrl}/endpoints`)).json()) as { cache: { state: string }[] }[]
      return endpoints.every(({ cache }) => cache.some(({ state }) => state === 'live'))
    })
    const first = await ask(rig, path, turn('warm caches'))
    expect(first.status, first.text).toBe(200)
    await until(async () => {
      const page = await (await fetch(`${rig.adminUrl}/metrics`)).text()
      return Number(/^warmpath_kv_index_blocks (\d+)/m.exec(page)?.[1] ?? 0) > 0
    })
    const second = await ask(rig, path, turn('warm caches', 'Yes?', 'And then?'))
    const usage = readUsage(JSON.parse(second.text).usage)
    const [before, after] = [
      await decisionOf(rig, first.headers[HEADER.decision]),
      await decisionOf(rig, second.headers[HEADER.decision]),
    ]
    expect(after.chosen).toBe(before.chosen)
    expect(usage?.cachedTokens).toBeGreaterThan(300)
    expect(after).toMatchObject({
      promptTokens: usage?.promptTokens,
      predictedCachedTokens: usage?.cachedTokens,
      usage,
    })
  })
})

describe('an engine’s answer to messages', () => {
  const body = { model: 'm', max_tokens: 4, messages: [] }
  const started =
    'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":0}}}\n\n'
  const error = 'event: error\ndata: {"type":"error","error":{"type":"internal_error","message":"EngineCore died"}}\n\n'
  const streams =
    (...events: string[]) =>
    ({ res }: Generation) =>
      void res.writeHead(200, { 'content-type': 'text/event-stream' }).end(events.join(''))

  it('that is cut off ends with an error event and no message_stop', async () => {
    const rig = await startRig([await startEngine(streams(started))])
    const { status, text, headers } = await ask(rig, MESSAGES, { ...body, stream: true })
    expect([status, text.startsWith(started)]).toEqual([200, true])
    expect(text.slice(started.length)).toMatch(
      /^event: error\ndata: \{"type":"error","error":\{"type":"api_error",.*\}\n\n$/,
    )
    expect(await decisionOf(rig, headers[HEADER.decision])).toMatchObject({
      dialect: 'messages',
      outcome: 'truncated',
      usage: { promptTokens: 9, completionTokens: 0 },
    })
  })

  it('that begins with an error event is an error with a status', async () => {
    const rig = await startRig([await startEngine(streams(error))])
    const { status, text } = await ask(rig, MESSAGES, { ...body, stream: true })
    expect([status, JSON.parse(text)]).toEqual([
      500,
      { type: 'error', error: { type: 'api_error', message: 'EngineCore died' } },
    ])
  })

  it('that fails in the middle passes with its error event, and is written down as failed', async () => {
    const rig = await startRig([await startEngine(streams(started, error))])
    const { text, headers } = await ask(rig, MESSAGES, { ...body, stream: true })
    expect(text).toBe(started + error)
    const { outcome } = await decisionOf(rig, headers[HEADER.decision])
    expect(outcome).toBe('ended with an error event of the engine')
  })

  it('names its request where Anthropic’s clients look for it, refused or not', async () => {
    const rig = await startRig([await startEngine()])
    const answers = [
      await ask(rig, `${MESSAGES}?beta=true`, body, { 'x-request-id': 'mine' }),
      await ask(rig, MESSAGES, { ...body, model: 'other' }, { 'x-request-id': 'mine' }),
    ]
    expect(answers.map(({ status, headers }) => [status, headers['request-id']])).toEqual([
      [200, 'mine'],
      [404, 'mine'],
    ])
  })
})
