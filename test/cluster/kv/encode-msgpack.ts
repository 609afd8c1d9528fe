// A writer of MessagePack for tests, which can write what msgspec never would: any width, any key order, any nesting.

export type Encodable =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | readonly Encodable[]
  | { readonly [key: string]: Encodable }
  | Raw

/** Bytes that stand in the output as they are. */
export class Raw {
  readonly bytes: Uint8Array
  constructor(hex: string) {
    this.bytes = Buffer.from(hex.replaceAll(' ', ''), 'hex')
  }
}

export function encode(value: Encodable): Buffer {
  if (value instanceof Raw) return Buffer.from(value.bytes)
  if (value === null) return Buffer.from([0xc0])
  if (typeof value === 'boolean') return Buffer.from([value ? 0xc3 : 0xc2])
  if (typeof value === 'bigint') return encodeInteger(value)
  if (typeof value === 'number') return Number.isInteger(value) ? encodeInteger(BigInt(value)) : encodeFloat(value)
  if (typeof value === 'string') {
    const text = Buffer.from(value)
    return Buffer.concat([header(text.length, 0xa0, 32, [0xd9, 0xda, 0xdb]), text])
  }
  if (value instanceof Uint8Array) return Buffer.concat([header(value.length, 0, 0, [0xc4, 0xc5, 0xc6]), value])
  if (isArray(value)) {
    return Buffer.concat([header(value.length, 0x90, 16, [undefined, 0xdc, 0xdd]), ...value.map(encode)])
  }
  const entries = Object.entries(value)
  const body = entries.flatMap(([key, member]) => [encode(key), encode(member)])
  return Buffer.concat([header(entries.length, 0x80, 16, [undefined, 0xde, 0xdf]), ...body])
}

function isArray(value: Encodable): value is readonly Encodable[] {
  return Array.isArray(value)
}

/** A length in the shortest form there is: in the type byte below `fixedBelow`, then in 1, 2 or 4 bytes. */
function header(
  length: number,
  fixed: number,
  fixedBelow: number,
  [one, two, four]: readonly [one: number | undefined, two: number, four: number],
): Buffer {
  if (length < fixedBelow) return Buffer.from([fixed | length])
  if (one !== undefined && length < 2 ** 8) return Buffer.from([one, length])
  const head = Buffer.alloc(length < 2 ** 16 ? 3 : 5)
  head[0] = length < 2 ** 16 ? two : four
  head.writeUIntBE(length, 1, head.length - 1)
  return head
}

function encodeInteger(value: bigint): Buffer {
  if (value >= 0n && value < 128n) return Buffer.from([Number(value)])
  if (value < 0n && value >= -32n) return Buffer.from([0x100 + Number(value)])
  const widths = [8, 16, 32, 64] as const
  const negative = value < 0n
  const index = widths.findIndex((bits) => (negative ? value >= -(2n ** BigInt(bits - 1)) : value < 2n ** BigInt(bits)))
  const bits = widths[index] ?? 64
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt.asUintN(64, value))
  return Buffer.concat([Buffer.from([(negative ? 0xd0 : 0xcc) + index]), bytes.subarray(8 - bits / 8)])
}

function encodeFloat(value: number): Buffer {
  const bytes = Buffer.alloc(9)
  bytes[0] = 0xcb
  bytes.writeDoubleBE(value, 1)
  return bytes
}
