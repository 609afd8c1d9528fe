import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { fromBase64url, hmacSha256, isHmacSha256, toBase64url, toHex } from '../../shared/hmac.ts'

it('is the HMAC-SHA256 of RFC 4231, the first time and when the key is remembered', async () => {
  const mac = '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843'
  for (let time = 0; time < 2; time++) {
    expect(toHex(await hmacSha256('Jefe', 'what do ya want for nothing?'))).toBe(mac)
  }
})

it('keeps secrets apart, also more of them than it remembers', async () => {
  const secrets = Array.from({ length: 80 }, (_, index) => `secret ${index}`)
  const macs = await Promise.all(secrets.map((secret) => hmacSha256(secret, 'text')))
  expect(new Set(macs.map(toHex)).size).toBe(secrets.length)
  for (const [index, secret] of secrets.entries()) {
    expect(await isHmacSha256(Uint8Array.from(macs[index] ?? []), secret, 'text')).toBe(true)
  }
})

it('does not take another MAC, whatever its length', async () => {
  const mac = Uint8Array.from(await hmacSha256('secret', 'text'))
  expect(await isHmacSha256(mac, 'secret', 'texts')).toBe(false)
  expect(await isHmacSha256(mac.slice(0, 31), 'secret', 'text')).toBe(false)
  expect(await isHmacSha256(new Uint8Array(), 'secret', 'text')).toBe(false)
})

describe('base64url', () => {
  it('comes back as it went', () => {
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        expect(fromBase64url(toBase64url(bytes))).toEqual(bytes)
      }),
    )
  })

  it.each(['a', 'AB', 'AAA=', 'AA AA', 'ÀAAA', 'AA+A', 'AA/A', '!'])('%j is none, or spelt in another way', (text) => {
    expect(fromBase64url(text)).toBeUndefined()
  })

  it('has one spelling for one value, and no text is too strange to read', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const bytes = fromBase64url(text)
        expect(bytes === undefined || toBase64url(bytes) === text).toBe(true)
      }),
    )
  })
})
