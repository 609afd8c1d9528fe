// The commands as an operator runs them: kv-manager with the guide's variables, events and doctor before it.
import { expect, it, onTestFinished } from 'vitest'
import { startSimulator } from '../../../cluster/simulator/server.ts'
import { freePort, run, start } from '../../e2e/program.ts'
import { eventually } from '../../eventually.ts'

it('kv-manager serves with the guide’s variables, events are told live, and the doctor is content', async () => {
  const pod = await startSimulator({ port: 0, models: ['m'], speed: 0 })
  onTestFinished(() => pod.close())
  const port = await freePort()
  const environment = {
    HTTP_PORT: String(port),
    CACHE_TTL_SECONDS: '60',
    ZMQ_BIND_ADDRESS: `tcp://127.0.0.1:${await freePort()}`,
  }
  const manager = start(['kv-manager', '--endpoint', pod.url], environment)
  onTestFinished(() => void manager.child.kill())
  const url = `http://127.0.0.1:${port}`
  await eventually(
    async () => (await fetch(`${url}/readyz`).catch(() => undefined))?.status,
    (status) => status === 200,
  )
  const events = start(['events', '--admin', url, '--json'])
  onTestFinished(() => void events.child.kill())
  await eventually(
    async () => {
      const prompt = `${Math.random()} ${'some words '.repeat(100)}`
      await fetch(`${pod.url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ model: 'm', prompt, max_tokens: 1 }),
      })
      return events.said()
    },
    (out) => out.includes('"event_type":"kv_alloc"'),
  )
  const doctor = await run(['doctor', 'kv', '--engine', pod.url])
  // A reader of events ends when it is told to, and a manager when it is done.
  for (const { child, ended } of [events, manager]) {
    child.kill('SIGTERM')
    expect(await ended).toBe(0)
  }
  expect([doctor.code, doctor.out]).toEqual([0, expect.stringContaining('No fault found.')])
})

it('mistakes are one line that names the thing and the fix', async () => {
  const rows: readonly (readonly [readonly string[], Record<string, string>, string])[] = [
    [['kv-manager'], {}, 'nobody to hear of: name the vLLM servers with --endpoint'],
    [
      ['kv-manager', '--zmq-bind', 'x'],
      {},
      '--zmq-bind (or ZMQ_BIND_ADDRESS) x: expected an address like tcp://*:5555',
    ],
    [
      ['kv-manager', '--endpoint', 'http://a:1'],
      { CACHE_TTL_SECONDS: 'x' },
      'CACHE_TTL_SECONDS=x: expected whole seconds',
    ],
    [['kv-manager', '--endpoint', 'http://a:1'], { HTTP_PORT: '99999' }, 'HTTP_PORT=99999: expected a port'],
    [
      ['router', '--endpoint', 'http://a:1', '--tokenizer', '=x'],
      {},
      '--tokenizer =x: expected DIRECTORY or MODEL=DIRECTORY',
    ],
    [['events', '--admin', `http://127.0.0.1:${await freePort()}`], {}, 'nobody answers at http://127.0.0.1'],
    [['doctor'], {}, 'say: warmpath doctor kv --engine http://host:port'],
  ]
  for (const [args, environment, words] of rows) {
    const { code, err } = await run(args, environment)
    expect([args, code, err.trim().split('\n')]).toEqual([args, 1, [expect.stringContaining(words)]])
  }
})
