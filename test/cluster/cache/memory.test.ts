// Answers in memory: bounded in bytes, the ones not asked for longest go first.
import { describe, expect, it } from 'vitest'
import { createMemoryTier } from '../../../cluster/cache/memory.ts'
import type { CacheEntry } from '../../../shared/cache/entry.ts'

const entry = (json: string): CacheEntry => ({ storedAtMs: 1, ttlSeconds: 60, callsTools: false, json })
const KILOBYTE = 'x'.repeat(1_024)

describe('createMemoryTier', () => {
  it('gives back what was stored, byte for byte', () => {
    const tier = createMemoryTier(1e6)
    const stored = { ...entry('{"text":"héé\\n\\u0000😀"}'), callsTools: true }
    tier.set('a', stored)
    expect(tier.get('a')).toEqual(stored)
    expect(tier.get('b')).toBeUndefined()
    expect([tier.bytes() > 0, tier.entries()]).toEqual([true, 1])
  })

  it('stays within its bytes; what was asked for last stays longest', () => {
    const tier = createMemoryTier(10 * 1_024)
    for (let index = 0; index < 100; index++) {
      tier.set(`key ${index}`, entry(KILOBYTE))
      tier.get('key 0')
      expect(tier.bytes()).toBeLessThanOrEqual(10 * 1_024)
    }
    expect(tier.get('key 0')).toBeDefined()
    expect(tier.get('key 99')).toBeDefined()
    expect(tier.get('key 50')).toBeUndefined()
  })

  it('what is larger than all of it is not kept, and does not empty it', () => {
    const tier = createMemoryTier(4 * 1_024)
    tier.set('small', entry('{}'))
    tier.set('large', entry(KILOBYTE.repeat(8)))
    expect(tier.get('large')).toBeUndefined()
    expect(tier.get('small')).toBeDefined()
  })

  it('a new answer takes the place of the old one, and of its bytes', () => {
    const tier = createMemoryTier(1e6)
    tier.set('a', entry(KILOBYTE))
    const before = tier.bytes()
    tier.set('a', entry(KILOBYTE))
    expect([tier.bytes(), tier.entries()]).toEqual([before, 1])
  })

  it('with no bytes it keeps nothing', () => {
    const tier = createMemoryTier(0)
    tier.set('a', entry('{}'))
    expect(tier.get('a')).toBeUndefined()
  })
})
