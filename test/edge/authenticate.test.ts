// Who gets in: keys in headers, records in the store, and what is remembered of them.
import { env } from 'cloudflare:workers'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createAuthenticate, KNOWN_KEY_MS, UNKNOWN_KEY_MS } from '../../edge/authenticate.ts'
import { type KeyRecord, keyDigest, keyRecordName, mintApiKey } from '../../shared/api-key.ts'
import { call, chat, fakeRouter, storedKey } from './support.ts'

const BODY = { model: 'tiny', messages: [] }
const PEPPER = 'a pepper for one test and nothing else'

function mint(): string {
  return mintApiKey((count) => crypto.getRandomValues(new Uint8Array(count)))
}

beforeEach(() => {
  vi.spyOn(console, 'log').mockImplementation(() => {})
})
afterEach(() => {
  vi.restoreAllMocks()
})

describe('through the Worker', () => {
  it.each([
    ['Bearer', (key: string) => ({ authorization: `Bearer ${key}` })],
    ['bearer in lower case', (key: string) => ({ authorization: `bearer ${key}` })],
    ['x-api-key', (key: string) => ({ 'x-api-key': key })],
    ['both, the same', (key: string) => ({ authorization: `Bearer ${key}`, 'x-api-key': key })],
  ])('lets a key in: %s', async (_, headersOf) => {
    const arrived = fakeRouter(() => Response.json({ object: 'list', data: [] }))
    const headers = headersOf(await storedKey())
    expect((await call('/v1/models', { headers })).status).toBe(200)
    expect(arrived).toHaveLength(1)
  })

  it.each([
    ['none', async () => ({}), 'missing-api-key'],
    ['another scheme', async () => ({ authorization: 'Basic abc' }), 'invalid-api-key'],
    ['a typo', async () => ({ 'x-api-key': `${(await storedKey()).slice(0, -1)}~` }), 'invalid-api-key'],
    ['one that the store does not know', async () => ({ 'x-api-key': mint() }), 'invalid-api-key'],
    ['a disabled one', async () => ({ 'x-api-key': await storedKey({ disabled: true }) }), 'invalid-api-key'],
    [
      'an expired one',
      async () => ({ 'x-api-key': await storedKey({ expiresAt: '2020-01-01T00:00:00Z' }) }),
      'invalid-api-key',
    ],
    [
      'two different ones',
      async () => ({ authorization: `Bearer ${await storedKey()}`, 'x-api-key': await storedKey() }),
      'invalid-api-key',
    ],
  ])('refuses %s', async (_, headersOf, reason) => {
    const arrived = fakeRouter(() => Response.json({}))
    const headers = { 'content-type': 'application/json', ...(await headersOf()) }
    const answer = await call('/v1/completions', { method: 'POST', headers, body: JSON.stringify(BODY) })
    expect(answer.status).toBe(401)
    expect(answer.headers.get('x-warmpath-reason')).toBe(reason)
    expect(answer.headers.get('x-should-retry')).toBe('false')
    expect(await answer.json()).toMatchObject({ error: { type: 'invalid_request_error', code: 'invalid_api_key' } })
    expect(arrived).toEqual([])
  })

  it('answers 503 when the key store fails', async () => {
    vi.spyOn(env.KEYS, 'get').mockRejectedValue(new Error('KV is away'))
    const answer = await chat(mint(), BODY)
    expect(answer.status).toBe(503)
    expect(await answer.text()).not.toContain('KV is away')
  })
})

describe('the memory of keys', () => {
  function setUp(record: Partial<KeyRecord> | undefined) {
    let nowMs = Date.parse('2026-11-22T12:00:00Z')
    let stored: unknown = record && { tenant: 'acme', createdAt: '2026-11-01T00:00:00Z', ...record }
    const asked: string[] = []
    const clock = { epochMs: () => nowMs, monotonicMs: () => nowMs }
    const authenticate = createAuthenticate(
      PEPPER,
      async (name) => {
        asked.push(name)
        return stored ?? null
      },
      clock,
    )
    return {
      asked,
      advance: (ms: number) => {
        nowMs += ms
      },
      store: (value: unknown) => {
        stored = value
      },
      try: (key: string) => authenticate(new Headers({ 'x-api-key': key })),
    }
  }

  it('looks a key up by its digest, and again only after its time', async () => {
    const key = mint()
    const world = setUp({ models: ['tiny'] })
    const first = await world.try(key)
    expect(first).toMatchObject({ ok: true, principal: { tenant: 'acme', models: ['tiny'] } })
    world.advance(KNOWN_KEY_MS - 1)
    await world.try(key)
    expect(world.asked).toEqual([keyRecordName(await keyDigest(PEPPER, key))])
    world.store({ tenant: 'acme', createdAt: '2026-11-01T00:00:00Z', disabled: true })
    world.advance(1)
    expect(await world.try(key)).toMatchObject({ ok: false, rejection: { reason: 'invalid-api-key' } })
  })

  it('forgets an unknown key sooner', async () => {
    const key = mint()
    const world = setUp(undefined)
    await world.try(key)
    world.store({ tenant: 'acme', createdAt: '2026-11-01T00:00:00Z' })
    world.advance(UNKNOWN_KEY_MS - 1)
    expect((await world.try(key)).ok).toBe(false)
    world.advance(1)
    expect((await world.try(key)).ok).toBe(true)
  })

  it('sees a remembered key expire', async () => {
    const key = mint()
    const world = setUp({ expiresAt: '2026-11-22T12:00:01Z' })
    expect((await world.try(key)).ok).toBe(true)
    world.advance(1_000)
    expect((await world.try(key)).ok).toBe(false)
    expect(world.asked).toHaveLength(1)
  })

  it('is not emptied of real keys by a flood of invented ones', async () => {
    const key = mint()
    const world = setUp({})
    await world.try(key)
    world.store(undefined)
    for (let i = 0; i < 1_100; i++) await world.try(mint())
    const asked = world.asked.length
    expect((await world.try(key)).ok).toBe(true)
    expect(world.asked).toHaveLength(asked)
  })

  it('salts tenants apart and one tenant the same', async () => {
    const salts = await Promise.all(
      ['acme', 'acme', 'globex'].map(async (tenant) => {
        const tried = await setUp({ tenant }).try(mint())
        return tried.ok ? tried.principal.cacheSalt : undefined
      }),
    )
    expect(salts[0]).toMatch(/^[A-Za-z0-9_-]{22}$/)
    expect(salts[1]).toBe(salts[0])
    expect(salts[2]).not.toBe(salts[0])
  })

  it('does not trust a record that it cannot read', async () => {
    expect(await setUp({ tenant: 'Not A Tenant' }).try(mint())).toMatchObject({
      ok: false,
      rejection: { reason: 'internal' },
    })
  })
})
