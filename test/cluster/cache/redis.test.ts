// The tier that routers share, while Redis is well: what is saved is found, by its own key alone, within limits.
import { readFileSync } from 'node:fs'
import tls from 'node:tls'
import { describe, expect, it, onTestFinished } from 'vitest'
import { connectRedis, SAVES_MAX, VALUE_BYTES_MAX } from '../../../cluster/cache/redis.ts'
import { KEY_BYTES_MAX, packValue, unpackValue } from '../../../cluster/cache/redis-value.ts'
import { UserError } from '../../../cluster/user-error.ts'
import { type RespServerOptions, startRespServer } from '../../resp-server.ts'
import { connectedTier, startTier, until } from './redis-rig.ts'

async function serve(options?: RespServerOptions) {
  const server = await startRespServer(options)
  onTestFinished(server.stop)
  return server
}

describe('connectRedis', () => {
  it('gives what was saved, byte for byte, to another router too, until it expires', async () => {
    const server = await serve()
    const one = await connectedTier(`redis://127.0.0.1:${server.port}`)
    const other = await connectedTier(`redis://127.0.0.1:${server.port}`)
    const bytes = Buffer.from(Array.from({ length: 512 }, (_, index) => index % 256))
    expect(await one.set('key', bytes)).toBe('saved')
    expect(await other.tier.get('key')).toEqual(bytes)
    expect(await other.get('another')).toEqual({ value: undefined, outcome: 'miss' })
    expect(await one.set('empty', '')).toBe('saved')
    expect(await one.get('empty')).toEqual({ value: '', outcome: 'hit' })
    await one.set('brief', 'x', 1)
    await until(() => (server.values.get('0/warmpath:response:brief')?.untilMs ?? 0) < Date.now())
    expect((await one.get('brief')).outcome).toBe('miss')
    expect(one.events).toEqual([{ type: 'redis-answers', redis: `redis://127.0.0.1:${server.port}/0` }])
  })

  it('uses the user, password and database of its URL, and says none of the first two', async () => {
    const server = await serve({ username: 'warm', password: 'p@ss' })
    const rig = await connectedTier(`redis://warm:p%40ss@127.0.0.1:${server.port}/7`)
    await rig.set('key', 'value')
    expect([...server.values.keys()]).toContain('7/warmpath:response:key')
    expect((await rig.get('key')).value).toBe('value')
    expect(JSON.stringify(rig.events)).not.toMatch(/p@ss|p%40ss|warm/)
  })

  it('speaks TLS to rediss://, with a certificate that this machine trusts and no other', async () => {
    const [key, cert] = ['key', 'crt'].map((end) =>
      readFileSync(new URL(`../../fixtures/tls/engine.${end}`, import.meta.url)),
    )
    const server = await serve({ tls: { key: key as Buffer, cert: cert as Buffer } })
    const distrusting = startTier(`rediss://127.0.0.1:${server.port}`)
    await until(() => distrusting.events.length > 0)
    expect(distrusting.events).toMatchObject([
      { type: 'redis-lost', cause: expect.stringMatching(/^its TLS is not accepted/) },
    ])
    const trusted = tls.getCACertificates('default')
    onTestFinished(() => tls.setDefaultCACertificates(trusted))
    tls.setDefaultCACertificates([...trusted, String(cert)])
    for (const host of ['127.0.0.1', 'localhost']) {
      const rig = await connectedTier(`rediss://${host}:${server.port}`)
      expect(await rig.set('key', 'x'.repeat(300_000))).toBe('saved')
      expect((await rig.get('key')).value).toHaveLength(300_000)
    }
  })

  it('asks for nothing but the right to read and write its keys', async () => {
    const server = await serve({ password: 'secret' })
    const rig = await connectedTier(`redis://:secret@127.0.0.1:${server.port}/1`)
    await rig.get('key')
    await rig.tier.close()
    const said = new Set(server.commands().map((command) => command.replace(/(GET|SET) warmpath:response:.*/, '$1')))
    expect([...said].sort()).toEqual(['AUTH secret', 'GET', 'QUIT', 'SELECT 1', 'SET'])
  })

  it('an URL that cannot be is refused at the start, in words without its password', () => {
    const connect = () => connectRedis('http://:secret@h', {} as never)
    expect(connect).toThrow(UserError)
    expect(connect).toThrow(/^the URL of Redis: expected an URL like redis:/)
  })

  it('a value that is too large is not saved, and not taken when somebody else stored it', async () => {
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    expect(await rig.set('largest', Buffer.alloc(VALUE_BYTES_MAX))).toBe('saved')
    expect((await rig.tier.get('largest'))?.length).toBe(VALUE_BYTES_MAX)
    expect(await rig.set('larger', Buffer.alloc(VALUE_BYTES_MAX + 1))).toBe('dropped')
    const key = Buffer.from('warmpath:response:larger')
    const store = (bytes: number) =>
      server.values.set(`0/${key}`, { value: packValue(key, Buffer.alloc(bytes)), untilMs: Infinity })
    store(VALUE_BYTES_MAX + 1)
    expect(await rig.get('larger')).toEqual({ value: undefined, outcome: 'failed' })
    store(VALUE_BYTES_MAX + 10_000)
    expect(await rig.get('larger')).toEqual({ value: undefined, outcome: 'failed' })
    await until(() => rig.tier.state() === 'connected')
    expect((await rig.tier.get('largest'))?.length).toBe(VALUE_BYTES_MAX)
  })

  it.each([
    ['no time', 0],
    ['less than a millisecond', 0.5],
    ['none', Number.NaN],
    ['the past', -1],
  ])('what is to live %s is not saved', async (_, ttlMs) => {
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    expect(await rig.set('key', 'x', ttlMs)).toBe('dropped')
    expect(await rig.set('for ever', 'x', Infinity)).toBe('saved')
  })

  it('a key that is too long is not asked for', async () => {
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    expect((await rig.get('k'.repeat(KEY_BYTES_MAX))).outcome).toBe('not-asked')
    expect(await rig.set('k'.repeat(KEY_BYTES_MAX), 'x')).toBe('dropped')
  })

  it('saves that Redis does not keep up with are dropped, by number and by bytes, and counted', async () => {
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    const before = rig.saves.length
    server.fail({ kind: 'stall' }, ['SET'])
    for (let save = 0; save < SAVES_MAX + 10; save++) rig.tier.set(`key ${save}`, Buffer.from('x'), 1_000)
    expect(rig.saves.slice(before)).toEqual(Array(10).fill('dropped'))
    await rig.tier.close()
    await until(() => rig.saves.length >= before + 10 + SAVES_MAX)
    expect(rig.saves.slice(before + 10)).toEqual(Array(SAVES_MAX).fill('failed'))
  })

  it('32 MiB of values under way are the most', async () => {
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    const before = rig.saves.length
    for (let save = 0; save < 40; save++) rig.tier.set(`key ${save}`, Buffer.alloc(VALUE_BYTES_MAX), 60_000)
    expect(rig.saves.slice(before)).toEqual(Array(8).fill('dropped'))
    await until(() => rig.saves.length === before + 40)
    expect(rig.saves.slice(before + 8)).toEqual(Array(32).fill('saved'))
    expect(await rig.set('more', 'x')).toBe('saved')
  })

  it('close waits for what is being saved, and asks nothing any more', async () => {
    const server = await serve()
    const rig = await connectedTier(`redis://127.0.0.1:${server.port}`)
    rig.tier.set('last', Buffer.from('x'), 60_000)
    await rig.tier.close()
    expect([...server.values.keys()]).toContain('0/warmpath:response:last')
    await until(() => server.connections() === 0)
    expect((await rig.get('last')).outcome).toBe('not-asked')
    expect(await rig.set('later', 'x')).toBe('dropped')
    await rig.tier.close()
    expect(server.connections()).toBe(0)
  })
})

describe('unpackValue', () => {
  const key = Buffer.from('warmpath:response:a')
  const packed = packValue(key, Buffer.from('value'))
  const changed = (at: number, byte: number): Buffer => {
    const copy = Buffer.from(packed)
    copy[at] = byte
    return copy
  }
  it.each([
    ['its own', packed, Buffer.from('value')],
    ['another key’s', packValue(Buffer.from('warmpath:response:b'), Buffer.from('value')), 'wrong-key'],
    ['a longer key’s', packValue(Buffer.from('warmpath:response:ab'), Buffer.from('value')), 'wrong-key'],
    ['the answer to a SET', Buffer.from('OK'), 'wrong-key'],
    ['nothing', Buffer.alloc(0), 'wrong-key'],
    ['somebody else’s', Buffer.from('{"json":"of another program"}'), 'wrong-key'],
    ['cut in its key', packed.subarray(0, 20), 'wrong-key'],
    ['of another version', changed(8, 2), 'other-format'],
  ])('a value that is %s', (_, bytes, unpacked) => {
    expect(unpackValue(key, bytes)).toEqual(unpacked)
  })
})
