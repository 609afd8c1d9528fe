// A router that follows a load monitor, over a real socket: what it takes over, and when it scrapes itself again.
import { EventEmitter, once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { type FollowEvent, followLoadMonitor } from '../../../cluster/endpoints/follow-load-monitor.ts'
import { createEndpointSet } from '../../../cluster/endpoints/set.ts'
import { endpoint } from '../views.ts'

const A = 'a:1' as EndpointId
const B = 'b:1' as EndpointId

type Answer = (res: http.ServerResponse) => void

/** `busy`: a request is under way, so that polls are frequent. */
async function follow(first: Answer, busy = true) {
  let answer = first
  const polls = new EventEmitter()
  const polledAtMs: number[] = []
  const server = http.createServer((req, res) => {
    expect(req.url).toBe('/load')
    polledAtMs.push(performance.now())
    answer(res)
    polls.emit('poll')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const nowMs = () => performance.now()
  const endpoints = createEndpointSet([endpoint(A), endpoint(B)], nowMs)
  if (busy) endpoints.begin(B, 0)
  const events: FollowEvent[] = []
  const told = new EventEmitter()
  const follower = followLoadMonitor(url, {
    endpoints,
    nowMs,
    onEvent(event) {
      events.push(event)
      told.emit('event')
    },
  })
  onTestFinished(async () => {
    await follower.stop()
    server.closeAllConnections()
    server.close()
  })
  await follower.firstRound
  return {
    url,
    endpoints,
    follower,
    events,
    polledAtMs,
    toldNext: () => once(told, 'event'),
    polledNext: () => once(polls, 'poll'),
    answerWith: (next: Answer) => {
      answer = next
    },
  }
}

const pod = (id: string, scrapeAgeMs: number, engine: object = {}) => ({ pod: id, scrapeAgeMs, engine })
const report =
  (...pods: readonly object[]): Answer =>
  (res) =>
    res.end(JSON.stringify({ pods }))

it('the pods’ load reaches decisions as if this router had scraped it, with its true age', async () => {
  const { endpoints, follower, events, url } = await follow(
    report(pod(A, 100, { running: 2, waiting: 3, kvUsage: 0.5 }), pod(B, 900, {}), pod('stranger:1', 1, {})),
  )
  const [a, b] = endpoints.snapshot()
  expect(a?.load).toMatchObject({ activeRequests: 5, queuedRequests: 3, kvUsage: 0.5, stale: false })
  expect(a?.load.scrapeAgeMs).toBeGreaterThanOrEqual(100)
  expect(a?.load.scrapeAgeMs).toBeLessThan(600)
  expect(b?.load.scrapeAgeMs).toBeGreaterThanOrEqual(900)
  expect([follower.covers(A), follower.covers(B)]).toEqual([true, true])
  expect(events).toEqual([{ type: 'load-monitor-answers', url }])
})

it('a pod that it does not know, or has not heard of for long, is left to the router, and that is said once', async () => {
  const { endpoints, follower, events, url, polledNext, answerWith, toldNext } = await follow(
    report(pod(A, 60_000, { running: 9 })),
  )
  expect([follower.covers(A), follower.covers(B)]).toEqual([false, false])
  expect(endpoints.snapshot()[0]?.load.scrapeAgeMs).toBeUndefined()
  const lacks = { type: 'load-monitor-lacks', url, endpoints: [A, B] }
  expect(events).toEqual([{ type: 'load-monitor-answers', url }, lacks])
  await polledNext()
  answerWith(report(pod(A, 0), pod(B, 0)))
  await polledNext()
  answerWith(report(pod(A, 0)))
  await toldNext()
  expect(events.slice(2)).toEqual([{ ...lacks, endpoints: [B] }])
  expect([follower.covers(A), follower.covers(B)]).toEqual([true, false])
})

it.each<{ readonly name: string; readonly broken: Answer; readonly cause: RegExp }>([
  { name: 'answers an error', broken: (res) => res.writeHead(503).end('{}'), cause: /^its \/load answers 503$/ },
  { name: 'answers something else', broken: (res) => res.end('<html>'), cause: /^its \/load is no load report$/ },
  { name: 'cuts the connection', broken: (res) => res.destroy(), cause: /./ },
  { name: 'is silent', broken: () => undefined, cause: /^no answer within 2 s$/ },
  {
    name: 'never stops talking',
    broken: (res) => {
      const piece = Buffer.alloc(1024 * 1024, ' ')
      const more = () => {
        while (!res.destroyed && res.write(piece));
      }
      res.on('drain', more)
      more()
    },
    cause: /^its \/load has more than \d+ bytes$/,
  },
])('one that $name covers nothing, is said to be lost once, and is taken back', async ({ broken, cause }) => {
  const { follower, events, polledNext, answerWith, toldNext } = await follow(report(pod(A, 0), pod(B, 0)))
  answerWith(broken)
  await toldNext()
  expect(follower.covers(A)).toBe(false)
  expect(events[1]).toMatchObject({ type: 'load-monitor-lost', cause: expect.stringMatching(cause) })
  await polledNext()
  answerWith(report(pod(A, 0), pod(B, 0)))
  while (events.length < 3) await toldNext()
  expect(events.map(({ type }) => type)).toEqual(['load-monitor-answers', 'load-monitor-lost', 'load-monitor-answers'])
  expect(follower.covers(A)).toBe(true)
})

it('one that cannot be reached at all is lost from the start', async () => {
  const server = http.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  server.close()
  await once(server, 'close')
  const events: FollowEvent[] = []
  const nowMs = () => performance.now()
  const follower = followLoadMonitor(url, {
    endpoints: createEndpointSet([endpoint(A)], nowMs),
    nowMs,
    onEvent: (event) => events.push(event),
  })
  await follower.firstRound
  await follower.stop()
  expect(events).toEqual([{ type: 'load-monitor-lost', url, cause: 'ECONNREFUSED' }])
})

it('asks every second while all is idle, and five times a second while a request is under way', async () => {
  const { endpoints, polledAtMs, polledNext } = await follow(report(pod(A, 0), pod(B, 0)), false)
  for (let polls = 0; polls < 2; polls++) await polledNext()
  const passage = endpoints.begin(A, 10)
  for (let polls = 0; polls < 4; polls++) await polledNext()
  passage.ended('completed')
  const gapsMs = polledAtMs.slice(1).map((atMs, index) => atMs - (polledAtMs[index] ?? 0))
  expect(Math.min(...gapsMs.slice(0, 2))).toBeGreaterThan(950)
  expect(Math.min(...gapsMs.slice(2))).toBeGreaterThan(190)
  // The wait that had begun before the request came is a long one still.
  expect(Math.max(...gapsMs.slice(3))).toBeLessThan(700)
})
