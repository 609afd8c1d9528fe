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
  /** Undefined where only bytes are known. */
  readonly query: PromptQuery | undefined
  /** How many are hashed: words of four bytes, where only those are known. */
  readonly tokens: number
  /** Of everything up to the end of each piece: two words each, high first. */
  readonly hashes: Uint32Array
}

export function chainOfTokens(query: PromptQuery): PromptChain {
  const tokenIds = query.tokenIds.subarray(0, PIECES_MAX * PIECE_TOKENS + 1)
  const hashes = hashBlocks(seedOf(query), tokenIds, PIECE_TOKENS)
  return { query: { ...query, tokenIds }, tokens: tokenIds.length, hashes }
}

/** Where bytes are read as words. What they are the words of is over with the call. */
const WORDS = new Uint32Array(PIECES_MAX * PIECE_TOKENS + 1)

/**
 * @param parts of the prompt, one after the other.
 * @param names of the prompt, as for its tokens: caches are kept apart by them.
 */
export function chainOfBytes(parts: readonly Buffer[], names: Omit<PromptQuery, 'tokenIds'>): PromptChain {
  const bytes = Buffer.from(WORDS.buffer)
  let length = 0
  for (const part of parts) length += part.copy(bytes, length)
  const words = WORDS.subarray(0, Math.floor(length / BYTES_PER_TOKEN))
  // Bytes and tokens never meet.
  const seed = seedOf({ ...names, model: `bytes of ${names.model}` })
  return { query: undefined, tokens: words.length, hashes: hashBlocks(seed, words, PIECE_TOKENS) }
}

/** Whether two chains have the same piece at this place, and so all before it. */
export function shares(a: Uint32Array, b: Uint32Array, piece: number): boolean {
  const at = 2 * piece
  return at < a.length && at < b.length && a[at] === b[at] && a[at + 1] === b[at + 1]
}

/** How many pieces two chains share: by halves, because equal hashes are equal beginnings. */
export function sharedPieces(a: Uint32Array, b: Uint32Array): number {
  let low = 0
  let high = Math.min(a.length, b.length) / 2
  while (low < high) {
    const middle = (low + high + 1) >>> 1
    if (shares(a, b, middle - 1)) low = middle
    else high = middle - 1
  }
  return low
}
