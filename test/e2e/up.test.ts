// The newcomer's path, whole: `up` in a process of its own, the real workerd, the official client.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { descendants, freePort, isAlive, listens, npmStart, type Program, run, start } from './program.ts'

let program: Program
let edgePort: number
let key: string
let adminUrl: string
let podUrls: readonly string[]
let client: OpenAI

const urlOf = (row: string) => new RegExp(`^${row} +(http://\\S+)`, 'm').exec(program.said())?.[1] ?? ''
const chat = {
  model: 'sim-8b',
  messages: [{ role: 'user', content: 'Tell me about warm caches.' }],
} satisfies OpenAI.ChatCompletionCreateParams
const weather = {
  type: 'function',
  function: {
    name: 'get_weather',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
} as const

beforeAll(async () => {
  edgePort = await freePort()
  program = start([
    'up',
    '--port',
    String(edgePort),
    '--router-port',
    '0',
    '--admin-port',
    '0',
    '--pod-port',
    '0',
    '--speed',
    '4',
  ])
  await program.says('Ctrl-C stops everything.')
  key = /^key +(\S+)/m.exec(program.said())?.[1] ?? ''
  adminUrl = urlOf('admin')
  podUrls = [1, 2, 3].map((pod) => urlOf(`pod ${pod}`))
  client = new OpenAI({ apiKey: key, baseURL: `http://127.0.0.1:${edgePort}/v1`, maxRetries: 0 })
})

afterAll(() => program.child.kill('SIGKILL'))

/** The pods' own counts, as vLLM's metrics tell them. */
async function podsSay(series: string): Promise<number> {
  let sum = 0
  for (const url of podUrls) {
    const page = await (await fetch(`${url}/metrics`)).text()
    for (const line of page.split('\n')) if (line.startsWith(series)) sum += Number(line.slice(line.lastIndexOf(' ')))
  }
  return sum
}

describe('what up prints', () => {
  it('is a table of what runs where, and a key that looks like one', () => {
    expect(key).toMatch(/^wp_live_/)
    for (const row of ['edge', 'router', 'admin', 'pod 1', 'pod 2', 'pod 3'])
      expect(urlOf(row)).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/)
  })

  it('has a curl line that works when pasted', async () => {
    const line =
      program
        .said()
        .split('\n')
        .find((each) => each.startsWith('curl ')) ?? ''
    const { stdout } = await promisify(execFile)('sh', ['-c', line])
    expect(stdout).toMatch(/^data: \{"id":"chatcmpl-/)
    expect(stdout).toMatch(/data: \[DONE\]\n\n$/)
  })
})

describe('the official OpenAI client works unchanged', () => {
  it('chat', async () => {
    const answer = await client.chat.completions.create({ ...chat, max_tokens: 12 })
    expect(answer.choices[0]?.message.content?.length).toBeGreaterThan(0)
    expect(answer.usage?.completion_tokens).toBe(12)
    expect(answer.choices[0]?.finish_reason).toBe('length')
  })

  it('chat, streamed: without usage unless asked for', async () => {
    const chunks = await Array.fromAsync(await client.chat.completions.create({ ...chat, max_tokens: 8, stream: true }))
    expect(chunks[0]?.choices[0]?.delta.role).toBe('assistant')
    expect(chunks.every(({ choices }) => choices.length === 1)).toBe(true)
    const asked = await client.chat.completions.create({
      ...chat,
      max_tokens: 8,
      stream: true,
      stream_options: { include_usage: true },
    })
    expect((await Array.fromAsync(asked)).at(-1)?.usage?.completion_tokens).toBe(8)
  })

  it('completions, streamed and not', async () => {
    const request = { model: 'sim-8b', prompt: 'Once upon a time', max_tokens: 6, temperature: 0 } as const
    const whole = await client.completions.create(request)
    const pieces = await Array.fromAsync(await client.completions.create({ ...request, stream: true }))
    expect(pieces.map(({ choices }) => choices[0]?.text).join('')).toBe(whole.choices[0]?.text)
  })

  it('tools pass through', async () => {
    const answer = await client.chat.completions.create({ ...chat, tools: [weather], tool_choice: 'required' })
    const call = answer.choices[0]?.message.tool_calls?.[0]
    expect(call).toMatchObject({ type: 'function', function: { name: 'get_weather' } })
    expect(JSON.parse((call as { function: { arguments: string } }).function.arguments)).toHaveProperty('city')
  })

  it('models', async () => {
    expect((await Array.fromAsync(await client.models.list())).map(({ id }) => id)).toEqual(['sim-8b'])
    expect((await client.models.retrieve('sim-8b')).id).toBe('sim-8b')
  })

  it('errors are the classes that the client has for them', async () => {
    const stranger = new OpenAI({ apiKey: 'wp_live_x', baseURL: client.baseURL, maxRetries: 0 })
    await expect(stranger.models.list()).rejects.toThrow(OpenAI.AuthenticationError)
    await expect(client.chat.completions.create({ ...chat, model: 'gpt-9' })).rejects.toThrow(OpenAI.NotFoundError)
    await expect(client.chat.completions.create({ ...chat, temperature: -1 })).rejects.toThrow(OpenAI.BadRequestError)
    await expect(client.chat.completions.create({ ...chat, messages: [] })).rejects.toMatchObject({
      status: 400,
      type: expect.any(String),
    })
  })

  it('an abort in mid-stream frees the pod', async () => {
    const abort = new AbortController()
    const stream = await client.chat.completions.create(
      { ...chat, max_tokens: 20_000, stream: true },
      { signal: abort.signal },
    )
    for await (const _ of stream) break
    abort.abort()
    const leftAtMs = performance.now()
    while ((await podsSay('vllm:num_requests_running')) > 0) expect(performance.now() - leftAtMs).toBeLessThan(2_000)
    expect(await podsSay('vllm:generation_tokens_total')).toBeLessThan(20_000)
  })
})

describe('why', () => {
  it('tells where an answer came from, by its header or its own id', async () => {
    const { data, response } = await client.chat.completions.create({ ...chat, max_tokens: 2 }).withResponse()
    const decision = response.headers.get('x-warmpath-decision') ?? ''
    const byHeader = await run(['why', decision, '--admin', adminUrl])
    expect(byHeader).toMatchObject({ code: 0, err: '' })
    expect(byHeader.out).toMatch(/chosen {3}127\.0\.0\.1:\d+, by max-score among 3 of 3 endpoints/)
    expect(byHeader.out).toContain('tenant demo')
    expect((await run(['why', data.id, '--admin', adminUrl])).out).toBe(byHeader.out)
  })

  it('says so when there is nothing to tell', async () => {
    expect(await run(['why', 'd-none', '--admin', adminUrl])).toMatchObject({
      code: 1,
      err: expect.stringContaining('no decision d-none'),
    })
    expect((await run(['why', '--admin', 'http://127.0.0.1:1'])).err).toContain(
      'no router answers at http://127.0.0.1:1',
    )
  })
})

describe('keys', () => {
  it('made by several commands at once all work: none replaces the secrets of another', async () => {
    const made = await Promise.all([1, 2, 3].map(() => run(['key', 'create', '--tenant', 'acme'])))
    for (const { out } of made) {
      const each = new OpenAI({ apiKey: out.trim(), baseURL: client.baseURL, maxRetries: 0 })
      expect((await Array.fromAsync(await each.models.list())).length).toBe(1)
    }
  })

  it('made while the edge runs work at once, and only for their models', async () => {
    const made = await run(['key', 'create', '--tenant', 'acme', '--model', 'other'])
    expect(made).toMatchObject({ code: 0, err: '' })
    const limited = new OpenAI({ apiKey: made.out.trim(), baseURL: client.baseURL, maxRetries: 0 })
    expect(await Array.fromAsync(await limited.models.list())).toEqual([])
    await expect(limited.chat.completions.create(chat)).rejects.toThrow(OpenAI.NotFoundError)
  })
})

describe('mistakes are one line that names the thing and the fix', () => {
  it.each([
    [['up', '--pods', '0'], '--pods 0: expected a whole number from 1 to 200'],
    [['up', '--config', 'nowhere.yaml'], 'cannot read the configuration nowhere.yaml: ENOENT'],
    [['up', '--engine', 'x'], 'x is no endpoint: expected an URL like http://10.0.0.7:8000, without a path'],
    [['up', '--prot', '1'], "Unknown option '--prot'; see warmpath up --help"],
    [
      ['upp'],
      'there is no command upp; there are up, router, load-monitor, kv-manager, events, doctor, simulator, why, key',
    ],
    [['simulator', '--tokenizer', 'nowhere'], 'nowhere'],
    [['up', '--pod-port', '65534'], '--pod-port 65534: expected a whole number from 0 to 65533'],
    [['up', '--speed', '-1'], "Option '--speed' argument is ambiguous"],
    [
      ['router', '--log-level', 'loud', '--endpoint', 'http://127.0.0.1:1'],
      '--log-level loud: expected one of trace, debug',
    ],
    [['router', '--host', '0.0.0.0', '--endpoint', 'http://127.0.0.1:1'], 'set EDGE_SIGNING_KEYS'],
  ])('%j', async (args, words) => {
    const { code, out, err } = await run(args)
    expect([code, out]).toEqual([1, ''])
    expect(err).toContain(words)
    expect(err.trim().split('\n')).toHaveLength(1)
  })

  it('a taken port', async () => {
    const { code, err } = await run([
      'up',
      '--port',
      String(edgePort),
      '--router-port',
      '0',
      '--admin-port',
      '0',
      '--pod-port',
      '0',
    ])
    expect([code, err]).toEqual([
      1,
      `warmpath: the edge cannot listen on 127.0.0.1:${edgePort}: the port is taken. Stop what listens there, or choose another with --port\n`,
    ])
  })

  it('--help is there for the program and every command', async () => {
    const overview = (await run(['--help'])).out
    for (const command of ['up', 'router', 'simulator', 'why', 'key']) {
      expect(overview).toContain(`  ${command}`)
      expect((await run([command, '--help'])).out).toMatch(new RegExp(`^usage: warmpath ${command}`))
    }
  })
})

describe('Ctrl-C', () => {
  it('stops all of it within 3 s and leaves no process and no port behind', async () => {
    const family = descendants(program.child.pid ?? 0)
    expect(family.length).toBeGreaterThan(0)
    const ports = [
      edgePort,
      ...['router', 'admin', 'pod 1', 'pod 2', 'pod 3'].map((row) => Number(new URL(urlOf(row)).port)),
    ]
    const pressedAtMs = performance.now()
    program.child.kill('SIGINT')
    expect(await program.ended).toBe(0)
    expect(performance.now() - pressedAtMs).toBeLessThan(3_000)
    expect(family.filter(isAlive)).toEqual([])
    expect(await Promise.all(ports.map(listens))).toEqual(ports.map(() => false))
  })
})

describe('npm start', () => {
  it('ends with npm: SIGTERM to npm reaches everything', async () => {
    const port = await freePort()
    const newcomer = npmStart([
      '--port',
      String(port),
      '--router-port',
      '0',
      '--admin-port',
      '0',
      '--engine',
      'http://127.0.0.1:1',
    ])
    await newcomer.says('Ctrl-C stops everything.')
    expect(newcomer.said()).toContain('No engine has answered yet: check http://127.0.0.1:1/v1/models')
    const family = descendants(newcomer.child.pid ?? 0)
    newcomer.child.kill('SIGTERM')
    await newcomer.ended
    while (family.some(isAlive)) await new Promise((resolve) => setTimeout(resolve, 20))
    expect(await listens(port)).toBe(false)
  })
})
