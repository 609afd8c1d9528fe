// KV events as vLLM 0.32 puts them on the wire: a batch for each step that had any, as the array [seconds, events, rank],
// each event a map that says its type first, hashes as the last eight bytes of the digest.
import type { Digest } from './block-hash.ts'
import type { BlockEvent, BlocksStored } from './block-pool.ts'
import { MsgpackWriter } from './msgpack-writer.ts'

const MEDIUM = 'GPU'
const RANK = 0
/** Plain attention has one group of KV blocks. */
const GROUP = 0
const SPEC_KIND = 'full_attention'

/** The payload of a batch. */
export function encodeBatch(atSeconds: number, events: readonly BlockEvent[], blockSizeTokens: number): Buffer {
  const writer = new MsgpackWriter()
  writer.array(3)
  writer.float(atSeconds)
  writer.array(events.length)
  for (const event of events) writeEvent(writer, event, blockSizeTokens)
  writer.uint(RANK)
  return writer.bytes()
}

function writeEvent(writer: MsgpackWriter, event: BlockEvent, blockSizeTokens: number): void {
  switch (event.type) {
    case 'stored':
      return writeStored(writer, event, blockSizeTokens)
    case 'removed':
      writer.map(4)
      writeMember(writer, 'type', 'BlockRemoved')
      writer.text('block_hashes')
      writer.array(1)
      writeHash(writer, event.hash)
      writeMember(writer, 'medium', MEDIUM)
      writeMember(writer, 'group_idx', GROUP)
      return
    case 'cleared':
      writer.map(1)
      writeMember(writer, 'type', 'AllBlocksCleared')
  }
}

function writeStored(writer: MsgpackWriter, event: BlocksStored, blockSizeTokens: number): void {
  const { hashes, parent, tokenIds, salt } = event
  writer.map(11)
  writeMember(writer, 'type', 'BlockStored')
  writer.text('block_hashes')
  writer.array(hashes.length)
  for (const hash of hashes) writeHash(writer, hash)
  writer.text('parent_block_hash')
  if (parent === undefined) writer.nil()
  else writeHash(writer, parent)
  writer.text('token_ids')
  writer.array(tokenIds.length)
  for (const id of tokenIds) writer.uint(id)
  writeMember(writer, 'block_size', blockSizeTokens)
  writeMember(writer, 'lora_id', null)
  writeMember(writer, 'medium', MEDIUM)
  writeMember(writer, 'lora_name', null)
  writer.text('extra_keys')
  writer.array(hashes.length)
  for (const index of hashes.keys()) {
    if (index > 0 || salt === undefined) {
      writer.nil()
    } else {
      writer.array(1)
      writer.text(salt)
    }
  }
  writeMember(writer, 'group_idx', GROUP)
  writeMember(writer, 'kv_cache_spec_kind', SPEC_KIND)
}

function writeMember(writer: MsgpackWriter, name: string, value: string | number | null): void {
  writer.text(name)
  if (value === null) writer.nil()
  else if (typeof value === 'string') writer.text(value)
  else writer.uint(value)
}

function writeHash(writer: MsgpackWriter, digest: Digest): void {
  writer.uint64(wordAt(digest, digest.length - 8), wordAt(digest, digest.length - 4))
}

function wordAt(digest: Digest, at: number): number {
  const byte = (index: number) => digest.charCodeAt(at + index)
  return ((byte(0) << 24) | (byte(1) << 16) | (byte(2) << 8) | byte(3)) >>> 0
}
