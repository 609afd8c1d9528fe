// What a Redis, or who answers in its place, may send: hostile bytes are stopped in front of the client library.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ReplyGate } from '../../../cluster/cache/redis-replies.ts'

const MAX = 1_000

function read(expected: number, ...chunks: (string | Buffer)[]): string | undefined {
  const gate = new ReplyGate(MAX)
  for (let reply = 0; reply < expected; reply++) gate.expect()
  for (const chunk of chunks) {
    const fault = gate.read(Buffer.from(chunk as string))
    if (fault !== undefined) return fault
  }
  return undefined
}

describe('ReplyGate', () => {
  it.each([
    ['a word', '+OK\r\n'],
    ['an error', '-ERR no such thing\r\n'],
    ['nothing', '$-1\r\n'],
    ['an empty value', '$0\r\n\r\n'],
    ['a value with line breaks', '$8\r\n\r\n+OK\r\n\r\r\n'],
    ['the largest value', `$${MAX}\r\n${'x'.repeat(MAX)}\r\n`],
  ])('%s passes, and is counted as one reply', (_, reply) => {
    expect(read(1, reply)).toBeUndefined()
    expect(read(1, reply, '+OK\r\n')).toBe('it sent what nobody asked for')
  })

  it.each([
    ['a push without a kind, which ioredis 6.0.0 throws for', '>1\r\n_\r\n'],
    ['a list', '*1\r\n$1\r\na\r\n'],
    ['a map', '%1\r\n+a\r\n+b\r\n'],
    ['a number', ':1\r\n'],
    ['a web server', 'HTTP/1.1 400 Bad Request\r\n\r\n'],
    ['a value that is longer than it says', '$1\r\nab\r\n'],
    ['a value without an end', '$1\r\na\n'],
    ['a length below nothing', '$-2\r\n'],
    ['a length that is none', '$1e3\r\n'],
    ['a line without its carriage return', '+OK\n'],
    ['a line without end', `+${'x'.repeat(10_000)}`],
    ['zeros', Buffer.alloc(10_000)],
  ])('%s is refused', (_, bytes) => {
    expect(read(9, bytes)).toBe('it does not speak as a Redis does')
  })

  it('a value is refused when its length is read, before its bytes have come', () => {
    expect(read(1, `$${MAX + 1}\r\n`)).toBe('it sent a value that is too large')
    expect(read(1, '$9999999999\r\n')).toBe('it sent a value that is too large')
  })

  it('what is unasked is refused at its first byte', () => {
    expect(read(0, '+')).toBe('it sent what nobody asked for')
    expect(read(0, '$-1\r\n')).toBe('it sent what nobody asked for')
  })

  it('property: how the network cuts the bytes changes nothing', () => {
    const reply = fc.oneof(
      fc.constantFrom('+OK\r\n', '-ERR x\r\n', '$-1\r\n', ':1\r\n', '$0\r\n\r\n'),
      fc.string({ maxLength: 40 }).map((text) => `$${Buffer.byteLength(text)}\r\n${text}\r\n`),
    )
    fc.assert(
      fc.property(fc.array(reply), fc.nat(12), fc.array(fc.nat(400)), (replies, expected, cuts) => {
        const bytes = Buffer.from(replies.join(''))
        const at = [0, ...cuts.filter((cut) => cut < bytes.length).sort((a, b) => a - b), bytes.length]
        const pieces = at.slice(1).map((end, index) => bytes.subarray(at[index], end))
        expect(read(expected, ...pieces)).toBe(read(expected, bytes))
      }),
    )
  })

  it('property: random bytes never throw', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => void read(3, Buffer.from(bytes))))
  })
})
