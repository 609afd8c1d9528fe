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

/** Plain attention has one group of KV blocks. */
const GROUP = 0
const SPEC_KIND = 'full_attention'

type Write = (writer: MsgpackWriter) => void
/** A member of an event: its name in the map form, and what writes its value; undefined where it is at its default. */
type Member = readonly [name: string, write: Write | undefined]

/** The payload of a batch. */
export function encodeBatch(atSeconds: number, events: readonly BlockEvent[], options: BatchOptions): Buffer {
  const writer = new MsgpackWriter()
  writer.array(3)
  writer.float(atSeconds)
  writer.array(events.length)
  for (const event of events) {
    const members = membersOf(event, options)
    if (options.form === 'map') writeMap(writer, members)
    else writeArray(writer, members)
  }
  writer.uint(options.rank)
  return writer.bytes()
}

/** Without what is at its default. */
function writeMap(writer: MsgpackWriter, members: readonly Member[]): void {
  const told = members.filter(([, write]) => write !== undefined)
  writer.map(told.length)
  for (const [name, write] of told) {
    writer.text(name)
    write?.(writer)
  }
}

/** Every member holds its place. */
function writeArray(writer: MsgpackWriter, members: readonly Member[]): void {
  writer.array(members.length)
  for (const [, write = nil] of members) write(writer)
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
  const { hashes, parent, tokenIds, lora, medium } = event
  // Of blocks in the host's memory vLLM tells only the hash, unless it was told to tell all.
  const isPlaceholder = medium === 'CPU' && tokenIds.length === 0
  return [
    ['type', text('BlockStored')],
    ['block_hashes', (writer) => writeHashes(writer, hashes, options)],
    ['parent_block_hash', parent === undefined ? nil : (writer) => writeHash(writer, parent, options)],
    ['token_ids', (writer) => writeNumbers(writer, tokenIds)],
    ['block_size', number(isPlaceholder ? 0 : options.blockSizeTokens)],
    ['lora_id', lora ? number(lora.id) : nil],
    ['medium', text(medium)],
    ['lora_name', lora ? text(lora.name) : nil],
    ['extra_keys', medium === 'GPU' ? (writer) => writeExtraKeys(writer, event) : undefined],
    ['group_idx', number(GROUP)],
    ['kv_cache_spec_kind', isPlaceholder ? undefined : text(SPEC_KIND)],
    ['kv_cache_spec_sliding_window', undefined],
  ]
}

function removedMembers({ hashes, medium }: BlockRemoved, options: BatchOptions): readonly Member[] {
  return [
    ['type', text('BlockRemoved')],
    ['block_hashes', (writer) => writeHashes(writer, hashes, options)],
    ['medium', text(medium)],
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

function text(value: string): Write {
  return (writer) => writer.text(value)
}

function number(value: number): Write {
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
