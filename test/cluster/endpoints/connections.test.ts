// Connections to engines on real sockets, while the list of engines changes.
import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import { createConnections } from '../../../cluster/endpoints/connections.ts'
import type { Endpoint, EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { createSendLeg } from '../../../cluster/legs/undici.ts'
import { endpoint } from '../views.ts'

async function startEngine(onRequest: http.RequestListener) {
  const server = http.createServer(onRequest)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const openSockets = new Set<unknown>()
  server.on('connection', (socket) => {
    openSockets.add(socket)
    socket.once('close', () => openSockets.delete(socket))
  })
  return { id: `127.0.0.1:${(server.address() as AddressInfo).port}`, server, openSockets }
}

function open(endpoints: readonly Endpoint[]) {
  const connections = createConnections(endpoints)
  onTestFinished(() => connections.close())
  return connections
}

it('an answer that is under way from an engine that went comes to its end, then its connections close', async () => {
  const answers: http.ServerResponse[] = []
  const engine = await startEngine((_, res) => {
    res.write('first ')
    answers.push(res)
  })
  const connections = open([endpoint(engine.id)])
  const answer = await connections.to(engine.id as EndpointId).request({ path: '/', method: 'GET' })
  connections.replace([])
  const closed = once((answers[0] as http.ServerResponse).socket as NodeJS.EventEmitter, 'close')
  answers[0]?.end('last')
  expect(await answer.body.text()).toBe('first last')
  await closed
  expect(engine.openSockets.size).toBe(0)
})

it('the answers of engines that went are cut when the router ends', async () => {
  const engine = await startEngine((_, res) => void res.write('first '))
  const connections = open([endpoint(engine.id)])
  const answer = await connections.to(engine.id as EndpointId).request({ path: '/', method: 'GET' })
  connections.replace([])
  const text = answer.body.text()
  await connections.close()
  await expect(text).rejects.toThrow()
})

it('a request to an engine that is gone fails like one that cannot be reached, so that the next one is tried', async () => {
  const engine = await startEngine((_, res) => res.end())
  const connections = open([endpoint(engine.id)])
  connections.replace([])
  const request = { method: 'GET', path: '/', headers: {}, body: null } as const
  const failure = await new Promise((resolve) => {
    const events = { head: resolve, data: resolve, end: () => resolve('end'), failed: resolve }
    createSendLeg(connections)(engine.id as EndpointId, request, events)
  })
  expect(failure).toMatchObject({ kind: 'unreachable' })
})

it('engines that stay keep their connections; those with another key or authority get what they need', async () => {
  const engine = await startEngine((_, res) => res.end())
  const id = engine.id as EndpointId
  const connections = open([endpoint(engine.id, { apiKey: 'old' })])
  const pool = connections.to(id)
  connections.replace([endpoint(engine.id, { apiKey: 'new', labels: { zone: 'x' } })])
  expect(connections.to(id)).toBe(pool)
  expect(connections.headersFor(id)).toEqual({ authorization: 'Bearer new' })
  connections.replace([endpoint(engine.id, { origin: `https://${engine.id}` })])
  expect(connections.to(id)).not.toBe(pool)
  expect(connections.headersFor(id)).toEqual({})
})
