// An answer as stores hold it: what comes back is what was stored, and nothing else is taken for one.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ageSeconds, ENTRY_CHARS_MAX, formatEntry, parseEntry } from '../../../shared/cache/entry.ts'

const entry = fc.record({
  storedAtMs: fc.nat(),
  ttlSeconds: fc.nat(999_999_999),
  callsTools: fc.boolean(),
  json: fc.oneof(fc.json(), fc.string({ unit: 'grapheme' }), fc.constant('{"a":"\\n"}\n{}')),
})

describe('an entry', () => {
  it('comes back as it was stored', () => {
    fc.assert(
      fc.property(entry, (stored) => {
        expect(parseEntry(formatEntry(stored))).toEqual(stored)
      }),
    )
  })

  it('is none when its first line is not whole', () => {
    const text = formatEntry({ storedAtMs: 1_700_000_000_000, ttlSeconds: 60, callsTools: false, json: '{}' })
    const line = text.indexOf('\n')
    for (let at = 0; at <= line; at++) expect(parseEntry(text.slice(0, at))).toBeUndefined()
    for (let at = 0; at < line; at++) expect(parseEntry(`${text.slice(0, at)}x${text.slice(at + 1)}`)).toBeUndefined()
  })

  it.each([
    '',
    '\n{}',
    '{}',
    'warmpath-answer-1 1 1 2\n{}',
    'warmpath-answer-1 -1 1 0\n{}',
    'warmpath-answer-2 1 1 0\n{}',
    ` ${'warmpath-answer-1 1 1 0'}\n{}`,
    `warmpath-answer-1 1 1 0\n${'x'.repeat(ENTRY_CHARS_MAX)}`,
  ])('is none: %.60j', (text) => {
    expect(parseEntry(text)).toBeUndefined()
  })

  it('is never younger than new, whatever the clocks say', () => {
    const stored = { storedAtMs: 10_000, ttlSeconds: 60, callsTools: false, json: '{}' }
    expect([9_000, 10_999, 11_000, 70_000].map((nowMs) => ageSeconds(stored, nowMs))).toEqual([0, 0, 1, 60])
  })
})
