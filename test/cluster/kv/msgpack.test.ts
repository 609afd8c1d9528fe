import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { HashList } from '../../../cluster/kv/hash-list.ts'
import { MsgpackFault, MsgpackReader } from '../../../cluster/kv/msgpack.ts'
import { Words } from '../../../cluster/kv/words.ts'
import { type Encodable, encode, Raw } from './encode-msgpack.ts'

const reader = (value: Encodable) => new MsgpackReader(encode(value), new Words(['known', 'other']))
const LONG = 'x'.repeat(70_000)

describe('a value is read whatever width it was written in', () => {
  it.each([
    ['fixint', '07', 7],
    ['negative fixint', 'ff', -1],
    ['uint8', 'cc c8', 200],
    ['uint16', 'cd 0100', 256],
    ['uint32', 'ce ffffffff', 2 ** 32 - 1],
    ['uint64', 'cf 0020000000000000', 2 ** 53],
    ['uint64 beyond int64', 'cf 8000000000000000', 2 ** 63],
    ['int8', 'd0 80', -128],
    ['int16', 'd1 8000', -32_768],
    ['int32', 'd2 80000000', -(2 ** 31)],
    ['int64', 'd3 ffffffffffffff00', -256],
    ['float32', 'ca 3fc00000', 1.5],
    ['float64', 'cb 3ff8000000000000', 1.5],
  ])('number: %s', (_, hex, value) => {
    expect(reader(new Raw(hex)).number()).toBe(value)
  })
  it.each(['', 'known', 'unknown', 'wärm 🔥', 'y'.repeat(200), 'z'.repeat(300), LONG])('text %#', (text) => {
    expect(reader(text).text()).toBe(text)
  })
  it.each([0, 1, 300, 70_000])('%i bytes', (length) => {
    const bytes = Buffer.alloc(length, 7)
    expect(Buffer.from(reader(bytes).bytes()).equals(bytes)).toBe(true)
  })
  it('arrays and maps of every header', () => {
    for (const count of [0, 15, 16, 70_000]) {
      expect(reader(new Array<number>(count).fill(1)).array()).toBe(count)
      const map = Object.fromEntries(Array.from({ length: count }, (_, index) => [`k${index}`, 1]))
      expect(reader(map).map()).toBe(count)
    }
    expect(reader(new Raw('dd 00000001 c0')).array()).toBe(1)
    expect(reader(new Raw('df 00000001 01 c0')).map()).toBe(1)
  })
})

describe('hashes', () => {
  it.each([
    ['fixint', '07', 0, 7],
    ['uint64', 'cf dab6f0c2a1b2c3d4', 0xdab6f0c2, 0xa1b2c3d4],
    ['uint32', 'ce a1b2c3d4', 0, 0xa1b2c3d4],
    ['negative fixint, in two\u2019s complement', 'ff', 0xffffffff, 0xffffffff],
    ['int16', 'd1 8000', 0xffffffff, 0xffff8000],
    ['int64', 'd3 dab6f0c2a1b2c3d4', 0xdab6f0c2, 0xa1b2c3d4],
    ['a digest, by its last eight bytes', `c4 20 ${'11'.repeat(24)} dab6f0c2a1b2c3d4`, 0xdab6f0c2, 0xa1b2c3d4],
    ['bytes with a long header', 'c6 00000008 dab6f0c2a1b2c3d4', 0xdab6f0c2, 0xa1b2c3d4],
  ])('%s', (_, hex, hi, lo) => {
    expect(reader(new Raw(hex)).hash()).toEqual({ hi, lo })
    expect([...reader([new Raw(hex), new Raw(hex)]).hashes(2)]).toEqual([hi, lo, hi, lo])
  })
  it('are read behind others into one list, which gives them out from the front', () => {
    const list = new HashList()
    const values = Array.from({ length: 100 }, (_, index) => index)
    reader(values).hashesOnto(list, 100)
    reader([1000]).hashesOnto(list, 1)
    expect([...list.take(200)]).toEqual(values.flatMap((value) => [0, value]))
    expect([...list.take(2)]).toEqual([0, 1000])
    expect(list.length).toBe(0)
  })
  it('cut short in a list are a fault', () => {
    expect(() => reader(new Raw('92 cf 0102030405060708 cf 01020304050607')).hashes(2)).toThrow(MsgpackFault)
  })
  it('are no more than may be', () => {
    expect(() => reader([1, 2]).hashes(1)).toThrow('2 hashes where 1 may be')
  })
  it.each(['a161', 'c0', 'cb 3ff8000000000000', 'c4 07 00000000000000', '90'])('are not: %s', (hex) => {
    expect(() => reader(new Raw(hex)).hash()).toThrow(MsgpackFault)
  })
})

describe('an array of token ids', () => {
  const tokens = fc.array(fc.oneof(fc.nat(300), fc.nat(70_000), fc.integer({ min: 0, max: 2 ** 32 - 1 })))
  it('is read exactly, and the reader stands after it', () => {
    fc.assert(
      fc.property(tokens, (values) => {
        const both = reader([values, 'known'])
        both.array()
        expect([...(both.uint32s() ?? [])]).toEqual(values)
        expect(both.text()).toBe('known')
        expect(both.bytesLeft).toBe(0)
      }),
    )
  })
  it('may be written in wider integers than needed', () => {
    const wide = new Raw('96 cf 0000000000000005 d3 0000000000000006 d0 07 d1 0008 d2 00000009 0a')
    expect([...(reader(wide).uint32s() ?? [])]).toEqual([5, 6, 7, 8, 9, 10])
  })
  it.each([
    ['pairs', [1, [2, 3], 4]],
    ['a negative number', [1, -1]],
    ['a number beyond 32 bits', [1, 2n ** 32n]],
    ['a text', [1, 'two']],
    ['nil', [1, null]],
  ])('with %s in it is none, and is passed over', (_, values) => {
    const both = reader([values, 'known'])
    both.array()
    expect(both.uint32s()).toBeUndefined()
    expect(both.text()).toBe('known')
  })
  it('that stops in the middle is a fault', () => {
    const whole = encode([1, 200, 70_000, 300])
    for (let length = 0; length < whole.length; length++) {
      const cut = new MsgpackReader(whole.subarray(0, length), new Words([]))
      expect(() => cut.uint32s()).toThrow(MsgpackFault)
    }
  })
})

describe('what costs a sender nothing costs the reader nothing', () => {
  it.each([
    'dd ffffffff',
    'df ffffffff',
    'dc ffff c0',
    'de ffff c0 c0',
    'c6 ffffffff',
    'db ffffffff',
    'c9 ffffffff 01',
  ])('a header that claims too much: %s', (hex) => {
    for (const method of ['array', 'map', 'uint32s', 'hashes', 'skip', 'text', 'bytes', 'canonicalText'] as const) {
      const beforeBytes = process.memoryUsage().arrayBuffers
      expect(() =>
        method === 'hashes' ? reader(new Raw(hex)).hashes(2 ** 32) : reader(new Raw(hex))[method](),
      ).toThrow(MsgpackFault)
      expect(process.memoryUsage().arrayBuffers - beforeBytes).toBeLessThan(1024 * 1024)
    }
  })
  it('nesting as deep as the payload is long is passed over without a stack, and has no text', () => {
    const deep = new Raw(`${'91'.repeat(1_000_000)}c0`)
    const skipping = reader(deep)
    skipping.skip()
    expect(skipping.bytesLeft).toBe(0)
    expect(() => reader(deep).canonicalText()).toThrow(MsgpackFault)
  })
  it('an unused type byte is a fault', () => {
    expect(() => reader(new Raw('c1')).skip()).toThrow(MsgpackFault)
    expect(() => reader(new Raw('c1')).kind()).toThrow(MsgpackFault)
  })
})

const { value: anything } = fc.letrec<{ value: Encodable }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.constant(null),
    fc.boolean(),
    fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }),
    fc.double({ noNaN: true }),
    fc.string({ unit: 'grapheme' }),
    fc.uint8Array({ maxLength: 300 }),
    fc.array(tie('value'), { maxLength: 5 }),
    fc.dictionary(fc.string(), tie('value'), { maxKeys: 5 }),
  ),
}))

describe('any value', () => {
  it('is passed over exactly', () => {
    fc.assert(
      fc.property(anything, (value) => {
        const both = reader([value, 'known'])
        both.array()
        both.skip()
        expect(both.text()).toBe('known')
      }),
    )
  })
  it('cut short is a fault', () => {
    fc.assert(
      fc.property(anything, fc.nat(), (value, at) => {
        const whole = encode(value)
        const cut = new MsgpackReader(whole.subarray(0, at % whole.length), new Words([]))
        expect(() => cut.skip()).toThrow(MsgpackFault)
      }),
    )
  })
})

describe('the canonical text', () => {
  it('is the same whatever the widths and the order of keys', () => {
    const a = reader({ b: [1, new Raw('cd 0001'), 1.5], a: Buffer.from('00ff', 'hex'), c: null, d: true })
    const b = reader({ d: true, c: null, a: new Raw('c5 0002 00ff'), b: [new Raw('d3 0000000000000001'), 1, 1.5] })
    const text = a.canonicalText()
    expect(text).toBe('{"a":x00ff,"b":[1,1,1.5],"c":null,"d":true}')
    expect(b.canonicalText()).toBe(text)
  })
  it('tells 64-bit numbers apart, which a double could not', () => {
    expect(reader(2n ** 60n).canonicalText()).toBe('0x1000000000000000')
    expect(reader(2n ** 60n + 1n).canonicalText()).toBe('0x1000000000000001')
    expect(reader(new Raw('d4 05 ff')).canonicalText()).toBe('extd405ff')
  })
})
