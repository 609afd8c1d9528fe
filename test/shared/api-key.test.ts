// Keys, their checksum and their records.
import { createHmac, randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { isApiKey, keyDigest, keyRecordName, mintApiKey, parseKeyRecord } from '../../shared/api-key.ts'

it('mints keys that are keys', () => {
  const keys = Array.from({ length: 100 }, () => mintApiKey(randomBytes))
  for (const key of keys) {
    expect(key).toMatch(/^wp_live_[0-9A-Za-z]{32}_[0-9A-Za-z]{6}$/)
    expect(isApiKey(key)).toBe(true)
  }
  expect(new Set(keys).size).toBe(keys.length)
})

it('keeps its checksum', () => {
  expect(mintApiKey((count) => new Uint8Array(count))).toBe(`wp_live_${'0'.repeat(32)}_2xBr7Z`)
})

it('draws again where a byte would favour some digits', () => {
  const draws = [new Uint8Array(32).fill(255), ...Array.from({ length: 32 }, () => new Uint8Array([61, 248]))]
  const key = mintApiKey(() => draws.shift() ?? new Uint8Array())
  expect(key).toContain(`wp_live_${'z'.repeat(32)}_`)
})

it('refuses every typo of one character and every swap of neighbours', () => {
  const key = mintApiKey(randomBytes)
  fc.assert(
    fc.property(fc.nat(key.length - 1), fc.constantFrom(...'0aZ_ '), (at, typo) => {
      fc.pre(key.charAt(at) !== typo)
      expect(isApiKey(key.slice(0, at) + typo + key.slice(at + 1))).toBe(false)
    }),
  )
  for (let at = 8; at < key.length - 1; at++) {
    const swapped = key.slice(0, at) + key.charAt(at + 1) + key.charAt(at) + key.slice(at + 2)
    expect(isApiKey(swapped)).toBe(swapped === key)
  }
  for (const text of ['', 'wp_live_', `${key} `, key.slice(1), `sk-${key}`]) expect(isApiKey(text)).toBe(false)
})

it('digests as any HMAC-SHA256 does', async () => {
  const digest = await keyDigest('pepper', 'wp_live_x')
  expect(digest).toBe(createHmac('sha256', 'pepper').update('wp_live_x').digest('hex'))
  expect(keyRecordName(digest)).toBe(`key:${digest}`)
})

it('reads records and drops what it does not know', () => {
  const record = { tenant: 'acme', createdAt: '2026-11-22T00:00:00.000Z', models: ['a'], disabled: false, name: 'ci' }
  expect(parseKeyRecord({ ...record, quota: 5 })).toEqual(record)
  expect(parseKeyRecord({ tenant: 'acme', createdAt: record.createdAt })).toEqual({
    tenant: 'acme',
    createdAt: record.createdAt,
  })
})

it.each([
  [null],
  ['text'],
  [{}],
  [{ tenant: 'Acme', createdAt: '2026-11-22' }],
  [{ tenant: 'acme', createdAt: 'yesterday' }],
  [{ tenant: 'acme', createdAt: '2026-11-22', expiresAt: 'never' }],
  [{ tenant: 'acme', createdAt: '2026-11-22', models: 'all' }],
  [{ tenant: 'acme', createdAt: '2026-11-22', disabled: 'no' }],
])('refuses the record %j', (value) => {
  expect(parseKeyRecord(value)).toBeUndefined()
})
