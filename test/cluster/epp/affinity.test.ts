import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { createAccuracyLedger } from '../../../cluster/epp/accuracy.ts'
import { createPins } from '../../../cluster/epp/pins.ts'
import { createSessions } from '../../../cluster/epp/sessions.ts'
import { scopeOf, sessionIdOf } from '../../../cluster/proxy/session-id.ts'

const POOL = ['10.0.0.1:8000', '10.0.0.2:8000', '10.0.0.3:8000'] as EndpointId[]
const [A, B] = POOL as [EndpointId, EndpointId]
const OLD = 'o'.repeat(32)
const NEW = 'n'.repeat(32)

describe('pins: an endpoint’s name that tells a caller nothing', () => {
  it('lead back to the endpoint, by any router with the keys, while the endpoint is there', () => {
    const pin = createPins([NEW]).pinOf(A)
    expect(pin).toMatch(/^[A-Za-z0-9_-]{16}$/)
    expect(createPins([NEW]).endpointOfPin(pin, POOL)).toBe(A)
    expect(createPins([NEW]).endpointOfPin(pin, [B])).toBeUndefined()
  })
  it('survive a change of keys, and end with their key', () => {
    const pin = createPins([OLD]).pinOf(A)
    expect(createPins([NEW, OLD]).endpointOfPin(pin, POOL)).toBe(A)
    expect(createPins([NEW]).endpointOfPin(pin, POOL)).toBeUndefined()
  })
})

const D1 = 'd-0123456789-1'
const D2 = 'd-0123456789-zz'

describe('response ids lead to the engine that stored the response', () => {
  const pins = createPins([NEW, OLD])
  it('for whom it was made, by any router with the keys, and never twice the same', () => {
    const id = pins.responseId(A, 'tenant:acme', D1)
    expect(id).toMatch(/^resp_[A-Za-z0-9_-]{38}$/)
    expect(createPins([NEW]).endpointOfResponse(id, 'tenant:acme', POOL)).toBe(A)
    expect(pins.responseId(A, 'tenant:acme', D2)).not.toBe(id)
    expect(pins.responseId(B, 'tenant:acme', D1)).not.toBe(id)
    expect(pins.endpointOfResponse(createPins([OLD]).responseId(B, 't', D1), 't', POOL)).toBe(B)
  })
  it('are nobody else’s: another tenant’s request finds nothing', () => {
    expect(pins.endpointOfResponse(pins.responseId(A, 'tenant:acme', D1), 'tenant:evil', POOL)).toBeUndefined()
  })
  it('cannot be made up or altered', () => {
    const id = pins.responseId(A, 't', D1)
    fc.assert(
      fc.property(fc.nat(id.length - 1), fc.constantFrom(...'AZaz09-_.~'), (at, char) => {
        const altered = id.slice(0, at) + char + id.slice(at + 1)
        // The last character of 22 holds four bits that no byte has.
        fc.pre(altered !== id && at !== id.length - 1)
        expect(pins.endpointOfResponse(altered, 't', POOL)).toBeUndefined()
      }),
    )
    fc.assert(fc.property(fc.string(), (text) => pins.endpointOfResponse(text, 't', POOL) === undefined))
  })
})

describe('the table of sessions', () => {
  it('remembers the endpoint of the last turn for an hour', () => {
    let now = 0
    const sessions = createSessions(() => now)
    sessions.served('s', A)
    sessions.served('s', B)
    now = 3_600_000
    expect(sessions.find('s')).toBe(B)
    now++
    expect(sessions.find('s')).toBeUndefined()
  })
  it('is bounded: a flood of sessions drops those that were used longest ago', () => {
    const sessions = createSessions(() => 0, 3)
    for (const key of ['a', 'b', 'c']) sessions.served(key, A)
    sessions.served('a', A)
    sessions.served('d', A)
    expect(['a', 'b', 'c', 'd'].map((key) => sessions.find(key))).toEqual([A, undefined, A, A])
  })
})

describe('which session a request belongs to', () => {
  it.each([
    [{ 'x-session-id': 'a', 'x-claude-code-session-id': 'b' }, 'k', 'x-session-id'],
    [{ 'x-claude-code-session-id': 'b', session_id: 'c' }, 'k', 'x-claude-code-session-id'],
    [{ 'x-session-affinity': 'b' }, 'k', 'x-session-affinity'],
    [{ 'session-id': 'b' }, undefined, 'session-id'],
    [{ session_id: 'b' }, undefined, 'session_id'],
    [{}, 'k', 'prompt_cache_key'],
    [{}, undefined, undefined],
    [{ 'x-session-id': '' }, undefined, undefined],
    [{ 'x-session-id': 'x'.repeat(256) }, undefined, undefined],
    [{ 'x-session-id': 'x'.repeat(255) }, undefined, 'x-session-id'],
  ])('%j with prompt_cache_key %s: by %s', (headers, promptCacheKey, source) => {
    expect(sessionIdOf(headers, promptCacheKey, () => 't')?.source).toBe(source)
  })
  it('equal ids of two tenants, or of two Authorization headers, are two sessions', () => {
    const caller = { trusted: false, tenant: undefined, pin: undefined }
    const scopes = [
      scopeOf({ ...caller, tenant: 'a' }, {}),
      scopeOf({ ...caller, tenant: 'b' }, {}),
      scopeOf(caller, { authorization: 'Bearer a' }),
      scopeOf(caller, { authorization: 'Bearer b' }),
      scopeOf(caller, {}),
    ]
    const keys = scopes.map((scope) => sessionIdOf({ 'x-session-id': 's' }, undefined, scope)?.key)
    expect(new Set(keys).size).toBe(5)
    expect(scopes.join()).not.toContain('Bearer')
  })
})

describe('the router’s view of its own accuracy', () => {
  it('adds up what was predicted and what came, for each endpoint and in all', () => {
    const ledger = createAccuracyLedger()
    ledger.add(A, { predicted: 96, actual: 96, promptTokens: 100 })
    ledger.add(A, { predicted: 96, actual: 32, promptTokens: 100 })
    ledger.add(B, { predicted: 0, actual: 16, promptTokens: 50 })
    expect(ledger.of(A)).toMatchObject({ answers: 2, exact: 1, over: 1, under: 0, errorTokens: 64 })
    const total = { answers: 3, exact: 1, over: 1, under: 1, predictedTokens: 192, actualTokens: 144, errorTokens: 80 }
    expect(ledger.total()).toMatchObject({ ...total, promptTokens: 250 })
    expect(ledger.total().errors.reduce((sum, count) => sum + count)).toBe(3)
    ledger.forget(A)
    expect(ledger.of(A).answers).toBe(0)
    expect(ledger.total().answers).toBe(3)
  })
})
