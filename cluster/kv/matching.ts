// How far into a prompt each source's blocks reach. A run of blocks with the same holders costs one comparison, however
// many sources there are.
import { extendChain, seedOf } from './block-hash.ts'
import { GPU_TIER, SLOW_TIER } from './holder-sets.ts'
import type { IndexedSource } from './indexed-source.ts'
import type { PrefixMatch, PromptQuery } from './prefix-match.ts'
import { BLOCKS_AT_ONCE, type PromptTable } from './prompt-table.ts'

/** Blocks hashed and looked up in one go: few at first, because a prompt that nobody knows ends there. */
const CHUNK_BLOCKS_FIRST = 16
/** A prompt is hashed once for each block size in use, those of most sources first. */
const SIZES_PER_QUERY_MAX = 8

/** Scratch space for one query at a time; nothing in it outlives one. */
export class Matching {
  readonly #prompts: PromptTable
  readonly #hashes = new Uint32Array(2 * BLOCKS_AT_ONCE)
  readonly #sets = new Uint32Array(BLOCKS_AT_ONCE)
  /** Bits of the sources that hold every block so far. */
  #alive = new Uint32Array(1)
  /** By ordinal: blocks held from the start, and those among them that are in no GPU. */
  #depths = new Uint32Array(32)
  #slowBlocks = new Uint32Array(32)

  constructor(prompts: PromptTable) {
    this.#prompts = prompts
  }

  match(sources: readonly IndexedSource[], query: PromptQuery): PrefixMatch[] {
    const matched = new Float64Array(sources.length)
    const inGpu = new Float64Array(sources.length)
    for (const sizeTokens of sizesOf(sources)) {
      const those = sources.map((source) => source.sizes.some((size) => size.tokens === sizeTokens && size.blocks > 0))
      this.#walk(sources, those, query, sizeTokens)
      for (const [index, { ordinal }] of sources.entries()) {
        if (!those[index]) continue
        const tokens = (this.#depths[ordinal] as number) * sizeTokens
        const gpuTokens = tokens - (this.#slowBlocks[ordinal] as number) * sizeTokens
        // A source with blocks of two sizes is taken by the better one.
        const longer = tokens - (matched[index] as number)
        if (longer < 0 || (longer === 0 && gpuTokens <= (inGpu[index] as number))) continue
        matched[index] = tokens
        inGpu[index] = gpuTokens
      }
    }
    return sources.map(({ endpoint, rank, isComplete }, index) => ({
      endpoint,
      rank,
      matchedTokens: matched[index] as number,
      gpuTokens: inGpu[index] as number,
      complete: isComplete,
    }))
  }

  /** Fills `#depths` and `#slowBlocks` of those sources. */
  #walk(sources: readonly IndexedSource[], those: readonly boolean[], query: PromptQuery, sizeTokens: number): void {
    this.#begin(sources, those)
    const { tokenIds } = query
    // The engine computes the last token of every prompt anew, and so the whole block that it is in.
    const blocks = Math.max(0, Math.floor((tokenIds.length - 1) / sizeTokens))
    let { hi, lo } = seedOf(query)
    let set = -1
    let runStart = 0
    let done = 0
    for (let chunk = CHUNK_BLOCKS_FIRST; done < blocks; chunk = Math.min(2 * chunk, BLOCKS_AT_ONCE)) {
      const count = Math.min(chunk, blocks - done)
      extendChain(hi, lo, tokenIds, done * sizeTokens, count, sizeTokens, this.#hashes, 0)
      hi = this.#hashes[2 * count - 2] as number
      lo = this.#hashes[2 * count - 1] as number
      this.#prompts.lookUp(this.#hashes, count, this.#sets)
      for (let block = 0; block < count; block++) {
        const here = this.#sets[block] as number
        if (here === set) continue
        if (set !== -1) this.#endRun(set, done + block - runStart)
        set = here
        runStart = done + block
        if (!this.#narrow(set, runStart)) return
      }
      done += count
    }
    if (set !== -1) this.#endRun(set, blocks - runStart)
    this.#reachedEnd(blocks)
  }

  #begin(sources: readonly IndexedSource[], those: readonly boolean[]): void {
    const { words } = this.#prompts.sets
    if (this.#alive.length !== words) {
      this.#alive = new Uint32Array(words)
      this.#depths = new Uint32Array(32 * words)
      this.#slowBlocks = new Uint32Array(32 * words)
    }
    const alive = this.#alive.fill(0)
    for (let index = 0; index < sources.length; index++) {
      if (!those[index]) continue
      const { ordinal } = sources[index] as IndexedSource
      alive[ordinal >>> 5] = (alive[ordinal >>> 5] as number) | (1 << (ordinal & 31))
      this.#depths[ordinal] = 0
      this.#slowBlocks[ordinal] = 0
    }
  }

  /** Keeps the holders of this set; the others reach to block `depth`. False when none is left. */
  #narrow(set: number, depth: number): boolean {
    const { rows, words } = this.#prompts.sets
    const alive = this.#alive
    const gpu = (2 * set + GPU_TIER) * words
    const slow = (2 * set + SLOW_TIER) * words
    let any = 0
    for (let word = 0; word < words; word++) {
      const before = alive[word] as number
      const after = before & ((rows[gpu + word] as number) | (rows[slow + word] as number))
      any |= after
      if (after === before) continue
      alive[word] = after
      for (let bits = before & ~after; bits !== 0; bits &= bits - 1) this.#depths[32 * word + lowestBit(bits)] = depth
    }
    return any !== 0
  }

  /** Counts the run's blocks for those who hold them in no GPU. */
  #endRun(set: number, blocks: number): void {
    const { rows, words } = this.#prompts.sets
    const gpu = (2 * set + GPU_TIER) * words
    for (let word = 0; word < words; word++) {
      for (let bits = (this.#alive[word] as number) & ~(rows[gpu + word] as number); bits !== 0; bits &= bits - 1) {
        const ordinal = 32 * word + lowestBit(bits)
        this.#slowBlocks[ordinal] = (this.#slowBlocks[ordinal] as number) + blocks
      }
    }
  }

  #reachedEnd(blocks: number): void {
    const alive = this.#alive
    for (let word = 0; word < alive.length; word++) {
      for (let bits = alive[word] as number; bits !== 0; bits &= bits - 1) {
        this.#depths[32 * word + lowestBit(bits)] = blocks
      }
    }
  }
}

/** The block sizes in use, those of most sources first, no more than are looked at. */
function sizesOf(sources: readonly IndexedSource[]): number[] {
  const users = new Map<number, number>()
  for (const { sizes } of sources) {
    for (const { tokens, blocks } of sizes) if (blocks > 0) users.set(tokens, (users.get(tokens) ?? 0) + 1)
  }
  const byUsers = [...users].sort(([, a], [, b]) => b - a)
  return byUsers.slice(0, SIZES_PER_QUERY_MAX).map(([tokens]) => tokens)
}

function lowestBit(bits: number): number {
  return 31 - Math.clz32(bits & -bits)
}
