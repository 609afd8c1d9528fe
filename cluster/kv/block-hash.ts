// Our own block hashes: 64 bits as two uint32 lanes, chained from block to block. They depend on the tokens and on the
// names that keep caches apart (model, adapter, salt), and on nothing that an engine chose.

declare const blockHash: unique symbol
/** Our hash of everything up to the end of one block. Never an engine's: those are other numbers for the same tokens. */
export type BlockHash = { readonly hi: number; readonly lo: number; readonly [blockHash]: true }

export type ChainSeed = {
  readonly model: string
  readonly lora: string | undefined
  readonly cacheSalt: string | undefined
}

// Odd constants with about half their bits set; the first four are fractions of the golden ratio and of small roots.
const MUL_A = 0x9e3779b1
const MUL_B = 0x85ebca77
const MUL_C = 0xc2b2ae3d
const MUL_D = 0x27d4eb2f
const MUL_X = 0x7feb352d
const MUL_Y = 0x846ca68b
const MUL_Z = 0xcc9e2d51
const MUL_W = 0x1b873593

/** No token count: it stands where a string's length would, and says that there is no string. */
const ABSENT = 0xffffffff

/** The start of a chain. Fields cannot run into each other, and an absent one differs from an empty one. */
export function seedOf({ model, lora, cacheSalt }: ChainSeed): BlockHash {
  const chain = new Uint32Array([0x57a3b10c, 0x6d0f29e5])
  absorb(chain, 0, model)
  absorb(chain, 0, lora)
  absorb(chain, 0, cacheSalt)
  return { hi: chain[0] as number, lo: chain[1] as number } as BlockHash
}

/**
 * The hashes of all full blocks, two words each (high first), in `into` when that is long enough. Tokens after the last
 * full block count for nothing.
 */
export function hashBlocks(
  seed: BlockHash,
  tokenIds: Uint32Array,
  blockSizeTokens: number,
  into?: Uint32Array,
): Uint32Array {
  const blocks = Math.floor(tokenIds.length / blockSizeTokens)
  const hashes = into && into.length >= 2 * blocks ? into.subarray(0, 2 * blocks) : new Uint32Array(2 * blocks)
  extendChain(seed.hi, seed.lo, tokenIds, 0, blocks, blockSizeTokens, hashes, 0)
  return hashes
}

/**
 * Hashes `blocks` blocks from token `firstToken` on, after a block whose hash is (`hi`, `lo`), and writes two words for
 * each from `into[at]` on. The caller sees to it that there are enough tokens and room.
 */
export function extendChain(
  hi: number,
  lo: number,
  tokenIds: Uint32Array,
  firstToken: number,
  blocks: number,
  blockSizeTokens: number,
  into: Uint32Array,
  at: number,
): void {
  let x = hi | 0
  let y = lo | 0
  let token = firstToken
  let out = at
  for (let block = 0; block < blocks; block++) {
    // The tokens are hashed apart from the parent, so that the processor can begin a block before the last is done.
    let a = blockSizeTokens ^ MUL_D
    let b = blockSizeTokens ^ MUL_C
    let c = MUL_B
    let d = MUL_A
    const end = token + blockSizeTokens
    for (; token + 1 < end; token += 2) {
      const even = tokenIds[token] as number
      const odd = tokenIds[token + 1] as number
      a = Math.imul(a ^ even, MUL_A)
      a = (a << 15) | (a >>> 17)
      b = Math.imul(b ^ even, MUL_B)
      b = (b << 13) | (b >>> 19)
      c = Math.imul(c ^ odd, MUL_C)
      c = (c << 17) | (c >>> 15)
      d = Math.imul(d ^ odd, MUL_D)
      d = (d << 11) | (d >>> 21)
    }
    if (token < end) {
      const last = tokenIds[token] as number
      token++
      a = Math.imul(a ^ last, MUL_A)
      b = Math.imul(b ^ last, MUL_B)
    }
    // One to one in (x, y) for given tokens: two chains that differ stay different over equal blocks.
    x ^= a
    y ^= b
    x = Math.imul(x ^ (x >>> 16), MUL_X)
    y = Math.imul(y ^ (y >>> 15), MUL_Y)
    x = (x + y) ^ c
    y ^= (x << 13) | (x >>> 19)
    y = (y + d) | 0
    x = Math.imul(x ^ (x >>> 15), MUL_Z)
    y = Math.imul(y ^ (y >>> 16), MUL_W)
    x = (x + y) | 0
    y ^= (x << 7) | (x >>> 25)
    x ^= x >>> 16
    y = Math.imul(y ^ (y >>> 15), MUL_Y)
    x = (x + y) | 0
    y ^= y >>> 16
    into[out] = x
    into[out + 1] = y
    out += 2
  }
}

/** Mixes what a block holds besides tokens (images, embeddings) into its hash, in place at `chain[at]`. */
export function mixExtraKeys(chain: Uint32Array, at: number, others: string): void {
  absorb(chain, at, others)
}

function absorb(chain: Uint32Array, at: number, text: string | undefined): void {
  const units = new Uint32Array((text?.length ?? 0) + 1)
  units[0] = text === undefined ? ABSENT : text.length
  for (let index = 1; index < units.length; index++) units[index] = text?.charCodeAt(index - 1) ?? 0
  extendChain(chain[at] as number, chain[at + 1] as number, units, 0, 1, units.length, chain, at)
}
