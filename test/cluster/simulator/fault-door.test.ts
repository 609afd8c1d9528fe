// The fault door, and pods that die and come back: over real sockets, as an operator or a test of routers uses them.
import { describe, expect, it, onTestFinished } from 'vitest'
import { openFaultDoor } from '../../../cluster/simulator/fault-door.ts'
import type { Faults } from '../../../cluster/simulator/faults.ts'
import { type SimulatedPod, startPods } from '../../../cluster/simulator/pods.ts'
import type { SimulatorOptions } from '../../../cluster/simulator/server.ts'
import { post, until } from './pod.ts'

async function open(
  options: SimulatorOptions = {},
  initial: Faults = {},
): Promise<{ readonly pods: readonly SimulatedPod[]; readonly door: string }> {
  const pods = await startPods(2, { speed: 0, kvEventsPort: 'off', ...options }, initial, (error) => {
    throw error
  })
  const door = await openFaultDoor(pods, 0)
  onTestFinished(async () => {
    await door.close()
    await Promise.all(pods.map((pod) => pod.close()))
  })
  return { pods, door: door.url }
}

async function ask(url: string, method: string, body?: unknown): Promise<{ status: number; body: unknown }> {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  const answer = await fetch(url, { method, ...(body === undefined ? {} : { body: text }) })
  return { status: answer.status, body: await answer.json() }
}

describe('the fault door', () => {
  it('sets, changes and heals, for all pods or for one', async () => {
    const { pods, door } = await open()
    const [one, two] = pods as [SimulatedPod, SimulatedPod]
    const told = (first: Faults, second: Faults) => [
      { port: one.port, url: one.url, state: 'up', faults: first },
      { port: two.port, url: two.url, state: 'up', faults: second },
    ]
    expect(await ask(`${door}/pods`, 'GET')).toEqual({ status: 200, body: told({}, {}) })
    expect(await ask(`${door}/faults`, 'PUT', { refuseStatus: 429, hang: true })).toMatchObject({
      body: told({ refuseStatus: 429, hang: true }, { refuseStatus: 429, hang: true }),
    })
    await ask(`${door}/pods/${two.port}/faults`, 'PATCH', { hang: null, slowFactor: 2 })
    expect((await ask(`${door}/faults`, 'GET')).body).toEqual(
      told({ refuseStatus: 429, hang: true }, { refuseStatus: 429, slowFactor: 2 }),
    )
    expect((await post(two, '/v1/completions', { prompt: 'x' })).status).toBe(429)
    expect((await ask(`${door}/faults`, 'DELETE')).body).toEqual(told({}, {}))
    expect((await post(two, '/v1/completions', { prompt: 'x' })).status).toBe(200)
  })

  it.each([
    ['PUT', '/faults', '{', 400, 'the body is no JSON'],
    ['PUT', '/faults', '[]', 400, 'expected an object'],
    ['PUT', '/faults', '{"sulk":true}', 400, 'there is no fault sulk'],
    ['PATCH', '/faults', '{"slowFactor":-1}', 400, 'slowFactor: expected a number'],
    ['PATCH', '/faults', 'null', 400, 'expected an object'],
    ['PUT', '/faults', ' '.repeat(70_000), 400, 'larger than'],
    ['POST', '/faults', '{}', 405, '/faults takes GET, PUT, PATCH, DELETE'],
    ['PUT', '/pods/1/faults', '{}', 404, 'no pod is on port 1; there are '],
    ['GET', '/nothing', undefined, 404, 'there is no /nothing'],
  ])('%s %s %.20s is refused, and sets nothing', async (method, path, body, status, words) => {
    const { pods, door } = await open()
    const answer = await ask(`${door}${path}`, method, body)
    expect(answer).toEqual({ status, body: { error: expect.stringContaining(words) } })
    expect(pods.map((pod) => pod.faults())).toEqual([{}, {}])
  })

  it('says what it can do', async () => {
    const { door } = await open()
    expect(await (await fetch(door)).text()).toContain('slow-factor=FACTOR')
  })
})

describe('a pod that dies', () => {
  it('cuts its streams, closes its port, and comes back on it with an empty cache and new numbers', async () => {
    // Below the ports that systems hand out: while the pod is dead nobody else takes them.
    const port = 20_000 + 10 * (process.pid % 1_000)
    const given = { port, kvEventsPort: port + 2, kvReplayPort: port + 4 }
    const { pods, door } = await open({ speed: 1, blockSize: 4, ...given })
    const [one] = pods as [SimulatedPod]
    const ports = one.simulator()?.kvEvents
    const stream = await post(one, '/v1/completions', {
      prompt: [1, 2, 3, 4, 5],
      max_tokens: 10_000,
      stream: true,
      ignore_eos: true,
    })
    await until(() => one.simulator()?.stats().running === 1)
    const cut = expect(stream.text()).rejects.toThrow()
    expect((await ask(`${door}/pods/${one.port}/faults`, 'PUT', { dead: true })).body).toMatchObject([
      { state: 'dead' },
    ])
    await cut
    await expect(fetch(`${one.url}/health`)).rejects.toThrow()
    expect((await ask(`${door}/pods/${one.port}/faults`, 'DELETE')).body).toMatchObject([{ state: 'up' }])
    expect((await fetch(`${one.url}/health`)).status).toBe(200)
    expect(one.simulator()?.stats()).toMatchObject({ cachedBlocks: 0, steps: 0 })
    expect(one.simulator()?.kvEvents).toEqual(ports)
  })

  it('starts slowly where it is told to: until then nothing listens', async () => {
    const { pods } = await open({}, { slowStartSeconds: 0.2 })
    const [one] = pods as [SimulatedPod]
    expect(one.state()).toBe('starting')
    await expect(fetch(`${one.url}/health`)).rejects.toThrow()
    await until(() => one.state() === 'up')
    expect((await fetch(`${one.url}/health`)).status).toBe(200)
  })

  it('ends as what was set last, however fast it is changed', async () => {
    const { pods } = await open()
    const [one] = pods as [SimulatedPod]
    await Promise.all([
      one.set({ dead: true }),
      one.set({}),
      one.set({ dead: true, slowStartSeconds: 30 }),
      one.set({ hang: true }),
    ])
    expect([one.state(), one.faults()]).toEqual(['up', { hang: true }])
  })
})
