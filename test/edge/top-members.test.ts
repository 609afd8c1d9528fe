// What is read of an answer while it passes, however it is cut and whatever it holds.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MEMBER_BYTES_MAX, TopMembers } from '../../edge/top-members.ts'

const encoder = new TextEncoder()
const NAMES = ['usage', 'id', 'a']

/** Reads the text in pieces of these sizes, in turn. */
function read(text: string | Uint8Array, sizes: readonly number[] = [Number.POSITIVE_INFINITY]): object {
  const bytes = typeof text === 'string' ? encoder.encode(text) : text
  const members = new TopMembers(NAMES)
  for (let at = 0, turn = 0; at < bytes.length; turn++) {
    const size = sizes[turn % sizes.length] as number
    members.push(bytes.subarray(at, at + size))
    at += size
  }
  return members.found()
}

const sizes = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 5 })

describe('the members of the first level', () => {
  it('are those that a parser of the whole finds, wherever the bytes are cut', () => {
    const named = fc.dictionary(
      fc.oneof(fc.constantFrom(...NAMES), fc.string()),
      fc.jsonValue({ stringUnit: 'binary' }),
    )
    fc.assert(
      fc.property(named, fc.constantFrom(undefined, 1, '\t'), sizes, (object, space, cuts) => {
        const text = JSON.stringify(object, undefined, space)
        const parsed: Record<string, unknown> = JSON.parse(text)
        expect(read(text, cuts)).toEqual(
          Object.fromEntries(Object.entries(parsed).filter(([name]) => NAMES.includes(name))),
        )
      }),
    )
  })

  it('are not those that an answer only quotes, or that stand deeper', () => {
    const text = JSON.stringify({
      output: '","usage":{"input_tokens":1},"',
      tools: [{ parameters: { usage: { input_tokens: 2 } } }],
      text: '\\',
      usage: { input_tokens: 3 },
      user: '\\","usage":4',
    })
    for (const size of [1, 2, 3, 1_000]) expect(read(text, [size])).toEqual({ usage: { input_tokens: 3 } })
  })

  it('are found beside members of any size, and one too long is passed over', () => {
    const long = 'x'.repeat(2 * MEMBER_BYTES_MAX)
    const text = JSON.stringify({ instructions: long, id: 'r', a: long, usage: { input_tokens: 1 } })
    expect(read(text)).toEqual({ id: 'r', usage: { input_tokens: 1 } })
    expect(read(text, [7])).toEqual({ id: 'r', usage: { input_tokens: 1 } })
  })

  it('are found up to the longest, to the byte', () => {
    const value = 'x'.repeat(MEMBER_BYTES_MAX - '"a":""'.length)
    expect(read(`{"a":"${value}"}`, [1_000])).toEqual({ a: value })
    expect(read(`{"a":"${value}x"}`, [1_000])).toEqual({})
  })

  it('are there when the answer breaks off behind them, and not when inside', () => {
    expect(read('{"id":"r","usage":{"input_tokens":1}')).toEqual({ id: 'r' })
    expect(read('{"id":"r","usage":{"input_tokens":1},"out')).toEqual({ id: 'r', usage: { input_tokens: 1 } })
  })
})

it.each(['', 'null', '<html>"', '[{"usage":1}]', '["usage"]', '"usage"', '}}}{"usage":1}', '{"usage"}', '{,,}', '{]'])(
  'nothing is found in %j',
  (text) => expect(read(text, [1])).toEqual({}),
)

it('no bytes make it throw', () => {
  const jsonish = fc.string({ unit: fc.constantFrom('{', '}', '[', ']', '"', '\\', ',', ':', 'usage', '1') })
  fc.assert(
    fc.property(fc.oneof(jsonish, fc.uint8Array({ maxLength: 200 })), sizes, (bytes, cuts) => void read(bytes, cuts)),
  )
})
