// A prompt as a chain of hashes over pieces of one size, for what is guessed of caches: of its token ids where they are known,
// else of its bytes, four of which stand for a token.
import { hashBlocks, seedOf } from './block-hash.ts'
import type { PromptQuery } from './prefix-match.ts'

/** Coarser than engines' blocks: what is guessed need not be exact, and costs a quarter. */
export const PIECE_TOKENS = 64
/** A longer prompt is guessed by its beginning. */
const PIECES_MAX = 2_048
const BYTES_PER_TOKEN = 4

export type PromptChain = {
  /** With tokens in place of which words of four bytes stand, where `ofBytes`. */
  readonly query: PromptQuery
  readonly ofBytes: boolean
  /** Of everything up to the end of each piece: two words each, high first. */
  readonly hashes: Uint32Array
}

export function chainOfTokens(query: PromptQuery): PromptChain {
  const tokenIds = query.tokenIds.subarray(0, PIECES_MAX * PIECE_TOKENS + 1)
  return { query: { ...query, tokenIds }, ofBytes: false, hashes: hashBlocks(seedOf(query), tokenIds, PIECE_TOKENS) }
}

/** @param names of the prompt, as for its tokens: caches are kept apart by them. */
export function chainOfBytes(bytes: Buffer, names: Omit<PromptQuery, 'tokenIds'>): PromptChain {
  const words = Math.min(Math.floor(bytes.length / BYTES_PER_TOKEN), PIECES_MAX * PIECE_TOKENS + 1)
  const tokenIds = new Uint32Array(words)
  Buffer.from(tokenIds.buffer).set(bytes.subarray(0, words * BYTES_PER_TOKEN))
  const query = { ...names, tokenIds }
  return { query, ofBytes: true, hashes: hashBlocks(seedOf(query), tokenIds, PIECE_TOKENS) }
}

/** How many pieces two chains share: by halves, because equal hashes are equal beginnings. */
export function sharedPieces(a: Uint32Array, b: Uint32Array): number {
  let low = 0
  let high = Math.min(a.length, b.length) / 2
  while (low < high) {
    const middle = (low + high + 1) >>> 1
    if (a[2 * middle - 2] === b[2 * middle - 2] && a[2 * middle - 1] === b[2 * middle - 1]) low = middle
    else high = middle - 1
  }
  return low
}
