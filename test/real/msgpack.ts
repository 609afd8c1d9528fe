// MessagePack read plainly into JavaScript's own values, so that what an engine sent can be looked at field by field
// without the reader under test.

/** Maps become objects that keep the order of their members; 64-bit integers become bigints. Throws at anything else. */
export function readMsgpack(bytes: Uint8Array): unknown {
  const buffer = Buffer.from(bytes)
  let at = 0

  function uint(size: number): number {
    at += size
    return buffer.readUIntBE(at - size, size)
  }
  function text(length: number): string {
    at += length
    return buffer.toString('utf8', at - length, at)
  }
  function binary(length: number): Buffer {
    at += length
    return buffer.subarray(at - length, at)
  }
  const list = (length: number): unknown[] => Array.from({ length }, value)
  const map = (length: number) => Object.fromEntries(Array.from({ length }, () => [value() as string, value()]))

  function value(): unknown {
    const head = uint(1)
    if (head < 0x80) return head
    if (head < 0x90) return map(head & 0x0f)
    if (head < 0xa0) return list(head & 0x0f)
    if (head < 0xc0) return text(head & 0x1f)
    if (head >= 0xe0) return head - 0x100
    switch (head) {
      case 0xc0:
        return null
      case 0xc2:
      case 0xc3:
        return head === 0xc3
      case 0xc4:
        return binary(uint(1))
      case 0xcb:
        at += 8
        return buffer.readDoubleBE(at - 8)
      case 0xcc:
      case 0xcd:
      case 0xce:
        return uint(1 << (head - 0xcc))
      case 0xcf:
        at += 8
        return buffer.readBigUInt64BE(at - 8)
      case 0xd9:
      case 0xda:
        return text(uint(1 << (head - 0xd9)))
      case 0xdc:
      case 0xdd:
        return list(uint(2 << (head - 0xdc)))
      case 0xde:
        return map(uint(2))
      default:
        throw new Error(`no value begins with 0x${head.toString(16)} here, at ${at - 1}`)
    }
  }

  const whole = value()
  if (at !== buffer.length) throw new Error(`${buffer.length - at} bytes after the value`)
  return whole
}
