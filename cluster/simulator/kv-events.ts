// KV events as vLLM puts them on the wire: a batch for each step that had any, as the array [seconds, events, rank]. Each
// event is a map that says its type first, as of 0.23, or the array of its values, as before.
import type { Digest } from './block-hash.ts'
import type { BlockEvent, BlockRemoved, BlocksStored } from './block-pool.ts'
import { MsgpackWriter } from './msgpack-writer.ts'

export const EVENT_FORMS = ['map', 'array'] as const
export const EVENT_HASHES = ['int', 'bytes'] as const

export type BatchOptions = {
  readonly blockSizeTokens: number
  /** Of data parallelism. */
  readonly rank: number
  readonly form: (typeof EVENT_FORMS)[number]
  /** The last eight bytes of each digest as a number, or all of it (`VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0`). */
  readonly hashes: (typeof EVENT_HASHES)[number]
}

const MEDIUM = 'GPU'
/** Plain attention has one group of KV blocks. */
const GROUP = 0
const SPEC_KIND = 'full_attention'

/** A member of an event: its name in the map form, and what writes its value. */
type Member = readonly [name: string, write: (writer: MsgpackWriter) => void]

/** The payload of a batch. */
export function encodeBatch(atSeconds: number, events: readonly BlockEvent[], options: BatchOptions): Buffer {
  const writer = new MsgpackWriter()
  writer.array(3)
  writer.float(atSeconds)
  writer.array(events.length)
  for (const event of events) {
    const members = membersOf(event, options)
    if (options.form === 'array') writer.array(members.length)
    else writer.map(members.length)
    for (const [name, write] of members) {
      if (options.form === 'map') writer.text(name)
      write(writer)
    }
  }
  writer.uint(options.rank)
  return writer.bytes()
}

function membersOf(event: BlockEvent, options: BatchOptions): readonly Member[] {
  switch (event.type) {
    case 'stored':
      return storedMembers(event, options)
    case 'removed':
      return removedMembers(event, options)
    case 'cleared':
      return [['type', text('AllBlocksCleared')]]
  }
}

function storedMembers(event: BlocksStored, options: BatchOptions): readonly Member[] {
  const { hashes, parent, tokenIds, lora } = event
  const members: Member[] = [
    ['type', text('BlockStored')],
    ['block_hashes', (writer) => writeHashes(writer, hashes, options)],
    ['parent_block_hash', parent === undefined ? nil : (writer) => writeHash(writer, parent, options)],
    ['token_ids', (writer) => writeNumbers(writer, tokenIds)],
    ['block_size', number(options.blockSizeTokens)],
    ['lora_id', lora ? number(lora.id) : nil],
    ['medium', text(MEDIUM)],
    ['lora_name', lora ? text(lora.name) : nil],
    ['extra_keys', (writer) => writeExtraKeys(writer, event)],
    ['group_idx', number(GROUP)],
    ['kv_cache_spec_kind', text(SPEC_KIND)],
  ]
  // What is at its default is left out of a map, and holds its place in an array: here the window.
  return options.form === 'map' ? members : [...members, ['kv_cache_spec_sliding_window', nil]]
}

function removedMembers({ hash }: BlockRemoved, options: BatchOptions): readonly Member[] {
  return [
    ['type', text('BlockRemoved')],
    ['block_hashes', (writer) => writeHashes(writer, [hash], options)],
    ['medium', text(MEDIUM)],
    ['group_idx', number(GROUP)],
  ]
}

/** One entry for each block: the adapter of all, the salt of the first of a chain. */
function writeExtraKeys(writer: MsgpackWriter, { hashes, salt, lora }: BlocksStored): void {
  writer.array(hashes.length)
  for (const index of hashes.keys()) {
    const keys: string[] = []
    if (lora) keys.push(lora.name)
    if (index === 0 && salt !== undefined) keys.push(salt)
    if (keys.length === 0) {
      writer.nil()
      continue
    }
    writer.array(keys.length)
    for (const key of keys) writer.text(key)
  }
}

function nil(writer: MsgpackWriter): void {
  writer.nil()
}

function text(value: string): (writer: MsgpackWriter) => void {
  return (writer) => writer.text(value)
}

function number(value: number): (writer: MsgpackWriter) => void {
  return (writer) => writer.uint(value)
}

function writeNumbers(writer: MsgpackWriter, values: readonly number[]): void {
  writer.array(values.length)
  for (const value of values) writer.uint(value)
}

function writeHashes(writer: MsgpackWriter, digests: readonly Digest[], options: BatchOptions): void {
  writer.array(digests.length)
  for (const digest of digests) writeHash(writer, digest, options)
}

function writeHash(writer: MsgpackWriter, digest: Digest, { hashes }: BatchOptions): void {
  if (hashes === 'bytes') writer.binary(Buffer.from(digest, 'latin1'))
  else writer.uint64(wordAt(digest, digest.length - 8), wordAt(digest, digest.length - 4))
}

function wordAt(digest: Digest, at: number): number {
  const byte = (index: number) => digest.charCodeAt(at + index)
  return ((byte(0) << 24) | (byte(1) << 16) | (byte(2) << 8) | byte(3)) >>> 0
}
