// Cache-Control as callers write it.
import { describe, expect, it } from 'vitest'
import { readDirectives } from '../../../shared/cache/directives.ts'

const NONE = { noStore: false, noCache: false, maxAgeSeconds: undefined, onlyIfCached: false }

describe('readDirectives', () => {
  it.each([
    [null, {}],
    ['', {}],
    ['no-store', { noStore: true }],
    ['No-Cache', { noCache: true }],
    ['max-age=60', { maxAgeSeconds: 60 }],
    ['max-age="60"', { maxAgeSeconds: 60 }],
    ['max-age = 60 , only-if-cached', { maxAgeSeconds: 60, onlyIfCached: true }],
    ['max-age=0', { maxAgeSeconds: 0 }],
    ['max-age=-1', {}],
    ['max-age=1e3', {}],
    ['max-age', {}],
    ['max-age=99999999999999999999', { maxAgeSeconds: 2 ** 31 }],
    ['public, min-fresh=3, no-storefront', {}],
    [',,;no-store', {}],
    [`${'x'.repeat(1_024)}, max-age=1`, { noStore: true }],
  ] as const)('reads %j', (header, expected) => {
    expect(readDirectives(header)).toEqual({ ...NONE, ...expected })
  })
})
