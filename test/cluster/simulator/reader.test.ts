// Callers that ask for a stream and do not read it: the pod's process is everyone's, and must not keep it all for them.
import { once } from 'node:events'
import { createServer, get, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { connect, type Socket } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { createEventLogs, EVENTS_BYTES_MAX, type EventLog } from '../../../cluster/simulator/event-log.ts'
import { followEvents, UNREAD_BYTES_MAX, writeOrDrop } from '../../../cluster/simulator/reader.ts'
import type { Simulator } from '../../../cluster/simulator/server.ts'
import { eventsOf, startPod, until } from './pod.ts'

/** More than the sockets of a connection take by themselves. */
const CHUNK = 'x'.repeat(1024 * 1024)

/** Sends a request and reads nothing of its answer. */
function askWithoutReading(port: number, path: string, bodies: readonly object[]): Socket {
  const socket = connect(port, '127.0.0.1')
  onTestFinished(() => {
    socket.destroy()
  })
  socket.on('error', () => undefined)
  socket.pause()
  for (const body of bodies) {
    const text = JSON.stringify(body)
    socket.write(
      `POST ${path} HTTP/1.1\r\nhost: pod\r\ncontent-type: application/json\r\ncontent-length: ${text.length}\r\n\r\n${text}`,
    )
  }
  return socket
}

/** A server that hands over its side of every exchange. */
async function startServer(answer: (res: ServerResponse) => void): Promise<number> {
  const server = createServer((_req, res) => answer(res))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

async function ask(port: number): Promise<IncomingMessage> {
  const [answer] = (await once(get({ port, host: '127.0.0.1' }), 'response')) as [IncomingMessage]
  return answer
}

const idle = (pod: Simulator) => pod.stats().running + pod.stats().waiting === 0
const LONG_CHAT = {
  messages: [{ role: 'user', content: 'x' }],
  n: 128,
  temperature: 1,
  max_tokens: 3_000,
  ignore_eos: true,
  stream: true,
}

describe('a caller that does not read its stream', () => {
  it('is dropped and its generation aborted, as if it had left', async () => {
    const pod = await startPod({ kvEventsPort: 'off' })
    askWithoutReading(pod.port, '/v1/chat/completions', [LONG_CHAT])
    await until(() => pod.stats().aborted > 0)
    expect([idle(pod), pod.stats().finished, pod.stats().aborted]).toEqual([true, 0, 128])
  })

  it('is dropped too while its stream waits behind another one on the same connection', async () => {
    const pod = await startPod({ kvEventsPort: 'off' })
    const before = { ...LONG_CHAT, n: 1, max_tokens: 30_000 }
    askWithoutReading(pod.port, '/v1/chat/completions', [before, LONG_CHAT])
    await until(() => pod.stats().aborted > 0)
    await until(() => idle(pod))
    expect(pod.stats()).toMatchObject({ finished: 0, aborted: 129 })
  })

  it('of a response loses it in the same way', async () => {
    const pod = await startPod({ kvEventsPort: 'off', maxModelLen: 100_000 })
    const body = { input: 'x', stream: true, max_output_tokens: 90_000, ignore_eos: true }
    const logprobs = { include: ['message.output_text.logprobs'], top_logprobs: 20 }
    askWithoutReading(pod.port, '/v1/responses', [{ ...body, ...logprobs }])
    await until(() => pod.stats().aborted > 0)
    expect(pod.stats()).toMatchObject({ running: 0, finished: 0, aborted: 1 })
  })

  it('costs a background response nothing: it is made to its end, and others read it', async () => {
    const pod = await startPod({ kvEventsPort: 'off', maxModelLen: 100_000, responsesStore: true })
    const body = { input: 'x', background: true, stream: true, max_output_tokens: 20_000, ignore_eos: true }
    const socket = askWithoutReading(pod.port, '/v1/responses', [{ ...body, request_id: 'r' }])
    await until(() => pod.stats().finished === 1)
    expect(socket.bytesRead).toBe(0)
    const answer = await fetch(`${pod.url}/v1/responses/r?stream=true`)
    expect(JSON.parse(eventsOf(await answer.text()).at(-1) ?? '')).toMatchObject({ type: 'response.completed' })
  })
})

describe('writing', () => {
  it('stops at the limit, whose last piece is all that goes beyond it', async () => {
    const exchange = Promise.withResolvers<ServerResponse>()
    const answer = await ask(
      await startServer((res) => {
        res.flushHeaders()
        exchange.resolve(res)
      }),
    )
    const res = await exchange.promise
    const closed = once(res, 'close')
    let written = 0
    let waiting = 0
    while (!res.req.socket.destroyed) {
      writeOrDrop(res, CHUNK)
      waiting = Math.max(waiting, res.writableLength)
      written++
    }
    expect(written).toBeGreaterThanOrEqual(UNREAD_BYTES_MAX / CHUNK.length)
    expect(waiting).toBeLessThan(UNREAD_BYTES_MAX + 2 * CHUNK.length)
    await closed
    // What comes later is dropped without a fuss.
    writeOrDrop(res, CHUNK)
    await expect(once(answer.resume(), 'end')).rejects.toThrow()
  })
})

describe('following events', () => {
  /** A log, the pod's side of one reader of it, and the reader's. */
  async function follow(startingAfter?: number) {
    const logs = createEventLogs()
    const log = logs.open('r')
    const exchange = Promise.withResolvers<ServerResponse>()
    const answer = await ask(
      await startServer((res) => {
        res.flushHeaders()
        exchange.resolve(res)
        followEvents(log, startingAfter, res)
      }),
    )
    return { logs, log, answer, res: await exchange.promise }
  }
  const event = (text: string, isLast = false) => ({ text, isLast })

  it('holds little for a reader that stopped reading, and gives it all once it goes on', async () => {
    const { logs, log, answer, res } = await follow()
    let sent = ''
    for (let number = 0; number < 12; number++) {
      sent += `${number}${CHUNK}`
      logs.append(log, event(`${number}${CHUNK}`, number === 11))
    }
    expect(res.writableLength).toBeLessThan(2 * CHUNK.length)
    let read = ''
    for await (const chunk of answer.setEncoding('latin1')) read += chunk
    expect(read === sent).toBe(true)
  })

  it('lets a reader go that fell behind what is kept, and nobody else', async () => {
    const { logs, log, answer } = await follow()
    const kept = Math.floor(EVENTS_BYTES_MAX / (2 * CHUNK.length))
    for (let number = 0; number < 3 * kept; number++) logs.append(log, event(CHUNK, number === 3 * kept - 1))
    expect(logs.heldBytes()).toBeLessThanOrEqual(EVENTS_BYTES_MAX)
    const read = (async () => {
      for await (const _ of answer);
    })()
    await expect(read).rejects.toThrow()
    const later = await ask(await startServer((res) => followEvents(log, -3, res)))
    let length = 0
    for await (const chunk of later) length += chunk.length
    expect(length).toBe(2 * CHUNK.length)
  })

  it('lets every reader go when its response is forgotten', async () => {
    const { logs, log, answer } = await follow()
    logs.append(log, event('first'))
    const end = once(answer, 'end')
    await once(answer, 'data')
    logs.forget('r')
    await expect(end).rejects.toThrow()
    logs.append(log, event('second'))
    expect([logs.of('r'), logs.heldBytes(), log.length]).toEqual([undefined, 0, 1])
  })

  it('stops listening for a reader that left', async () => {
    const { logs, log, answer, res } = await follow()
    const closed = once(res, 'close')
    answer.destroy()
    await closed
    logs.append(log, event('late'))
    expect(res.writableLength).toBe(0)
  })
})

describe('the logs of a pod', () => {
  it('never hold more than their bound, and take it from the oldest log', () => {
    const logs = createEventLogs()
    const third = { text: 'x'.repeat(EVENTS_BYTES_MAX / 6), isLast: false }
    const opened = ['a', 'b', 'c'].map((id): EventLog => logs.open(id))
    for (const log of opened) {
      logs.append(log, third)
      expect(logs.heldBytes()).toBeLessThanOrEqual(EVENTS_BYTES_MAX)
    }
    expect(opened.map(({ kept, length }) => [kept, length])).toEqual([
      [0, 1],
      [1, 1],
      [1, 1],
    ])
    logs.open('b')
    expect(opened[1]?.kept).toBe(0)
    logs.forget('c')
    expect(logs.heldBytes()).toBe(0)
  })
})
