// What is stored in Redis: which format, under which key, then the bytes. The key is in there because a client library
// that is off by one must not hand one tenant's answer to another.

const MAGIC = Buffer.from('warmpath')
const VERSION = 1
const VERSION_AT = MAGIC.length
const KEY_LENGTH_AT = VERSION_AT + 1
const KEY_AT = KEY_LENGTH_AT + 2

export const KEY_BYTES_MAX = 1_024
export const HEADER_BYTES_MAX = KEY_AT + KEY_BYTES_MAX

/** @param key of at most KEY_BYTES_MAX. */
export function packValue(key: Buffer, value: Buffer): Buffer {
  const packed = Buffer.allocUnsafe(KEY_AT + key.length + value.length)
  MAGIC.copy(packed)
  packed.writeUInt8(VERSION, VERSION_AT)
  packed.writeUInt16BE(key.length, KEY_LENGTH_AT)
  key.copy(packed, KEY_AT)
  value.copy(packed, KEY_AT + key.length)
  return packed
}

/** `wrong-key`: another key's, or nothing that we store. `other-format`: another version of this program stored it. */
export function unpackValue(key: Buffer, packed: Buffer): Buffer | 'wrong-key' | 'other-format' {
  if (packed.length < KEY_AT || !packed.subarray(0, VERSION_AT).equals(MAGIC)) return 'wrong-key'
  if (packed.readUInt8(VERSION_AT) !== VERSION) return 'other-format'
  const start = KEY_AT + packed.readUInt16BE(KEY_LENGTH_AT)
  if (!packed.subarray(KEY_AT, start).equals(key)) return 'wrong-key'
  return packed.subarray(start)
}
