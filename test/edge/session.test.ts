// The session token: what it survives, what it does not, and that a bad one never costs its caller an answer.
import { env } from 'cloudflare:workers'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import {
  outcomeOf,
  readSession,
  renewSession,
  SESSION_SECONDS_MAX,
  SESSION_TOKEN_CHARS_MAX,
  SESSION_TTL_SECONDS,
  type SessionScope,
} from '../../edge/session.ts'
import { HEADER } from '../../shared/headers.ts'
import { hmacSha256, toBase64url, toHex } from '../../shared/hmac.ts'
import { parseKeyRing, parseSignature, signingInput } from '../../shared/signature.ts'
import { CHAT, chat, fakeRouter, sse, storedKey, streamed } from './support.ts'

const BODY = { model: 'tiny', messages: [] }
const OLD = `old:${'o'.repeat(32)}`
const NEW = `new:${'n'.repeat(32)}`
const START_MS = Date.parse('2026-11-22T12:00:00Z')
const PIN = 'pin-A_1'

function setUp(over: { keys?: string; tenant?: string } = {}) {
  let nowMs = START_MS
  const scope: SessionScope = {
    tenant: over.tenant ?? 'acme',
    keys: parseKeyRing(over.keys ?? NEW),
    clock: { epochMs: () => nowMs, monotonicMs: () => nowMs },
  }
  return {
    scope,
    advance: (seconds: number) => {
      nowMs += seconds * 1_000
    },
    at: (seconds: number) => {
      nowMs = START_MS + seconds * 1_000
    },
    read: (token: string | null) => readSession(token, scope),
    /** A turn of a conversation: the token comes, the router names an endpoint, a token goes. */
    turn: async (token: string | null, pin: string | null) => renewSession(await readSession(token, scope), pin, scope),
  }
}

async function minted(scope: SessionScope, pin = PIN): Promise<string> {
  const { token } = await renewSession({ state: 'none' }, pin, scope)
  if (token === undefined) throw new Error('no token')
  return token
}

function payloadOf(token: string): Record<string, unknown> {
  const [, , payload = ''] = token.split('.')
  return JSON.parse(atob(payload.replaceAll('-', '+').replaceAll('_', '/')))
}

/** A token over any payload with a MAC that is right. */
async function signedOver(payload: string): Promise<string> {
  const signed = `v1.new.${payload}`
  return `${signed}.${toBase64url(await hmacSha256('n'.repeat(32), `warmpath-session-token-v1\n${signed}`))}`
}

/** Every text that differs from this one in one bit of one byte. */
function* flipped(token: string): Generator<string> {
  for (let at = 0; at < token.length; at++) {
    for (let bit = 0; bit < 8; bit++) {
      yield token.slice(0, at) + String.fromCharCode(token.charCodeAt(at) ^ (1 << bit)) + token.slice(at + 1)
    }
  }
}

describe('a token', () => {
  it('gives back the pin, holds 128 random bits and stays small with the longest pin and key id', async () => {
    const { scope, read } = setUp({ keys: `${'k'.repeat(32)}:${'n'.repeat(32)}` })
    const [token, other] = [await minted(scope, 'p'.repeat(64)), await minted(scope, 'p'.repeat(64))]
    expect(await read(token)).toMatchObject({ state: 'valid', token, session: { pin: 'p'.repeat(64) } })
    expect(token.length).toBeLessThanOrEqual(SESSION_TOKEN_CHARS_MAX)
    expect(payloadOf(token)).toMatchObject({ s: expect.stringMatching(/^[A-Za-z0-9_-]{22}$/) })
    expect(payloadOf(token).s).not.toBe(payloadOf(other).s)
  })

  it('does not tell the tenant', async () => {
    const { scope } = setUp()
    expect(JSON.stringify(payloadOf(await minted(scope)))).not.toContain('acme')
  })

  it('with any bit flipped is none', async () => {
    const { scope, read } = setUp()
    const states = new Set<string>()
    for (const token of flipped(await minted(scope))) states.add((await read(token)).state)
    expect([...states]).toEqual(['rejected'])
  })

  it('of another tenant is none', async () => {
    const token = await minted(setUp({ tenant: 'globex' }).scope)
    expect(await setUp().read(token)).toEqual({ state: 'rejected', reason: 'foreign' })
  })

  it('outlives the key that signed it only as long as that key is known', async () => {
    const token = await minted(setUp({ keys: OLD }).scope)
    const rotated = setUp({ keys: `${NEW},${OLD}` })
    expect((await rotated.read(token)).state).toBe('valid')
    expect((await rotated.turn(token, 'pin-B')).token).toMatch(/^v1\.new\./)
    expect(await setUp({ keys: NEW }).read(token)).toEqual({ state: 'rejected', reason: 'unknown-key' })
    const swapped = parseKeyRing(`old:${'x'.repeat(32)}`)
    expect(await readSession(token, { ...rotated.scope, keys: swapped })).toEqual({
      state: 'rejected',
      reason: 'forged',
    })
  })

  it('is replaced by one of the current key at the next answer, so that the old key can go', async () => {
    const old = setUp({ keys: OLD })
    const token = await minted(old.scope)
    const rotated = setUp({ keys: `${NEW},${OLD}` })
    rotated.advance(1)
    const { token: renewed, outcome } = await rotated.turn(token, PIN)
    expect(outcome).toBe('kept')
    expect(renewed).toMatch(/^v1\.new\./)
    expect(payloadOf(renewed ?? '')).toMatchObject({ s: payloadOf(token).s, f: payloadOf(token).f, p: PIN })
    expect(await setUp({ keys: NEW }).read(renewed ?? '')).toMatchObject({ state: 'valid', session: { pin: PIN } })
    expect(await rotated.turn(renewed ?? '', PIN)).toEqual({ token: renewed, outcome: 'kept' })
  })

  it('cannot be made from the signature of a request, though the keys are the same', async () => {
    const { scope, read } = setUp()
    const [version, keyId, payload] = (await minted(scope)).split('.')
    const signed = `${version}.${keyId}.${payload}`
    const bare = toBase64url(await hmacSha256('n'.repeat(32), signed))
    const request = toBase64url(await hmacSha256('n'.repeat(32), `warmpath-request-v2\n${signed}`))
    for (const mac of [bare, request]) {
      expect(await read(`${signed}.${mac}`)).toEqual({ state: 'rejected', reason: 'forged' })
    }
  })

  it.each(['', 'e30', 'bnVsbA', 'W10', 'eyJ0Ijox', '____', toBase64url(new TextEncoder().encode('{"t":1,"s":2}'))])(
    'signed by us over %j is still none',
    async (payload) => {
      expect(await setUp().read(await signedOver(payload))).toEqual({ state: 'rejected', reason: 'malformed' })
    },
  )

  it('of any other text is none, and quickly', async () => {
    const { read } = setUp()
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(fc.string({ unit: 'binary' }), fc.stringMatching(/^[v1.A-Za-z_=-]*$/)),
        async (text) => {
          expect(await read(text)).toEqual({ state: 'rejected', reason: expect.any(String) })
        },
      ),
    )
    const long = ['.'.repeat(65_536), 'A'.repeat(65_536), `v1.new.${'A'.repeat(65_536)}.${'A'.repeat(43)}`]
    const token = await minted(setUp().scope)
    for (const text of [...long, 'v1', 'v1...', 'v1.new..', '....', `${token}.`, `.${token}`, `${token}, ${token}`]) {
      expect(await read(text)).toEqual({ state: 'rejected', reason: 'malformed' })
    }
  })
})

describe('a session', () => {
  it('keeps its token while the endpoint is the same and half the time is left', async () => {
    const world = setUp()
    const token = await minted(world.scope)
    world.at(SESSION_TTL_SECONDS / 2 - 1)
    expect(await world.turn(token, PIN)).toEqual({ token, outcome: 'kept' })
  })

  it('gets a new token after half of the time, and stays itself', async () => {
    const world = setUp()
    const token = await minted(world.scope)
    world.at(SESSION_TTL_SECONDS / 2)
    const renewed = await world.turn(token, PIN)
    expect(renewed.outcome).toBe('kept')
    expect(payloadOf(renewed.token ?? '')).toMatchObject({
      s: payloadOf(token).s,
      f: START_MS / 1_000,
      i: START_MS / 1_000 + SESSION_TTL_SECONDS / 2,
      e: START_MS / 1_000 + 1.5 * SESSION_TTL_SECONDS,
    })
  })

  it('gets a new token when it moves, and stays itself', async () => {
    const world = setUp()
    const token = await minted(world.scope)
    const moved = await world.turn(token, 'pin-B')
    expect(moved.outcome).toBe('moved')
    expect(payloadOf(moved.token ?? '')).toMatchObject({ s: payloadOf(token).s, p: 'pin-B' })
  })

  it('ends an hour after its last token', async () => {
    const world = setUp()
    const token = await minted(world.scope)
    world.at(SESSION_TTL_SECONDS - 1)
    expect((await world.read(token)).state).toBe('valid')
    world.at(SESSION_TTL_SECONDS)
    expect(await world.read(token)).toEqual({ state: 'rejected', reason: 'expired' })
    const fresh = await world.turn(token, PIN)
    expect(fresh.outcome).toBe('rejected-expired')
    expect(payloadOf(fresh.token ?? '').s).not.toBe(payloadOf(token).s)
  })

  it('ends a day after its first token, however busy, and is not re-signed in vain towards the end', async () => {
    const world = setUp()
    let token = await minted(world.scope)
    let tokens = 1
    for (let seconds = 60; seconds < SESSION_SECONDS_MAX; seconds += 60) {
      world.at(seconds)
      const renewed = await world.turn(token, PIN)
      expect(renewed.outcome).toBe('kept')
      if (renewed.token !== token) tokens++
      token = renewed.token ?? ''
    }
    expect(tokens).toBeLessThanOrEqual(SESSION_SECONDS_MAX / (SESSION_TTL_SECONDS / 2) + 1)
    world.at(SESSION_SECONDS_MAX)
    expect(await world.read(token)).toEqual({ state: 'rejected', reason: 'expired' })
  })

  it.each([null, '', 'no pin', 'pin, pin', 'x'.repeat(65)])('is left alone by a router that says %j', async (pin) => {
    const world = setUp()
    const token = await minted(world.scope)
    expect(await world.turn(token, pin)).toEqual({ token, outcome: 'kept' })
    expect(await world.turn(null, pin)).toEqual({ token: undefined, outcome: undefined })
    expect(await world.turn('nonsense', pin)).toEqual({ token: undefined, outcome: 'rejected-malformed' })
  })

  it('has no outcome before there is an answer, but for a rejected token', () => {
    expect(outcomeOf({ state: 'none' })).toBeUndefined()
    expect(outcomeOf({ state: 'rejected', reason: 'foreign' })).toBe('rejected-foreign')
  })
})

describe('through the Worker', () => {
  let logged: string[]

  beforeEach(() => {
    logged = []
    vi.spyOn(console, 'log').mockImplementation((line) => {
      logged.push(String(line))
    })
  })
  afterEach(() => {
    vi.useRealTimers()
    vi.restoreAllMocks()
  })

  const lastSession = () => JSON.parse(logged.at(-1) ?? 'null').session

  /** A router whose endpoints name themselves in turn. */
  function pinningRouter(...pins: string[]) {
    return fakeRouter(() => Response.json({}, { headers: { [HEADER.pin]: pins.shift() ?? PIN } }))
  }

  async function tokenFrom(key: string, headers: Record<string, string> = {}): Promise<string> {
    const answer = await chat(key, BODY, headers)
    await answer.text()
    return answer.headers.get(HEADER.sessionToken) ?? ''
  }

  it('the caller gets a token, the router gets the pin inside it, and neither gets the other’s', async () => {
    const arrived = pinningRouter()
    const key = await storedKey()
    const first = await chat(key, BODY)
    expect(first.headers.has(HEADER.pin)).toBe(false)
    await first.text()
    expect(lastSession()).toBe('new')
    const token = first.headers.get(HEADER.sessionToken) ?? ''
    expect(await tokenFrom(key, { [HEADER.sessionToken]: token })).toBe(token)
    expect(lastSession()).toBe('kept')
    expect(arrived[0]?.request.headers.has(HEADER.pin)).toBe(false)
    expect(arrived[1]?.request.headers.get(HEADER.pin)).toBe(PIN)
    expect(arrived.map(({ request }) => request.headers.has(HEADER.sessionToken))).toEqual([false, false])
  })

  it('the pin is under the signature of the request', async () => {
    const arrived = pinningRouter()
    const key = await storedKey()
    await tokenFrom(key, { [HEADER.sessionToken]: await tokenFrom(key) })
    const [, one] = arrived
    const signature = parseSignature(one?.request.headers.get(HEADER.signature) ?? '')
    if (!one || !signature) throw new Error('not signed')
    const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(one.body))
    const fields = { method: 'POST', path: CHAT, tenant: 'acme', bodyDigest: toHex(new Uint8Array(digest)) }
    const secret = parseKeyRing(env.EDGE_SIGNING_KEYS).secrets.get('new') ?? ''
    const macFor = async (pin: string) =>
      toBase64url(await hmacSha256(secret, signingInput({ ...signature, ...fields, pin })))
    expect(signature.mac).toBe(await macFor(PIN))
    expect(signature.mac).not.toBe(await macFor(''))
  })

  it('a caller cannot name an endpoint itself', async () => {
    const arrived = pinningRouter()
    const key = await storedKey()
    await tokenFrom(key, { [HEADER.pin]: 'theirs' })
    const token = await tokenFrom(key)
    await tokenFrom(key, { [HEADER.pin]: 'theirs', [HEADER.sessionToken]: token })
    expect(arrived.map(({ request }) => request.headers.get(HEADER.pin))).toEqual([null, null, PIN])
  })

  it('a session that moves gets another token', async () => {
    const arrived = pinningRouter('pin-A', 'pin-B', 'pin-B')
    const key = await storedKey()
    const first = await tokenFrom(key)
    const second = await tokenFrom(key, { [HEADER.sessionToken]: first })
    expect(lastSession()).toBe('moved')
    expect(second).not.toBe(first)
    await tokenFrom(key, { [HEADER.sessionToken]: second })
    expect(arrived.map(({ request }) => request.headers.get(HEADER.pin))).toEqual([null, 'pin-A', 'pin-B'])
  })

  it('the token comes with the head of a stream, before there is a body', async () => {
    let released = false
    fakeRouter(() => {
      const encoder = new TextEncoder()
      const body = new ReadableStream<Uint8Array>({
        async pull(controller) {
          // Kept alive by comments, as engines do: the test runs outside of this request and can only be looked at.
          await new Promise((resolve) => setTimeout(resolve, 1))
          controller.enqueue(encoder.encode(released ? sse('[DONE]') : ': wait\n\n'))
          if (released) controller.close()
        },
      })
      return new Response(body, { headers: { 'content-type': 'text/event-stream', [HEADER.pin]: PIN } })
    })
    const answer = await chat(await storedKey(), { ...BODY, stream: true })
    expect(answer.headers.get(HEADER.sessionToken)).toMatch(/^v1\.new\./)
    released = true
    expect(await answer.text()).toContain(sse('[DONE]'))
  })

  it('an event stream without a pin has no token, and nothing of it in the log', async () => {
    fakeRouter(() => streamed([sse('[DONE]')]))
    const answer = await chat(await storedKey(), { ...BODY, stream: true })
    await answer.text()
    expect(answer.headers.has(HEADER.sessionToken)).toBe(false)
    expect(logged.at(-1)).not.toContain('session')
  })

  it('a refusal carries no token, whoever refuses', async () => {
    const key = await storedKey()
    pinningRouter()
    const token = await tokenFrom(key)
    fakeRouter(() => Response.json({}, { status: 429, headers: { [HEADER.pin]: PIN, [HEADER.sessionToken]: 'x' } }))
    expect(await tokenFrom(key, { [HEADER.sessionToken]: token })).toBe('')
    fakeRouter(() => Promise.reject(new Error('connection refused')))
    expect(await tokenFrom(key, { [HEADER.sessionToken]: token })).toBe('')
    expect(await tokenFrom(key, { [HEADER.sessionToken]: 'nonsense' })).toBe('')
    expect(lastSession()).toBe('rejected-malformed')
  })

  it('a token of the router’s own making does not pass', async () => {
    fakeRouter(() => Response.json({}, { headers: { [HEADER.sessionToken]: 'x' } }))
    expect(await tokenFrom(await storedKey())).toBe('')
  })

  it('a token of another tenant is none', async () => {
    const arrived = pinningRouter()
    const theirs = await tokenFrom(await storedKey({ tenant: 'globex' }))
    const ours = await tokenFrom(await storedKey(), { [HEADER.sessionToken]: theirs })
    expect(lastSession()).toBe('rejected-foreign')
    expect(ours).not.toBe(theirs)
    expect(ours).not.toBe('')
    expect(arrived[1]?.request.headers.has(HEADER.pin)).toBe(false)
  })

  it('a token of an older key keeps its session, under the current key', async () => {
    const keys = parseKeyRing(env.EDGE_SIGNING_KEYS)
    const olderId = [...keys.secrets.keys()].find((id) => id !== keys.currentId) ?? ''
    const clock = { epochMs: () => Date.now(), monotonicMs: () => 0 }
    const token = await minted({ tenant: 'acme', keys: { ...keys, currentId: olderId }, clock })
    const arrived = pinningRouter()
    const renewed = await tokenFrom(await storedKey(), { [HEADER.sessionToken]: token })
    expect(lastSession()).toBe('kept')
    expect(arrived[0]?.request.headers.get(HEADER.pin)).toBe(PIN)
    expect(renewed).toMatch(/^v1\.new\./)
    expect(payloadOf(renewed).s).toBe(payloadOf(token).s)
  })

  it('a token that has expired is none', async () => {
    vi.useFakeTimers({ toFake: ['Date'] })
    const arrived = pinningRouter()
    const key = await storedKey()
    const token = await tokenFrom(key)
    vi.setSystemTime(Date.now() + SESSION_TTL_SECONDS * 1_000)
    expect(await tokenFrom(key, { [HEADER.sessionToken]: token })).toMatch(/^v1\.new\./)
    expect(lastSession()).toBe('rejected-expired')
    expect(arrived[1]?.request.headers.has(HEADER.pin)).toBe(false)
  })

  it.each([
    ['64 KB', 'x'.repeat(65_536)],
    ['64 KB of dots', '.'.repeat(65_536)],
    ['latin letters', 'v1.new.é.ÿ'],
    ['nothing', ''],
    ['two tokens', 'v1.new.e30.x, v1.new.e30.x'],
  ])('a header of %s is none', async (_, header) => {
    pinningRouter()
    const answer = await chat(await storedKey(), BODY, { [HEADER.sessionToken]: header })
    expect(answer.status).toBe(200)
    await answer.text()
    expect(lastSession()).toBe('rejected-malformed')
  })

  it('no flipped bit costs a caller its answer', async () => {
    const arrived = pinningRouter()
    const key = await storedKey()
    const variants = [...flipped(await tokenFrom(key))].filter(isHeaderValue)
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...variants), async (token) => {
        const answer = await chat(key, BODY, { [HEADER.sessionToken]: token })
        expect(answer.status).toBe(200)
        await answer.text()
        expect(lastSession()).toMatch(/^rejected-/)
        expect(arrived.at(-1)?.request.headers.has(HEADER.pin)).toBe(false)
      }),
    )
  })
})

/** Whether any client can send it as it is. */
function isHeaderValue(text: string): boolean {
  return /^[!-~]+$/.test(text)
}
