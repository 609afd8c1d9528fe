// The tier while Redis is not well: whatever it does, a lookup is a slower answer and never an error, and when Redis is
// back it is used again.
import { describe, expect, it, onTestFinished } from 'vitest'
import { FAILURES_MAX } from '../../../cluster/cache/breaker.ts'
import { LOOKUP_BUDGET_MS } from '../../../cluster/cache/redis.ts'
import { packValue } from '../../../cluster/cache/redis-value.ts'
import { type RespFault, startRespServer } from '../../resp-server.ts'
import { connectedTier, NOISE_MS, type Rig, startTier, until, untilSaved } from './redis-rig.ts'

async function serve(options?: Parameters<typeof startRespServer>[0]) {
  const server = await startRespServer(options)
  onTestFinished(server.stop)
  return server
}

function watchProcess(): readonly unknown[] {
  const uncaught: unknown[] = []
  const note = (error: unknown): void => void uncaught.push(error)
  for (const name of ['uncaughtException', 'unhandledRejection'] as const) {
    process.on(name, note)
    onTestFinished(() => void process.off(name, note))
  }
  return uncaught
}

/** Until Redis rests: then nothing is asked. Gives how often it was looked up. */
async function lookUpUntilResting(rig: Rig): Promise<number> {
  for (let asked = 1; ; asked++) {
    expect((await rig.get('key')).value).toBeUndefined()
    if (rig.tier.state() === 'resting') return asked
    await until(() => rig.tier.state() !== 'connecting')
    expect(asked).toBeLessThan(20)
  }
}

const FAULTS: readonly (readonly [string, RespFault])[] = [
  ['stalls', { kind: 'stall' }],
  ['answers later than the budget', { kind: 'delay', delayMs: 80 }],
  ['closes in place of an answer', { kind: 'close' }],
  ['answers another question', { kind: 'off-by-one' }],
  ['is loading', { kind: 'error', line: 'LOADING Redis is loading the dataset in memory' }],
  ['wants a password now', { kind: 'error', line: 'NOAUTH Authentication required.' }],
  ['became part of a cluster', { kind: 'error', line: 'MOVED 3999 127.0.0.1:6381' }],
  ['says something else', { kind: 'error', line: 'ERR strange' }],
  ['sends a line that is none', { kind: 'bytes', bytes: '\u0000\u0001\u0002garbage\r\n' }],
  ['sends a number', { kind: 'bytes', bytes: ':1\r\n' }],
  ['sends a push that ioredis throws for', { kind: 'bytes', bytes: '>1\r\n_\r\n' }],
  ['sends half a value', { kind: 'bytes', bytes: '$100\r\nhalf' }],
  ['is a web server', { kind: 'bytes', bytes: 'HTTP/1.1 400 Bad Request\r\n\r\n' }],
  ['answers twice', { kind: 'more', bytes: '+OK\r\n' }],
  ['answers twice, with nothing', { kind: 'more', bytes: '$-1\r\n' }],
  ['sends gigabytes', { kind: 'bulk', length: 4_000_000_000 }],
]

describe('a Redis that', () => {
  it.each(FAULTS)('%s is left alone, and used again when it is well', async (_, fault) => {
    const uncaught = watchProcess()
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    server.values.set('0/warmpath:response:key', { value: Buffer.from('OK'), untilMs: Infinity })
    server.fail(fault)
    const asked = await lookUpUntilResting(rig)
    // Where each connection is lost at the second lookup there are as many connections.
    expect(asked).toBeLessThanOrEqual(2 * FAILURES_MAX)
    const commands = server.commands().length
    const startedAtMs = performance.now()
    for (let lookup = 0; lookup < 100; lookup++) expect((await rig.get('key')).outcome).toBe('not-asked')
    expect(performance.now() - startedAtMs).toBeLessThan(200)
    expect(server.commands()).toHaveLength(commands)

    server.fail(undefined)
    server.values.delete('0/warmpath:response:key')
    await until(() => rig.tier.state() === 'connected')
    expect((await rig.get('key')).outcome).toBe('miss')
    expect(rig.events.map(({ type }) => type).filter((type) => !type.includes('saves'))).toEqual([
      'redis-answers',
      'redis-lost',
      'redis-answers',
    ])
    expect(uncaught).toEqual([])
  })

  it('is not there at the start costs nothing, is told of once, and is used when it comes', async () => {
    const uncaught = watchProcess()
    const server = await serve()
    await server.stop()
    const startedAtMs = performance.now()
    const rig = startTier(`redis://:secret@127.0.0.1:${server.port}`)
    expect(performance.now() - startedAtMs).toBeLessThan(50)
    expect([rig.tier.state(), (await rig.get('key')).outcome]).toEqual(['connecting', 'not-asked'])
    expect(await rig.set('key', 'x')).toBe('dropped')
    await until(() => rig.tier.state() === 'resting')
    await until(() => rig.tier.state() === 'connecting')
    await until(() => rig.tier.state() === 'resting')
    const redis = `redis://127.0.0.1:${server.port}/0`
    expect(rig.events).toEqual([{ type: 'redis-lost', redis, cause: 'nothing listens there' }])
    await rig.tier.close()

    await server.start()
    const late = await connectedTier(`redis://127.0.0.1:${server.port}`)
    expect(late.events).toEqual([{ type: 'redis-answers', redis }])
    expect(uncaught).toEqual([])
  })

  it('restarts is used again at once: what was under way is lost, and nothing else', async () => {
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    await rig.set('key', 'value')
    server.fail({ kind: 'stall' }, ['GET'])
    const underWay = rig.tier.get('key')
    server.dropAll()
    server.fail(undefined)
    expect(await underWay).toBeUndefined()
    expect(rig.lookups.at(-1)).toBe('failed')
    await until(() => rig.tier.state() === 'connected')
    expect((await rig.get('key')).value).toBe('value')
    expect(rig.events).toHaveLength(1)
  })

  it('takes connections and closes them after the greeting is not dialled in a loop', async () => {
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    const before = server.accepted()
    for (let round = 0; round < FAILURES_MAX; round++) {
      const accepted = server.accepted()
      server.dropAll()
      await until(() => rig.tier.state() === 'resting' || server.accepted() >= accepted + 2)
      await until(() => rig.tier.state() !== 'connecting')
    }
    expect(rig.tier.state()).toBe('resting')
    expect(server.accepted() - before).toBeLessThanOrEqual(2 * FAILURES_MAX)
  })

  it.each([
    ['the password', { password: 'secret' }, 'it refuses the password'],
    ['a password that it has none for', {}, 'it has no password, and the URL has one'],
    [
      'clients, being protected',
      { banner: '-DENIED Redis is running in protected mode\r\n' },
      'it is protected and takes no connections from other machines',
    ],
    ['the database', { password: 'wrong', databases: 3 }, 'it has no database of this number'],
  ] as const)('refuses %s is told of in words, without the password', async (_, options, cause) => {
    const server = await serve(options)
    const rig = startTier(`redis://:wrong@127.0.0.1:${server.port}/3`)
    await until(() => rig.events.length > 0)
    expect(rig.events).toEqual([{ type: 'redis-lost', redis: `redis://127.0.0.1:${server.port}/3`, cause }])
  })

  it('repeats the password in an error has it in no event', async () => {
    const server = await serve({ password: 'hunter2' })
    server.fail({ kind: 'error', line: "ERR unknown command 'AUTH', with args beginning with: 'hunter2'" })
    const rig = startTier(`redis://:hunter2@127.0.0.1:${server.port}`)
    await until(() => rig.events.length > 0)
    expect(rig.events).toMatchObject([{ cause: 'it answers with an error' }])
    expect(JSON.stringify(rig.events)).not.toContain('hunter2')
  })

  it('takes the connection and never says a word is given up in bounded time', async () => {
    const server = await serve()
    server.fail({ kind: 'stall' })
    const rig = startTier(`redis://127.0.0.1:${server.port}`)
    expect((await rig.get('key')).outcome).toBe('not-asked')
    await until(() => rig.tier.state() === 'resting')
    expect(rig.events).toMatchObject([{ type: 'redis-lost', cause: 'it took longer than 50 ms to answer' }])
    await until(() => server.connections() === 0)
  })

  it('is stalled while the router stops: close ends in bounded time', async () => {
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    server.fail({ kind: 'stall' })
    rig.tier.set('key', Buffer.from('x'), 1_000)
    const lookup = rig.tier.get('key')
    const startedAtMs = performance.now()
    await rig.tier.close()
    expect(performance.now() - startedAtMs).toBeLessThan(1_000)
    expect(await lookup).toBeUndefined()
    await until(() => server.connections() === 0)
    expect(rig.saves.at(-1)).toBe('failed')
  })

  it.each([
    ['is a replica', 'READONLY You can’t write against a read only replica.', 'it is a replica, which only reads'],
    ['is full', "OOM command not allowed when used memory > 'maxmemory'.", 'its memory is full'],
    ['cannot write its disk', 'MISCONF Redis is configured to save', 'it cannot save to its disk and takes no writes'],
  ])('%s is read still; that it takes nothing is told once, and that it does again', async (_, line, cause) => {
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    await rig.set('key', 'value')
    server.fail({ kind: 'error', line }, ['SET'])
    for (let save = 0; save < FAILURES_MAX; save++) expect(await rig.set(`new ${save}`, 'x')).toBe('failed')
    const sets = () => server.commands().filter((command) => command.startsWith('SET')).length
    const before = sets()
    for (let save = 0; save < 20; save++) {
      expect(await rig.set('new', 'x')).toBe('dropped')
      expect((await rig.get('key')).value).toBe('value')
    }
    expect([sets(), rig.tier.state()]).toEqual([before, 'connected'])
    server.fail(undefined)
    await untilSaved(rig)
    await rig.set('key', 'other')
    expect((await rig.get('key')).value).toBe('other')
    expect(rig.events).toMatchObject([
      { type: 'redis-answers' },
      { type: 'redis-refuses-saves', cause },
      { type: 'redis-takes-saves' },
    ])
  })

  it('hands one tenant’s answer to another’s question gives neither of them anything', async () => {
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    for (const tenant of ['a', 'b', 'c', 'd']) await rig.set(tenant, `of ${tenant}`)
    server.fail({ kind: 'off-by-one' }, ['GET'])
    const found = await Promise.all(['a', 'b', 'c', 'd', 'a', 'b'].map((tenant) => rig.tier.get(tenant)))
    expect(found).toEqual(Array(6).fill(undefined))
    expect(rig.lookups.slice(0, 2)).toEqual(['miss', 'wrong-key'])
    server.fail(undefined)
    await until(() => rig.tier.state() === 'connected')
    for (const tenant of ['a', 'b', 'c', 'd']) expect((await rig.get(tenant)).value).toBe(`of ${tenant}`)
  })

  it('answers late never has that answer taken for another’s', async () => {
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    for (const key of ['a', 'b']) await rig.set(key, `of ${key}`)
    for (let round = 0; round < 3; round++) {
      server.fail({ kind: 'delay', delayMs: 60 }, ['GET'])
      const late = rig.get('a')
      expect((await late).outcome).toBe('late')
      server.fail(undefined)
      expect(await rig.get('b')).toEqual({ value: 'of b', outcome: 'hit' })
    }
    expect(rig.events).toHaveLength(1)
  })

  it('was stored to by another version of this program is a miss, and stays connected', async () => {
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    const other = packValue(Buffer.from('warmpath:response:key'), Buffer.from('x'))
    other[8] = 2
    server.values.set('0/warmpath:response:key', { value: other, untilMs: Infinity })
    const { length } = server.commands()
    for (let lookup = 0; lookup < 10; lookup++) expect((await rig.get('key')).outcome).toBe('miss')
    expect(server.commands()).toHaveLength(length + 10)
  })

  it('stalls under a thousand lookups at once keeps each within the budget', async () => {
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    server.fail({ kind: 'stall' })
    const startedAtMs = performance.now()
    await Promise.all(Array.from({ length: 1_100 }, (_, index) => rig.tier.get(`key ${index}`)))
    expect(performance.now() - startedAtMs).toBeLessThan(LOOKUP_BUDGET_MS + NOISE_MS)
    expect(Object.fromEntries(Map.groupBy(rig.lookups, (outcome) => outcome))).toMatchObject({
      late: { length: expect.any(Number) },
      'not-asked': { length: 76 },
    })
    expect(rig.lookups).toHaveLength(1_100)
    expect(rig.tier.state()).toBe('resting')
  })

  it('has a name that nobody knows is told of', async () => {
    const rig = startTier('redis://no-such-host.invalid:1')
    await until(() => rig.events.length > 0)
    expect(rig.events[0]).toMatchObject({ type: 'redis-lost', cause: expect.stringMatching(/^its host name/) })
  })

  it('is being dialled while the router stops keeps it no longer', async () => {
    const server = await serve()
    server.fail({ kind: 'stall' })
    const rig = startTier(`redis://127.0.0.1:${server.port}`)
    await until(() => server.connections() === 2)
    await rig.tier.close()
    await until(() => server.connections() === 0)
    expect(rig.events).toEqual([])
  })
})
