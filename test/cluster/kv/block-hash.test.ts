import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { extendChain, hashBlocks, mixExtraKeys, seedOf } from '../../../cluster/kv/block-hash.ts'

const SEED = seedOf({ model: 'm', lora: undefined, cacheSalt: undefined })

function words(seed: { readonly hi: number; readonly lo: number }): string {
  return `${seed.hi},${seed.lo}`
}

/** A small generator of numbers, the same in every run. */
function numbersFrom(start: number): () => number {
  let state = start
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state
  }
}

describe('seeds', () => {
  it('differ whenever a field differs, absent ones included, and however the letters are split between fields', () => {
    const fields = ['', 'a', 'ab', 'b', 'abc', 'c', 'bc', undefined]
    const seen = new Map<string, unknown>()
    for (const model of ['', 'a', 'ab', 'abc']) {
      for (const lora of fields) {
        for (const cacheSalt of fields) {
          const fresh = { model, lora, cacheSalt }
          expect(seen.get(words(seedOf(fresh)))).toBeUndefined()
          seen.set(words(seedOf(fresh)), fresh)
        }
      }
    }
  })
})

describe('hashBlocks', () => {
  const prompt = fc.array(fc.nat(200_000), { maxLength: 80 }).map((tokens) => Uint32Array.from(tokens))

  it('hashes full blocks only, and a prefix has the prefix of the hashes', () => {
    fc.assert(
      fc.property(prompt, fc.integer({ min: 1, max: 20 }), fc.nat(80), (tokens, size, cut) => {
        const all = hashBlocks(SEED, tokens, size)
        expect(all.length).toBe(2 * Math.floor(tokens.length / size))
        const part = hashBlocks(SEED, tokens.subarray(0, cut), size)
        expect([...part]).toEqual([...all.subarray(0, part.length)])
      }),
    )
  })

  it('gives the same whether a chain is hashed at once or goes on from any of its blocks', () => {
    fc.assert(
      fc.property(prompt, fc.integer({ min: 1, max: 20 }), fc.nat(80), (tokens, size, cut) => {
        const all = hashBlocks(SEED, tokens, size)
        const blocks = all.length / 2
        const first = Math.min(cut, blocks)
        const joined = new Uint32Array(all.length)
        extendChain(SEED.hi, SEED.lo, tokens, 0, first, size, joined, 0)
        const hi = first === 0 ? SEED.hi : (joined[2 * first - 2] as number)
        const lo = first === 0 ? SEED.lo : (joined[2 * first - 1] as number)
        extendChain(hi, lo, tokens, first * size, blocks - first, size, joined, 2 * first)
        expect([...joined]).toEqual([...all])
      }),
    )
  })

  it('writes into the array it is given when that is long enough, and leaves the rest of it alone', () => {
    const tokens = new Uint32Array(32)
    const room = new Uint32Array(6).fill(7)
    const hashes = hashBlocks(SEED, tokens, 16, room)
    expect(hashes.buffer).toBe(room.buffer)
    expect([...room.subarray(4)]).toEqual([7, 7])
    expect([...hashBlocks(SEED, tokens, 16, new Uint32Array(3))]).toEqual([...hashes])
  })

  it('never lets two block sizes meet: the same tokens in other blocks are other chains', () => {
    const tokens = new Uint32Array(64)
    const seen = new Set<string>()
    let hashes = 0
    for (const size of [1, 2, 4, 8, 16, 32, 64]) {
      const chain = hashBlocks(SEED, tokens, size)
      for (let at = 0; at < chain.length; at += 2) seen.add(`${chain[at]},${chain[at + 1]}`)
      hashes += chain.length / 2
    }
    expect(seen.size).toBe(hashes)
  })

  it('mixes extra keys in: another image is another block, and so are all blocks after it', () => {
    const chain = hashBlocks(SEED, new Uint32Array(16), 16).slice()
    const plain = [...chain]
    const one = chain.slice()
    mixExtraKeys(one, 0, 'image 1')
    const two = chain.slice()
    mixExtraKeys(two, 0, 'image 2')
    expect([...one]).not.toEqual(plain)
    expect([...one]).not.toEqual([...two])
  })

  it('has no collision in a million blocks that are nearly equal: one token, two tokens or the order changed', () => {
    const base = Uint32Array.from({ length: 16 }, (_, index) => 1000 + index)
    const hashes = new BigUint64Array(1_000_000)
    const hashed = new Set<string>()
    const next = numbersFrom(1)
    let count = 0
    const add = (tokens: Uint32Array) => {
      const [hi = 0, lo = 0] = hashBlocks(SEED, tokens, 16)
      hashes[count++] = (BigInt(hi) << 32n) | BigInt(lo)
    }
    for (let position = 0; position < 16 && count < 500_000; position++) {
      for (let token = 0; token < 31_250; token++) {
        const tokens = base.slice()
        // Not the base itself, which every position would meet.
        tokens[position] = token + 2000
        add(tokens)
      }
    }
    while (count < hashes.length) {
      const tokens = base.slice()
      const a = next() >>> 28
      const b = (a + 1 + (next() >>> 29)) & 15
      tokens[a] = 40_000 + (next() >>> 17)
      tokens[b] = 40_000 + (next() >>> 17)
      const key = `${a < b ? [a, b] : [b, a]},${a < b ? [tokens[a], tokens[b]] : [tokens[b], tokens[a]]}`
      if (hashed.has(key)) continue
      hashed.add(key)
      add(tokens)
    }
    hashes.sort()
    let collisions = 0
    for (let at = 1; at < hashes.length; at++) if (hashes[at] === hashes[at - 1]) collisions++
    expect(collisions).toBe(0)
  })

  it('has no collision in a long chain of one token repeated: padding fills no slot twice', () => {
    const chain = hashBlocks(SEED, new Uint32Array(16 * 300_000), 16)
    const hashes = BigUint64Array.from(
      { length: 300_000 },
      (_, block) => (BigInt(chain[2 * block] as number) << 32n) | BigInt(chain[2 * block + 1] as number),
    ).sort()
    expect(hashes.every((hash, at) => at === 0 || hash !== hashes[at - 1])).toBe(true)
  })

  it('flips every bit of the hash for half of all changes, wherever a bit of a token or of the parent changes', () => {
    const ROUNDS = 1500
    const next = numbersFrom(7)
    const flips = new Float64Array(64)
    const check = (changed: (tokens: Uint32Array, parent: Uint32Array) => void) => {
      flips.fill(0)
      for (let round = 0; round < ROUNDS; round++) {
        const tokens = Uint32Array.from({ length: 16 }, () => next() % 150_000)
        const parent = Uint32Array.of(next(), next())
        const before = new Uint32Array(2)
        extendChain(parent[0] as number, parent[1] as number, tokens, 0, 1, 16, before, 0)
        changed(tokens, parent)
        const after = new Uint32Array(2)
        extendChain(parent[0] as number, parent[1] as number, tokens, 0, 1, 16, after, 0)
        for (let bit = 0; bit < 64; bit++) {
          const word = (before[bit >>> 5] as number) ^ (after[bit >>> 5] as number)
          flips[bit] = (flips[bit] as number) + ((word >>> (bit & 31)) & 1)
        }
      }
      // Five standard deviations of a fair coin are 0.065.
      for (const count of flips) expect(Math.abs(count / ROUNDS - 0.5)).toBeLessThan(0.075)
    }
    for (const position of [0, 1, 7, 14, 15]) {
      for (const bit of [0, 1, 5, 11, 16]) {
        check((tokens) => {
          tokens[position] = (tokens[position] as number) ^ (1 << bit)
        })
      }
    }
    for (const bit of [0, 13, 31, 32, 45, 63]) {
      check((_, parent) => {
        parent[bit >>> 5] = (parent[bit >>> 5] as number) ^ (1 << (bit & 31))
      })
    }
  })
})
