// The payload of a KV event message as a batch of events. vLLM has changed the layout often: events as arrays by position
// until 0.23, as maps since, fields added at any time. Every form that is known is read, and what is new is passed over.
import type { BlocksRemoved, BlocksStored, ExtraKeys, KvBatch, KvEvent } from './kv-event.ts'
import { MsgpackFault, MsgpackReader, Words } from './msgpack.ts'

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
const REMOVED_FIELDS = ['block_hashes', 'medium', 'group_idx']
const SPEC_KINDS = ['full_attention', 'mla_attention', 'sliding_window', 'sink_full_attention', 'mamba']
const WORDS = new Words([
  ...STORED_FIELDS,
  ...SPEC_KINDS,
  ...['ts', 'events', 'data_parallel_rank'],
  ...['type', 'BlockStored', 'BlockRemoved', 'AllBlocksCleared', 'GPU', 'CPU', 'STORAGE'],
])

const NO_WORDS = new Uint32Array(0)
const CLEARED: KvEvent = { type: 'cleared' }
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
  if (reader.kind() === 'map') for (let left = reader.map(); left > 0; left--) read(readKey(reader))
  else readPositions(reader.array(), ['ts', 'events', 'data_parallel_rank'], read)
  if (atSeconds === undefined || unknownEvents === undefined)
    throw new MsgpackFault('no time or no events in the batch')
  return { atSeconds, rank, events, unknownEvents }
}

/** Gives how many events were of a kind that is not known. */
function readEvents(reader: MsgpackReader, events: KvEvent[]): number {
  let unknown = 0
  for (let left = reader.array(); left > 0; left--) {
    const event = reader.kind() === 'map' ? readMapEvent(reader) : readArrayEvent(reader)
    if (event === undefined) unknown++
    else events.push(event)
  }
  return unknown
}

function readMapEvent(reader: MsgpackReader): KvEvent | undefined {
  const fields = reader.map()
  const start = reader.at
  // vLLM writes the type first; any order is allowed, and only the type tells what the other fields mean.
  let before = 0
  let type: string | undefined
  for (; before < fields; before++) {
    if (readKey(reader) !== 'type') reader.skip()
    else {
      type = readOptionalText(reader)
      break
    }
  }
  let left = fields - before - 1
  if (before > 0) {
    reader.seek(start)
    left = fields
  }
  return readEvent(reader, type, (read) => {
    for (; left > 0; left--) read(readKey(reader))
  })
}

function readArrayEvent(reader: MsgpackReader): KvEvent | undefined {
  const length = reader.array()
  if (length === 0) return undefined
  const type = readOptionalText(reader)
  const names = type === 'BlockStored' ? STORED_FIELDS : REMOVED_FIELDS
  return readEvent(reader, type, (read) => readPositions(length - 1, names, read))
}

type ReadField = (name: string | undefined) => void

function readEvent(
  reader: MsgpackReader,
  type: string | undefined,
  eachField: (read: ReadField) => void,
): KvEvent | undefined {
  if (type === 'BlockStored') return readStored(reader, eachField)
  if (type === 'BlockRemoved') return readRemoved(reader, eachField)
  eachField(() => reader.skip())
  return type === 'AllBlocksCleared' ? CLEARED : undefined
}

function readStored(reader: MsgpackReader, eachField: (read: ReadField) => void): BlocksStored {
  let hashes: Uint32Array | undefined
  let parent: BlocksStored['parent']
  let tokenIds: Uint32Array = NO_WORDS
  let blockSizeTokens = 0
  let medium: string | undefined
  let loraName: string | undefined
  let extraKeysAt: number | undefined
  let group = 0
  let specKind: string | undefined
  eachField((name) => {
    switch (name) {
      case 'block_hashes':
        hashes = reader.hashes()
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
        medium = readOptionalText(reader)
        break
      case 'lora_name':
        loraName = readOptionalText(reader)
        break
      case 'extra_keys':
        extraKeysAt = reader.at
        reader.skip()
        break
      case 'group_idx':
        group = reader.nil() ? 0 : readCount(reader, name)
        break
      case 'kv_cache_spec_kind':
        specKind = readOptionalText(reader)
        break
      default:
        reader.skip()
    }
  })
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

function readRemoved(reader: MsgpackReader, eachField: (read: ReadField) => void): BlocksRemoved {
  let hashes: Uint32Array | undefined
  let medium: string | undefined
  let group = 0
  eachField((name) => {
    if (name === 'block_hashes') hashes = reader.hashes()
    else if (name === 'medium') medium = readOptionalText(reader)
    else if (name === 'group_idx') group = reader.nil() ? 0 : readCount(reader, name)
    else reader.skip()
  })
  if (hashes === undefined) throw new MsgpackFault('BlockRemoved without block_hashes')
  return { type: 'removed', hashes, medium, group }
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
    const key = readKey(reader)
    if (key === 'type') {
      type = readOptionalText(reader)
      continue
    }
    if (key === 'salt') saltAt = reader.at
    else if (key === 'value') valueAt = reader.at
    reader.skip()
  }
  return { type, saltAt, valueAt }
}

/** Reads an array's values under the names of their positions; those beyond the names have none. */
function readPositions(length: number, names: readonly string[], read: ReadField): void {
  for (let index = 0; index < length; index++) read(names[index])
}

/** Undefined for a key that is no text: such an entry is unknown, and skipped. */
function readKey(reader: MsgpackReader): string | undefined {
  if (reader.kind() === 'text') return reader.text()
  reader.skip()
  return undefined
}

/** Undefined, and passed over, when it is no text. */
const readOptionalText = readKey

function readCount(reader: MsgpackReader, name: string): number {
  const value = reader.number()
  if (Number.isInteger(value) && value >= 0 && value < 2 ** 32) return value
  throw new MsgpackFault(`${name} is no count`)
}
