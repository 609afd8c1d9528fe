// The whole index as bytes: what a new or restarted replica loads from one that runs. Engines keep their last events
// alone, so that nobody else can tell it what was stored before them.
import { crc32 } from 'node:zlib'
import * as v from 'valibot'
import type { EndpointId } from '../endpoints/endpoint.ts'
import { ENTRY_WORDS } from './hold-table.ts'
import type { SourceContent } from './indexed-source.ts'
import type { KvSource } from './kv-index.ts'
import type { StreamPosition } from './stream.ts'

/** One source of an index: what it holds, and which batch of its publisher was the last one. */
export type SourceSnapshot = {
  readonly endpoint: EndpointId
  readonly rank: number
  readonly model: string
  /** It dials; else it is dialled. */
  readonly dials: boolean
  readonly position: StreamPosition
  readonly content: SourceContent
}

/**
 * Version in its last byte. Then for each source: the lengths of its parts (three uint32, big-endian: header, payload,
 * entries), the header (JSON), the payload of its last batch, its entries (uint32, little-endian), and the checksum of all
 * four (CRC-32). Three zeros end it.
 */
const MAGIC = Buffer.from('WPKVSNP\x01', 'latin1')
const LENGTHS_BYTES = 12
const CHECKSUM_BYTES = 4

const HEADER_BYTES_MAX = 64 * 1024
const PAYLOAD_BYTES_MAX = 16 * 1024 * 1024
/** As many as an index takes of one source. */
const ENTRIES_MAX = 4 * 1024 * 1024
const SOURCES_MAX = 4_096
const BLOCK_TOKENS_MAX = 1024 * 1024

const whole = v.pipe(v.number(), v.integer(), v.minValue(0))
const Header = v.object({
  endpoint: v.pipe(v.string(), v.maxLength(512)),
  rank: v.pipe(whole, v.maxValue(65_535)),
  model: v.pipe(v.string(), v.maxLength(1_024)),
  dials: v.boolean(),
  seq: whole,
  complete: v.boolean(),
  kinds: v.pipe(
    v.array(v.object({ group: v.number(), medium: v.pipe(v.string(), v.maxLength(64)) })),
    v.maxLength(256),
  ),
  sizesTokens: v.pipe(v.array(v.pipe(whole, v.minValue(1), v.maxValue(BLOCK_TOKENS_MAX))), v.maxLength(4)),
})

export function beginSnapshot(): Buffer {
  return MAGIC
}

/** One source's part of it. */
export function encodeSource({ endpoint, rank, model, dials, position, content }: SourceSnapshot): readonly Buffer[] {
  const { kinds, sizesTokens, entries } = content
  const { seq, complete, payload } = position
  const header = Buffer.from(JSON.stringify({ endpoint, rank, model, dials, seq, complete, kinds, sizesTokens }))
  const lengths = Buffer.alloc(LENGTHS_BYTES)
  lengths.writeUInt32BE(header.length, 0)
  lengths.writeUInt32BE(payload.length, 4)
  lengths.writeUInt32BE(entries.byteLength, 8)
  const parts = [
    lengths,
    header,
    Buffer.from(payload),
    Buffer.from(entries.buffer, entries.byteOffset, entries.byteLength),
  ]
  const checksum = Buffer.alloc(CHECKSUM_BYTES)
  checksum.writeUInt32BE(parts.reduce((sum, part) => crc32(part, sum), 0))
  return [...parts, checksum]
}

export function endSnapshot(): Buffer {
  return Buffer.alloc(LENGTHS_BYTES)
}

/** A snapshot that cannot be read: what came before the fault is whole. */
export class SnapshotFault extends Error {}

/** Reads sources as they come. Throws SnapshotFault at what is cut, too large or not what its checksum says. */
export async function* decodeSnapshot(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<SourceSnapshot> {
  const reader = new Reader(chunks)
  if (!(await reader.take(MAGIC.length)).equals(MAGIC)) throw new SnapshotFault('it is no snapshot of this version')
  for (let sources = 0; ; sources++) {
    const lengths = await reader.take(LENGTHS_BYTES)
    const [header = 0, payload = 0, entries = 0] = [0, 4, 8].map((at) => lengths.readUInt32BE(at))
    if (header === 0) return
    if (sources === SOURCES_MAX) throw new SnapshotFault(`it has more than ${SOURCES_MAX} sources`)
    const entryBytes = ENTRY_WORDS * Uint32Array.BYTES_PER_ELEMENT
    if (header > HEADER_BYTES_MAX || payload > PAYLOAD_BYTES_MAX || entries > ENTRIES_MAX * entryBytes) {
      throw new SnapshotFault('a source of it is too large')
    }
    if (entries % entryBytes !== 0) throw new SnapshotFault('a source of it ends within an entry')
    const parts = [lengths]
    for (const length of [header, payload, entries]) parts.push(await reader.take(length))
    const checksum = (await reader.take(CHECKSUM_BYTES)).readUInt32BE()
    if (parts.reduce((sum, part) => crc32(part, sum), 0) !== checksum) throw new SnapshotFault('its checksum is wrong')
    const [, headerBytes, payloadBytes, entriesBytes] = parts as [Buffer, Buffer, Buffer, Buffer]
    const { endpoint, rank, model, dials, seq, complete, kinds, sizesTokens } = readHeader(headerBytes)
    // A copy of its own, at a place that four bytes divide.
    const words = new Uint32Array(entriesBytes.length / Uint32Array.BYTES_PER_ELEMENT)
    Buffer.from(words.buffer).set(entriesBytes)
    yield {
      endpoint: endpoint as EndpointId,
      rank,
      model,
      dials,
      position: { seq, complete, payload: new Uint8Array(payloadBytes) },
      content: { kinds, sizesTokens, entries: words },
    }
  }
}

function readHeader(bytes: Buffer): v.InferOutput<typeof Header> {
  try {
    return v.parse(Header, JSON.parse(bytes.toString()))
  } catch {
    throw new SnapshotFault('the header of a source cannot be read')
  }
}

/** Bytes by number, from chunks of any size. */
class Reader {
  readonly #chunks: AsyncIterator<Uint8Array>
  #rest: Buffer = Buffer.alloc(0)

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]()
  }

  async take(length: number): Promise<Buffer> {
    const parts: Buffer[] = [this.#rest]
    let have = this.#rest.length
    while (have < length) {
      const { value, done } = await this.#chunks.next()
      if (done) throw new SnapshotFault('it ends too soon')
      parts.push(Buffer.from(value.buffer, value.byteOffset, value.byteLength))
      have += value.byteLength
    }
    const all = parts.length === 1 ? this.#rest : Buffer.concat(parts)
    this.#rest = all.subarray(length)
    return all.subarray(0, length)
  }
}

/** Takes another replica's blocks over, a part in each turn of the event loop: about a millisecond. */
export async function restoreInto(source: KvSource, content: SourceContent, isOver: () => boolean): Promise<void> {
  const count = content.entries.length / ENTRY_WORDS
  for (let from = 0; from < count && !isOver(); ) {
    from = source.restore(content, from, RESTORED_AT_ONCE)
    await new Promise((resolve) => setImmediate(resolve))
  }
}

const RESTORED_AT_ONCE = 4_096
