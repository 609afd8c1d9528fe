// vLLM's hash of a KV block: SHA-256 over the canonical CBOR of [the hash before it, its token ids, its extra keys], as
// `--prefix-caching-hash-algo sha256_cbor` takes it since 0.31. Hashes chain, so equal ones mean equal prefixes.
import { hash } from 'node:crypto'
import type { Lora } from './sequence.ts'

/** 32 bytes, one in each character: text makes a key that no two blocks of different content share. */
export type Digest = string

/** What vLLM takes where PYTHONHASHSEED is not set. */
export const HASH_SEED_DEFAULT = 'vllm-none-hash'

const DIGEST_BYTES = 32

/** What else tells blocks of the same tokens apart: the salt goes into the first one, and with it into all. */
export type HashKeys = { readonly salt?: string | undefined; readonly lora?: Lora | undefined }

export type BlockHasher = {
  /** The hashes of a prompt's full blocks. */
  readonly prompt: (tokenIds: readonly number[], keys?: HashKeys) => readonly Digest[]
  /** The hash of one block; `parent` is undefined for the first, and only then does the salt count. */
  readonly block: (parent: Digest | undefined, tokenIds: readonly number[], keys?: HashKeys) => Digest
}

/** Token ids are whole numbers below 2^32. */
export function createBlockHasher(blockSizeTokens: number, seed: string = HASH_SEED_DEFAULT): BlockHasher {
  const root = digestOf(cborText(seed))
  // Parent, head and at most five bytes for each token; the extra keys are appended where there are any.
  const bytes = Buffer.alloc(1 + 2 + DIGEST_BYTES + 5 + 5 * blockSizeTokens + 1)
  let last: { readonly tokenIds: readonly number[]; readonly keys: HashKeys; readonly hashes: Digest[] } = {
    tokenIds: [],
    keys: {},
    hashes: [],
  }

  const hashRun = (parent: Digest | undefined, tokenIds: readonly number[], from: number, { salt, lora }: HashKeys) => {
    let at = 0
    bytes[at++] = 0x83
    bytes[at++] = 0x58
    bytes[at++] = DIGEST_BYTES
    at += bytes.write(parent ?? root, at, 'latin1')
    at = writeHead(bytes, at, 0x80, blockSizeTokens)
    for (let index = from; index < from + blockSizeTokens; index++) {
      at = writeHead(bytes, at, 0x00, tokenIds[index] as number)
    }
    const extra = extraKeys(parent === undefined ? salt : undefined, lora)
    if (extra === undefined) {
      bytes[at++] = 0xf6
      return digestOf(bytes.subarray(0, at))
    }
    return digestOf(Buffer.concat([bytes.subarray(0, at), extra]))
  }

  return {
    prompt: (tokenIds, keys = {}) => {
      // The choices of a request come one after the other with the very same prompt.
      if (last.tokenIds === tokenIds && last.keys.salt === keys.salt && last.keys.lora === keys.lora) return last.hashes
      const hashes: Digest[] = []
      for (let from = 0; from + blockSizeTokens <= tokenIds.length; from += blockSizeTokens) {
        hashes.push(hashRun(hashes.at(-1), tokenIds, from, keys))
      }
      last = { tokenIds, keys, hashes }
      return hashes
    },
    block: (parent, tokenIds, keys = {}) => hashRun(parent, tokenIds, 0, keys),
  }
}

/** A list of keys, each tagged with what it is: the adapter of every block, the salt of the first. */
function extraKeys(salt: string | undefined, lora: Lora | undefined): Buffer | undefined {
  if (salt === undefined && lora === undefined) return undefined
  const keys: Buffer[] = []
  if (lora) keys.push(Buffer.from([0x83]), cborText('lora'), cborText(lora.name), cborText(lora.path))
  if (salt !== undefined) keys.push(Buffer.from([0x82]), cborText('cache_salt'), cborText(salt))
  return Buffer.concat([Buffer.from([0x80 + (lora && salt !== undefined ? 2 : 1)]), ...keys])
}

function digestOf(bytes: Uint8Array): Digest {
  return hash('sha256', bytes, 'binary')
}

function cborText(text: string): Buffer {
  const utf8 = Buffer.from(text)
  const head = Buffer.alloc(5)
  return Buffer.concat([head.subarray(0, writeHead(head, 0, 0x60, utf8.length)), utf8])
}

/** A CBOR head in its shortest form; gives the place behind it. */
function writeHead(bytes: Buffer, at: number, major: number, value: number): number {
  if (value < 24) {
    bytes[at] = major | value
    return at + 1
  }
  if (value < 0x100) {
    bytes[at] = major | 24
    bytes[at + 1] = value
    return at + 2
  }
  if (value < 0x10000) {
    bytes[at] = major | 25
    bytes[at + 1] = value >>> 8
    bytes[at + 2] = value
    return at + 3
  }
  bytes[at] = major | 26
  return bytes.writeUInt32BE(value, at + 1)
}
