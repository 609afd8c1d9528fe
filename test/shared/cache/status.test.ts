// Cache-Status as RFC 9211 has it: each cache adds its word after those nearer to the engine.
import { describe, expect, it } from 'vitest'
import { type CacheOutcome, cacheStatus } from '../../../shared/cache/status.ts'

describe('cacheStatus', () => {
  it.each<[CacheOutcome, string]>([
    [{ hit: true, ttlSeconds: 30 }, 'here; hit; ttl=30'],
    [{ hit: true, ttlSeconds: 30, detail: 'redis' }, 'here; hit; ttl=30; detail=redis'],
    [{ hit: false, forwarded: 'miss' }, 'here; fwd=miss'],
    [{ hit: false, forwarded: 'miss', collapsed: true }, 'here; fwd=miss; collapsed'],
    [{ hit: false, forwarded: 'bypass', detail: 'no-store' }, 'here; fwd=bypass; detail=no-store'],
  ])('%j', (outcome, expected) => {
    expect(cacheStatus('here', outcome)).toBe(expected)
    expect(cacheStatus('here', outcome, 'there; fwd=stale')).toBe(`there; fwd=stale, ${expected}`)
  })
})
