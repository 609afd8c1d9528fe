// The payload of a KV event message as a batch of events. vLLM has changed the layout often: events as arrays by position
// until 0.23, as maps since, fields added at any time. Every form that is known is read, and what is new is passed over.
import { HashList } from './hash-list.ts'
import type { BlocksStored, ExtraKeys, KvBatch, KvEvent } from './kv-event.ts'
import { MsgpackFault, MsgpackReader } from './msgpack.ts'
import { Words } from './words.ts'

export type DecodedEvents =
  | { readonly ok: true; readonly batch: KvBatch }
  | { readonly ok: false; readonly message: string }

const STORED_FIELDS = [
  'block_hashes',
  'parent_block_hash',
  'token_ids',
  'block_size',
  'lora_id',
  'medium',
  'lora_name',
  'extra_keys',
  'group_idx',
  'kv_cache_spec_kind',
  'kv_cache_spec_sliding_window',
]
const BATCH_FIELDS = ['ts', 'events', 'data_parallel_rank']
const REMOVED_FIELDS = ['block_hashes', 'medium', 'group_idx']
const SPEC_KINDS = ['full_attention', 'mla_attention', 'sliding_window', 'sink_full_attention', 'mamba']
const WORDS = new Words([
  ...STORED_FIELDS,
  ...SPEC_KINDS,
  ...BATCH_FIELDS,
  ...['type', 'BlockStored', 'BlockRemoved', 'AllBlocksCleared', 'GPU', 'CPU', 'STORAGE'],
])

const NO_WORDS = new Uint32Array(0)
const NONE = -1
const NO_NAMES: readonly string[] = []
const CLEARED: KvEvent = { type: 'cleared' }
/**
 * A batch with more of either is refused whole: applying it would hold the event loop. An engine's step makes thousands at
 * the most; two million tokens at vLLM's usual block size fit in.
 */
const EVENTS_MAX = 128 * 1024
const BLOCKS_MAX = 128 * 1024
/** In one batch. An image costs some ninety in each block that it is in. */
const EXTRA_KEYS_BYTES_MAX = 1024 * 1024
const NAME_CHARS_MAX = 1024
/** Extra keys wrapped in more `legacy` maps than this are refused: each layer reads its value again. */
const LEGACY_DEPTH_MAX = 4

/**
 * Reads one payload. Never throws; what it allocates stays within a small multiple of the payload. A payload that is
 * malformed anywhere gives no events at all: half a batch would leave blocks behind that are gone.
 */
export function decodeEvents(payload: Uint8Array): DecodedEvents {
  try {
    const reader = new MsgpackReader(payload, WORDS)
    const batch = readBatch(reader)
    if (reader.bytesLeft > 0) return { ok: false, message: `${reader.bytesLeft} bytes after the batch` }
    return { ok: true, batch }
  } catch (fault) {
    if (!(fault instanceof MsgpackFault)) throw fault
    return { ok: false, message: fault.message }
  }
}

function readBatch(reader: MsgpackReader): KvBatch {
  let atSeconds: number | undefined
  let rank = 0
  const events: KvEvent[] = []
  let unknownEvents: number | undefined
  const read = (field: string | undefined) => {
    if (field === 'ts') atSeconds = reader.number()
    else if (field === 'data_parallel_rank') rank = reader.nil() ? 0 : readCount(reader, field)
    else if (field === 'events' && unknownEvents === undefined) unknownEvents = readEvents(reader, events)
    else reader.skip()
  }
  if (reader.kind() === 'map') for (let left = reader.map(); left > 0; left--) read(reader.textOrSkip())
  else for (let at = 0, length = reader.array(); at < length; at++) read(BATCH_FIELDS[at])
  if (atSeconds === undefined || unknownEvents === undefined)
    throw new MsgpackFault('no time or no events in the batch')
  return { atSeconds, rank, events, unknownEvents }
}

/** What the rest of a batch may hold. */
type Room = { blocks: number; extraKeyBytes: number }

/** Gives how many events were of a kind that is not known. */
function readEvents(reader: MsgpackReader, events: KvEvent[]): number {
  const room: Room = { blocks: BLOCKS_MAX, extraKeyBytes: EXTRA_KEYS_BYTES_MAX }
  const removals = new Removals(events, room)
  const count = reader.array()
  if (count > EVENTS_MAX) throw new MsgpackFault(`${count} events in a batch`)
  let unknown = 0
  for (let left = count; left > 0; left--) {
    if (removals.readAlike(reader)) continue
    const begun = reader.kind() === 'map' ? beginMapEvent(reader) : beginArrayEvent(reader)
    const { type, fields, names } = begun
    if (type === 'BlockRemoved') {
      removals.read(reader, begun)
      continue
    }
    removals.end()
    if (type === 'BlockStored') events.push(readStored(reader, fields, names, room))
    else {
      for (let values = names === undefined ? 2 * fields : fields; values > 0; values--) reader.skip()
      if (type === 'AllBlocksCleared') events.push(CLEARED)
      else unknown++
    }
  }
  removals.end()
  return unknown
}

/** An event whose type is known, and whose `fields` follow: under the names of their positions, or with keys. */
type Begun = {
  readonly type: string | undefined
  /** Where it begins; NONE when the type does not stand before all else. */
  readonly start: number
  readonly fields: number
  readonly names: readonly string[] | undefined
}

function beginMapEvent(reader: MsgpackReader): Begun {
  const begin = reader.at
  const fields = reader.map()
  const start = reader.at
  // vLLM writes the type first; any order is allowed, and only the type tells what the other fields mean.
  for (let before = 0; before < fields; before++) {
    if (reader.textOrSkip() !== 'type') {
      reader.skip()
      continue
    }
    const type = reader.textOrSkip()
    if (before === 0) return { type, start: begin, fields: fields - 1, names: undefined }
    reader.seek(start)
    return { type, start: NONE, fields, names: undefined }
  }
  return { type: undefined, start: NONE, fields: 0, names: undefined }
}

function beginArrayEvent(reader: MsgpackReader): Begun {
  const start = reader.at
  const length = reader.array()
  if (length === 0) return { type: undefined, start, fields: 0, names: NO_NAMES }
  const type = reader.textOrSkip()
  return { type, start, fields: length - 1, names: type === 'BlockStored' ? STORED_FIELDS : REMOVED_FIELDS }
}

function readStored(
  reader: MsgpackReader,
  fields: number,
  names: readonly string[] | undefined,
  room: Room,
): BlocksStored {
  let hashes: Uint32Array | undefined
  let parent: BlocksStored['parent']
  let tokenIds: Uint32Array = NO_WORDS
  let blockSizeTokens = 0
  let medium: string | undefined
  let loraName: string | undefined
  let extraKeysAt: number | undefined
  let group = 0
  let specKind: string | undefined
  for (let index = 0; index < fields; index++) {
    const name = names === undefined ? reader.textOrSkip() : names[index]
    switch (name) {
      case 'block_hashes':
        hashes = reader.hashes(room.blocks)
        room.blocks -= hashes.length / 2
        break
      case 'parent_block_hash':
        parent = readParent(reader)
        break
      case 'token_ids':
        // SGLang writes pairs of tokens with some speculative decoders: those are not the prompt's tokens.
        tokenIds = reader.nil() ? NO_WORDS : (reader.uint32s() ?? NO_WORDS)
        break
      case 'block_size':
        blockSizeTokens = reader.nil() ? 0 : readCount(reader, name)
        break
      case 'medium':
        medium = readName(reader)
        break
      case 'lora_name':
        loraName = readName(reader)
        break
      case 'extra_keys':
        extraKeysAt = reader.at
        reader.skip()
        room.extraKeyBytes -= reader.at - extraKeysAt
        if (room.extraKeyBytes < 0) throw new MsgpackFault(`more than ${EXTRA_KEYS_BYTES_MAX} bytes of extra keys`)
        break
      case 'group_idx':
        group = reader.nil() ? 0 : readCount(reader, name)
        break
      case 'kv_cache_spec_kind':
        specKind = readName(reader)
        break
      default:
        reader.skip()
    }
  }
  if (hashes === undefined) throw new MsgpackFault('BlockStored without block_hashes')
  let extraKeys: BlocksStored['extraKeys']
  if (extraKeysAt !== undefined) {
    // What the keys mean depends on the adapter's name and the parent, which may stand after them.
    const end = reader.at
    reader.seek(extraKeysAt)
    extraKeys = readExtraKeys(reader, loraName, parent === undefined)
    reader.seek(end)
  }
  return {
    type: 'stored',
    hashes,
    parent,
    tokenIds,
    blockSizeTokens,
    medium,
    loraName,
    extraKeys,
    group,
    specKind,
  }
}

/** Of the removals that are being read: one payload is, at a time. */
const HASHES = new HashList()

/** vLLM sends an event for each block that goes, many in a row: those of one medium and group become one event. */
class Removals {
  readonly #events: KvEvent[]
  readonly #room: Room
  #medium: string | undefined
  #group = 0
  #any = false
  /** Where the last one began, its hashes, what follows them, and its end: NONE before the first. */
  #start = 0
  #hashesAt = 0
  #restAt = 0
  #endAt = NONE

  constructor(events: KvEvent[], room: Room) {
    // A payload that was refused may have left some.
    HASHES.cut(0)
    this.#events = events
    this.#room = room
  }

  /**
   * Reads the next event if its bytes are those of the removal before, but for the hashes: of a run nearly all are, and
   * comparing them takes a tenth of the time of reading them.
   */
  readAlike(reader: MsgpackReader): boolean {
    const start = reader.at
    if (this.#endAt === NONE || !reader.passAlike(this.#start, this.#hashesAt)) return false
    const before = HASHES.length
    reader.hashesOnto(HASHES, this.#room.blocks)
    if (!reader.passAlike(this.#restAt, this.#endAt)) {
      HASHES.cut(before)
      reader.seek(start)
      return false
    }
    this.#room.blocks -= (HASHES.length - before) / 2
    this.#any = true
    return true
  }

  read(reader: MsgpackReader, { start, fields, names }: Begun): void {
    const before = HASHES.length
    let medium: string | undefined
    let group = 0
    let hasHashes = false
    for (let index = 0; index < fields; index++) {
      const name = names === undefined ? reader.textOrSkip() : names[index]
      if (name === 'block_hashes') {
        if (hasHashes) throw new MsgpackFault('block_hashes twice')
        hasHashes = true
        this.#hashesAt = reader.at
        reader.hashesOnto(HASHES, this.#room.blocks)
        this.#restAt = reader.at
        this.#room.blocks -= (HASHES.length - before) / 2
      } else if (name === 'medium') medium = readName(reader)
      else if (name === 'group_idx') group = reader.nil() ? 0 : readCount(reader, name)
      else reader.skip()
    }
    if (!hasHashes) throw new MsgpackFault('BlockRemoved without block_hashes')
    if (this.#any && (medium !== this.#medium || group !== this.#group)) this.#end(before)
    this.#start = start
    // What has other bytes there might be of another type.
    this.#endAt = start === NONE ? NONE : reader.at
    this.#any = true
    this.#medium = medium
    this.#group = group
  }

  /** What follows is no removal. */
  end(): void {
    if (this.#any) this.#end(HASHES.length)
    this.#any = false
  }

  #end(length: number): void {
    this.#events.push({ type: 'removed', hashes: HASHES.take(length), medium: this.#medium, group: this.#group })
  }
}

/** llm-d's simulator writes 0 for the parent of a root. */
function readParent(reader: MsgpackReader): BlocksStored['parent'] {
  if (reader.nil()) return undefined
  const parent = reader.hash()
  return parent.hi === 0 && parent.lo === 0 ? undefined : parent
}

function readExtraKeys(
  reader: MsgpackReader,
  loraName: string | undefined,
  atRoot: boolean,
): BlocksStored['extraKeys'] {
  if (reader.nil()) return undefined
  const count = reader.array()
  const keys = new Array<ExtraKeys | undefined>(count)
  for (let index = 0; index < count; index++) {
    keys[index] = reader.nil() ? undefined : readKeysOfBlock(reader, loraName, atRoot && index === 0)
  }
  return keys
}

/** Undefined when there is nothing besides the adapter. */
function readKeysOfBlock(
  reader: MsgpackReader,
  loraName: string | undefined,
  mayHoldSalt: boolean,
): ExtraKeys | undefined {
  const found: FoundKeys = { texts: [], salt: undefined, others: [], loraName }
  if (reader.kind() === 'array') {
    for (let left = reader.array(); left > 0; left--) readKeyOfBlock(reader, found, 0)
  } else found.others.push(reader.canonicalText())
  // The salt stands after the images, and those were bare texts once: the last text is the salt.
  const salt = found.salt ?? (mayHoldSalt ? found.texts.pop() : undefined)
  const others = [...found.texts.map((text) => JSON.stringify(text)), ...found.others].join(',')
  return salt === undefined && others === '' ? undefined : { salt, others }
}

type FoundKeys = {
  /** Texts that say nothing of their meaning. */
  readonly texts: string[]
  salt: string | undefined
  readonly others: string[]
  /** Undefined once its key was seen. */
  loraName: string | undefined
}

function readKeyOfBlock(reader: MsgpackReader, found: FoundKeys, depth: number): void {
  const kind = reader.kind()
  if (kind === 'text') {
    const text = reader.text()
    if (text === found.loraName) found.loraName = undefined
    else found.texts.push(text)
    return
  }
  if (kind === 'map') {
    const start = reader.at
    const { type, saltAt, valueAt } = readTaggedKey(reader)
    const end = reader.at
    if (type === 'lora') return
    const at = type === 'cache_salt' ? saltAt : type === 'legacy' ? valueAt : undefined
    reader.seek(at ?? start)
    if (at === undefined) found.others.push(reader.canonicalText())
    else if (type === 'cache_salt') found.salt = reader.text()
    else if (depth === LEGACY_DEPTH_MAX) throw new MsgpackFault('extra keys nested too deeply')
    else readKeyOfBlock(reader, found, depth + 1)
    reader.seek(end)
    return
  }
  found.others.push(reader.canonicalText())
}

function readTaggedKey(reader: MsgpackReader) {
  let type: string | undefined
  let saltAt: number | undefined
  let valueAt: number | undefined
  for (let left = reader.map(); left > 0; left--) {
    const key = reader.textOrSkip()
    if (key === 'type') {
      type = reader.textOrSkip()
      continue
    }
    if (key === 'salt') saltAt = reader.at
    else if (key === 'value') valueAt = reader.at
    reader.skip()
  }
  return { type, saltAt, valueAt }
}

/** Undefined, and passed over, when it is no text. */
function readName(reader: MsgpackReader): string | undefined {
  const name = reader.textOrSkip()
  if (name !== undefined && name.length > NAME_CHARS_MAX) throw new MsgpackFault(`a name of ${name.length} characters`)
  return name
}

function readCount(reader: MsgpackReader, name: string): number {
  const value = reader.number()
  if (Number.isInteger(value) && value >= 0 && value < 2 ** 32) return value
  throw new MsgpackFault(`${name} is no count`)
}
