// The vector of a prompt: no model, but like one of it in what callers build on. It has length one, the same prompt has the
// same one everywhere, and prompts that share words and their order are near each other.

/** Of every vector. */
export const EMBEDDING_DIMENSIONS = 64
/** Places of the vector that a token, and a pair of neighbours, adds to. */
const PLACES = 8

/** float32 values. `normalised` gives them the length one. */
export function embeddingOf(tokenIds: readonly number[], normalised: boolean): Float32Array {
  const sums = new Float64Array(EMBEDDING_DIMENSIONS)
  let before = 0
  for (const id of tokenIds) {
    scatter(sums, mix(id >>> 0, Math.floor(id / 2 ** 32)))
    scatter(sums, mix(id >>> 0, before + 1))
    before = id >>> 0
  }
  const length = Math.hypot(...sums)
  // All that was added may cancel out.
  if (length === 0) sums[0] = 1
  const scale = normalised && length > 0 ? 1 / length : 1
  return Float32Array.from(sums, (sum) => sum * scale)
}

function scatter(sums: Float64Array, seed: number): void {
  let state = seed
  for (let place = 0; place < PLACES; place++) {
    state = mix(state, place)
    const at = state % EMBEDDING_DIMENSIONS
    sums[at] = (sums[at] ?? 0) + (state & 0x10000 ? 1 : -1)
  }
}

/** Two numbers into 32 bits that look like chance. */
function mix(a: number, b: number): number {
  let hash = Math.imul(a ^ Math.imul(b | 0, 0x9e3779b1), 0x85ebca6b)
  hash ^= hash >>> 15
  hash = Math.imul(hash, 0xc2b2ae35)
  return (hash ^ (hash >>> 13)) >>> 0
}

/** The bytes of the vector's float32 values as base64. */
export function base64Of(vector: Float32Array, bigEndian: boolean): string {
  const bytes = Buffer.alloc(vector.length * Float32Array.BYTES_PER_ELEMENT)
  for (const [index, value] of vector.entries()) {
    const at = index * Float32Array.BYTES_PER_ELEMENT
    if (bigEndian) bytes.writeFloatBE(value, at)
    else bytes.writeFloatLE(value, at)
  }
  return bytes.toString('base64')
}
