// Prompts and blocks for the benchmarks of the KV index, made from numbers: the same in every thread and every run.

export const MODEL = 'bench'
export const BLOCK_TOKENS = 16
export const SOURCES = 32
/** Of a 12,033-token prompt, whose last block is never asked for when it is full. */
export const CHAIN_BLOCKS = 752

export function mixed(value: number): number {
  let word = Math.imul(value ^ (value >>> 16), 0x7feb352d)
  word = Math.imul(word ^ (word >>> 15), 0x846ca68b)
  return (word ^ (word >>> 16)) >>> 0
}

/** A prompt's tokens, made from its number. */
export function promptOf(chain: number, blocks: number): Uint32Array {
  const tokens = new Uint32Array(blocks * BLOCK_TOKENS + 1)
  for (let at = 0; at < tokens.length; at++) tokens[at] = mixed(chain * 1_000_003 + at) % 150_000
  return tokens
}

/** Engines' hashes, as random as a digest's. */
export function hashesOf(chain: number, from: number, to: number): Uint32Array {
  const hashes = new Uint32Array(2 * (to - from))
  for (let block = from; block < to; block++) {
    hashes[2 * (block - from)] = mixed(chain * 65_537 + block)
    hashes[2 * (block - from) + 1] = mixed(chain * 65_537 + block + 0x40000000)
  }
  return hashes
}

/** CPU time of this thread: on a shared machine the clock also counts what others do. */
export function cpuMs(): number {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1000
}

export function quantile(values: number[], at: number): number {
  return values.sort((a, b) => a - b)[Math.floor(at * (values.length - 1))] ?? Number.NaN
}
