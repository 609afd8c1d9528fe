// Writes batches of KV events byte for byte as vLLM's msgspec does, fast enough for millions of blocks.

const STORED = text('BlockStored')
const REMOVED = text('BlockRemoved')

/** One batch of as many events as it is told at first. */
export class EventWriter {
  readonly #parts: Buffer[] = []

  constructor(events: number, atSeconds = 1.5) {
    const time = Buffer.alloc(9)
    time[0] = 0xcb
    time.writeDoubleBE(atSeconds, 1)
    this.#parts.push(Buffer.of(0x93), time, array(events))
  }

  stored(hashes: Uint32Array, parent: Uint32Array | undefined, tokenIds: Uint32Array): void {
    const blocks = hashes.length / 2
    this.#parts.push(
      Buffer.of(0x8b),
      ...[text('type'), STORED, text('block_hashes'), array(blocks), hashesOf(hashes)],
      ...[text('parent_block_hash'), parent === undefined ? NIL : hashesOf(parent)],
      ...[text('token_ids'), array(tokenIds.length), ...Array.from(tokenIds, integer)],
      ...[text('block_size'), integer(tokenIds.length / blocks), text('lora_id'), NIL, text('medium'), text('GPU')],
      ...[text('lora_name'), NIL, text('extra_keys'), array(blocks), Buffer.alloc(blocks, 0xc0)],
      ...[text('group_idx'), integer(0), text('kv_cache_spec_kind'), text('full_attention')],
    )
  }

  removed(hashes: Uint32Array): void {
    this.#parts.push(
      Buffer.of(0x84),
      ...[text('type'), REMOVED, text('block_hashes'), array(hashes.length / 2), hashesOf(hashes)],
      ...[text('medium'), text('GPU'), text('group_idx'), integer(0)],
    )
  }

  payload(): Buffer {
    return Buffer.concat([...this.#parts, integer(0)])
  }
}

const NIL = Buffer.of(0xc0)

function text(value: string): Buffer {
  return Buffer.concat([Buffer.of(0xa0 | value.length), Buffer.from(value)])
}

function array(length: number): Buffer {
  return length < 16 ? Buffer.of(0x90 | length) : Buffer.of(0xdc, length >> 8, length & 0xff)
}

function integer(value: number): Buffer {
  if (value < 128) return Buffer.of(value)
  if (value < 256) return Buffer.of(0xcc, value)
  if (value < 65_536) return Buffer.of(0xcd, value >> 8, value & 0xff)
  return Buffer.of(0xce, value >>> 24, (value >> 16) & 0xff, (value >> 8) & 0xff, value & 0xff)
}

function hashesOf(words: Uint32Array): Buffer {
  const bytes = Buffer.alloc((words.length / 2) * 9)
  for (let at = 0; at < words.length / 2; at++) {
    bytes[9 * at] = 0xcf
    bytes.writeUInt32BE(words[2 * at] as number, 9 * at + 1)
    bytes.writeUInt32BE(words[2 * at + 1] as number, 9 * at + 5)
  }
  return bytes
}
