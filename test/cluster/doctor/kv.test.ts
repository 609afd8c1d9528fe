// The KV doctor before pods that are set up wrongly in each way: it finds the cause, and names what to set.
import { mkdtempSync, rmSync } from 'node:fs'
import { request as ask, createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { runKvDoctor } from '../../../cluster/doctor/command.ts'
import type { Finding } from '../../../cluster/doctor/finding.ts'
import { type SimulatorOptions, startSimulator } from '../../../cluster/simulator/server.ts'
import { freePort } from '../../e2e/program.ts'
import { startPublisher } from '../kv/publisher.ts'
import { TEMPLATE, writeModel } from '../tokens/small-model.ts'

async function startPod(options: SimulatorOptions = {}): Promise<string> {
  const pod = await startSimulator({ port: 0, models: ['m'], speed: 0, ...options })
  onTestFinished(() => pod.close())
  return pod.url
}

type Any = ReturnType<typeof JSON.parse>

/** A pod whose answers to some paths are changed on their way. */
async function startChanged(to: string, change: (path: string, answer: Any) => Any): Promise<string> {
  const server = createServer((req, res) => {
    const onward = ask(to + req.url, { method: req.method, headers: req.headers }, async (answer: IncomingMessage) => {
      const chunks: Buffer[] = []
      for await (const chunk of answer) chunks.push(chunk as Buffer)
      const text = Buffer.concat(chunks).toString()
      const isJson = answer.headers['content-type']?.startsWith('application/json')
      const changed = change(req.url ?? '', isJson ? JSON.parse(text) : text)
      if (changed === undefined) res.writeHead(404).end('{}')
      else
        res
          .writeHead(answer.statusCode ?? 200, { 'content-type': 'application/json' })
          .end(isJson ? JSON.stringify(changed) : changed)
    })
    req.pipe(onward)
  }).listen(0, '127.0.0.1')
  onTestFinished(() => void server.close())
  await new Promise((resolve) => server.once('listening', resolve))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

async function examine(engine: string, more: Partial<Parameters<typeof runKvDoctor>[0]> = {}) {
  const findings: Finding[] = []
  const healthy = await runKvDoctor({
    engine,
    apiKey: undefined,
    model: undefined,
    events: undefined,
    replay: undefined,
    tokenizer: undefined,
    json: true,
    print: (line) => findings.push(JSON.parse(line)),
    ...more,
  })
  return { healthy, findings, faults: findings.filter(({ verdict }) => verdict === 'fault') }
}

describe('an engine that is set up right', () => {
  it('has no fault, and everything was looked at', async () => {
    const { healthy, findings } = await examine(await startPod())
    expect(healthy).toBe(true)
    const looked = [
      'engine',
      'prefix cache',
      'render',
      'events',
      'topic',
      'stream',
      'block size',
      'cached tokens',
      'chat',
      'salt',
    ]
    expect(findings.map(({ about }) => about)).toEqual(looked)
  })

  it('is told in words, a line each, to a person', async () => {
    const lines: string[] = []
    await examine(await startPod(), { json: false, print: (line) => lines.push(line) })
    expect(lines[0]).toMatch(/^ok {4}engine {8}vLLM 0\.32/)
    expect(lines.at(-1)).toBe('No fault found.')
  })
})

describe('what is wrong, and what to set', () => {
  it('events that are off', async () => {
    const { healthy, faults } = await examine(await startPod({ kvEventsPort: 'off' }))
    expect(healthy).toBe(false)
    expect(faults).toMatchObject([{ about: 'events', fix: expect.stringContaining('--kv-events-config') }])
  })

  it('an older vLLM, which does not say where its events are; told where, all is well', async () => {
    const pod = await startPod()
    const { 0: source } = (await (await fetch(`${pod}/kv_event_sources`)).json()) as Any
    const older = await startChanged(pod, (path, answer) => (path === '/kv_event_sources' ? undefined : answer))
    expect((await examine(older)).faults).toMatchObject([{ about: 'events', fix: expect.stringContaining('--events') }])
    const at = (address: string) => address.replace('*', '127.0.0.1')
    const told = { events: at(source.endpoint), replay: at(source.replay_endpoint) }
    expect((await examine(older, told)).faults).toEqual([])
  })

  it('cached tokens that are not told', async () => {
    const { faults } = await examine(await startPod({ promptTokensDetails: false }))
    expect(faults).toMatchObject([
      { about: 'cached tokens', fix: expect.stringContaining('--enable-prompt-tokens-details') },
    ])
  })

  it('a prefix cache that is off', async () => {
    const pod = await startPod()
    const off = await startChanged(pod, (path, answer) =>
      path === '/metrics' ? answer.replace('enable_prefix_caching="True"', 'enable_prefix_caching="False"') : answer,
    )
    expect((await examine(off)).faults).toMatchObject([
      { about: 'prefix cache', fix: expect.stringContaining('--enable-prefix-caching') },
    ])
  })

  it('a topic that names another model, and one that names nobody', async () => {
    const pod = await startPod()
    const withTopic = (topic: string) =>
      startChanged(pod, (path, answer) => (path === '/kv_event_sources' ? { 0: { ...answer[0], topic } } : answer))
    expect((await examine(await withTopic('kv@10.0.0.1:8000@other'))).faults).toMatchObject([{ about: 'topic' }])
    const { healthy, findings } = await examine(await withTopic(''))
    expect(healthy).toBe(true)
    expect(findings).toContainEqual(
      expect.objectContaining({ about: 'topic', verdict: 'note', fix: expect.stringContaining('kv@$(POD_IP)') }),
    )
  })

  it('no replay', async () => {
    const pod = await startPod()
    const without = await startChanged(pod, (path, answer) =>
      path === '/kv_event_sources' ? { 0: { ...answer[0], replay_endpoint: null } } : answer,
    )
    expect((await examine(without)).faults).toMatchObject([
      { about: 'replay', fix: expect.stringContaining('replay_endpoint') },
    ])
  })

  it('events of somebody else, or of nobody', async () => {
    const pod = await startPod()
    const publisher = await startPublisher()
    onTestFinished(() => publisher.close())
    const { events, replay } = publisher
    expect((await examine(pod, { events, replay })).faults).toMatchObject([
      { about: 'stream', words: expect.stringContaining('announced none of their blocks') },
    ])
    const closed = `tcp://127.0.0.1:${await freePort()}`
    expect((await examine(pod, { events: closed })).faults).toMatchObject([
      { about: 'stream', words: expect.stringContaining('nothing can be read') },
    ])
  }, 30_000)

  it('a chat template for /tokenize that is not the one for chats', async () => {
    const pod = await startPod()
    const other = await startChanged(pod, (path, answer) =>
      path === '/tokenize' ? { ...answer, tokens: [...answer.tokens, 1, 2] } : answer,
    )
    expect((await examine(other)).faults).toMatchObject([
      { about: 'chat', fix: expect.stringContaining('--chat-template') },
    ])
  })

  it('cached tokens other than the events say', async () => {
    const pod = await startPod()
    const more = await startChanged(pod, (path, answer) => {
      const details = answer.usage?.prompt_tokens_details
      if (path === '/v1/completions' && details?.cached_tokens > 0) details.cached_tokens -= 16
      return answer
    })
    expect((await examine(more)).faults).toMatchObject([{ about: 'cached tokens' }])
  })

  it('a tokenizer that is another one, and a directory without any', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'warmpath-doctor-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const theirs = writeModel(join(folder, 'theirs'))
    const pod = await startPod({ tokenizerDir: theirs })
    const finding = async (tokenizer: string) =>
      (await examine(pod, { tokenizer })).findings.find(({ about }) => about === 'tokenizer')
    expect(await finding(theirs)).toMatchObject({ verdict: 'ok' })
    const other = writeModel(join(folder, 'other'), {}, TEMPLATE.replace('| trim', ''))
    expect(await finding(other)).toMatchObject({ verdict: 'fault', words: expect.stringContaining('chat template') })
    expect(await finding(join(folder, 'nowhere'))).toMatchObject({
      verdict: 'fault',
      words: expect.stringContaining('tokenizer.json'),
    })
  })

  it('an engine that is not there, wants a key, or serves something else', async () => {
    const nobody = `http://127.0.0.1:${await freePort()}`
    expect((await examine(nobody)).faults).toMatchObject([
      { about: 'engine', words: expect.stringContaining('does not answer') },
    ])
    const locked = await startPod({ apiKey: 'secret' })
    expect((await examine(locked)).faults).toMatchObject([
      { about: 'engine', fix: expect.stringContaining('--api-key') },
    ])
    expect((await examine(locked, { apiKey: 'secret' })).healthy).toBe(true)
    expect((await examine(await startPod(), { model: 'other' })).faults).toMatchObject([
      { about: 'engine', words: expect.stringContaining('lists m') },
    ])
    await expect(examine('ftp://x')).rejects.toThrow('--engine ftp://x: expected an URL')
    await expect(examine(nobody, { events: 'x' })).rejects.toThrow('--events x: expected an address')
  })
})
