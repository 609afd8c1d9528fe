// What is guessed of caches: where prompts were sent, and where they are being computed. Never more than a guess, never
// without end.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { createGuesses } from '../../../cluster/epp/guesses.ts'
import { createApproximateIndex } from '../../../cluster/kv/approximate-index.ts'
import { createInFlightPrefixes, followingPays } from '../../../cluster/kv/in-flight-prefixes.ts'
import type { EndpointPrefix, PromptQuery } from '../../../cluster/kv/prefix-match.ts'
import {
  chainOfBytes,
  chainOfTokens,
  PIECE_TOKENS,
  type PromptChain,
  sharedPieces,
} from '../../../cluster/kv/prompt-chain.ts'
import { view } from '../views.ts'

const A = 'a:1' as EndpointId
const B = 'b:1' as EndpointId
const NAMES = { model: 'm', lora: undefined, cacheSalt: undefined }

/** `pieces` of one beginning, then others of its own. */
function prompt(start: number, shared: number, own: number): PromptChain {
  const tokenIds = Uint32Array.from({ length: (shared + own) * PIECE_TOKENS + 1 }, (_, at) =>
    at < shared * PIECE_TOKENS ? at : start * 1_000_000 + at,
  )
  return chainOfTokens({ ...NAMES, tokenIds })
}

function rig({ cacheTokens = 100_000, ttlSeconds = 3_600 } = {}) {
  let nowMs = 0
  const approximate = createApproximateIndex({ cacheTokensOf: () => cacheTokens, ttlSeconds, nowMs: () => nowMs })
  const inFlight = createInFlightPrefixes(() => nowMs)
  const guesses = createGuesses(approximate, inFlight)
  const endpoints = [view('a:1'), view('b:1')]
  const tokensAt = (chain: PromptChain) => approximate.match(chain, [A, B]).map(({ matchedTokens }) => matchedTokens)
  return {
    approximate,
    inFlight,
    guesses,
    endpoints,
    tokensAt,
    pass(ms: number) {
      nowMs += ms
    },
  }
}

describe('a pod that tells nothing', () => {
  it('is guessed to hold what was computed there, of tokens as of bytes, and nobody else is', () => {
    const { guesses, endpoints } = rig()
    for (const chain of [prompt(1, 4, 2), chainOfBytes([Buffer.from('some words '.repeat(400))], NAMES)]) {
      const placed = guesses.follow(chain, guesses.fill(chain, new Map(), endpoints))
      placed.sent(A)
      placed.firstByte()
      placed.over()
      const filled = guesses.fill(chain, new Map(), endpoints)
      expect(filled.get(A)).toMatchObject({ approximate: true, complete: false })
      expect(filled.get(A)?.matchedTokens).toBeGreaterThanOrEqual(4 * PIECE_TOKENS)
      expect(filled.get(B)).toMatchObject({ matchedTokens: 0, approximate: true })
    }
  })

  it('is not guessed to hold what never began there, nor another tenant’s, nor an adapter’s', () => {
    const { guesses, approximate, tokensAt, endpoints } = rig()
    const failed = guesses.follow(prompt(1, 4, 2), guesses.fill(prompt(1, 4, 2), new Map(), endpoints))
    failed.sent(A)
    failed.over()
    expect(tokensAt(prompt(1, 4, 2))).toEqual([0, 0])
    // Of one that tells what it holds nothing is guessed.
    const match = { endpoint: A, rank: 0, matchedTokens: 0, gpuTokens: 0, complete: true }
    const told = guesses.follow(prompt(1, 4, 2), new Map([[A, { ...match, ranks: [match] }]]))
    told.sent(A)
    told.firstByte()
    expect(tokensAt(prompt(1, 4, 2))).toEqual([0, 0])
    approximate.computed(A, prompt(1, 4, 2))
    const { tokenIds } = prompt(1, 4, 2).query as PromptQuery
    for (const other of [{ cacheSalt: 's' }, { lora: 'l' }, { model: 'n' }]) {
      expect(tokensAt(chainOfTokens({ ...NAMES, ...other, tokenIds }))).toEqual([0, 0])
    }
  })

  it('is not guessed to hold the tokens whose numbers were the bytes of another prompt', () => {
    const { approximate, tokensAt } = rig()
    const { tokenIds } = prompt(1, 0, 6).query as PromptQuery
    approximate.computed(A, chainOfBytes([Buffer.from(tokenIds.buffer)], NAMES))
    expect(tokensAt(chainOfBytes([Buffer.from(tokenIds.buffer)], NAMES))[0]).toBe(6 * PIECE_TOKENS)
    expect(tokensAt(prompt(1, 0, 6))[0]).toBe(0)
  })

  it('is guessed to compute the last token anew, and so the piece that it ends', () => {
    const { approximate, tokensAt } = rig()
    approximate.computed(A, prompt(1, 0, 6))
    const { tokenIds } = prompt(1, 0, 6).query as PromptQuery
    const upTo = (length: number) => tokensAt(chainOfTokens({ ...NAMES, tokenIds: tokenIds.subarray(0, length) }))[0]
    expect([6 * PIECE_TOKENS + 1, 6 * PIECE_TOKENS, 5 * PIECE_TOKENS + 1].map(upTo)).toEqual(
      [6, 5, 5].map((pieces) => pieces * PIECE_TOKENS),
    )
  })

  it('keeps as much as its cache has room for, the oldest goes first, and what is used stays', () => {
    const { approximate, tokensAt } = rig({ cacheTokens: 12 * PIECE_TOKENS })
    approximate.computed(A, prompt(1, 0, 6))
    approximate.computed(A, prompt(2, 0, 6))
    approximate.computed(A, prompt(1, 0, 6))
    approximate.computed(A, prompt(3, 0, 6))
    const tokens = [1, 2, 3].map((start) => tokensAt(prompt(start, 0, 6))[0])
    expect(tokens).toEqual([6 * PIECE_TOKENS, 0, 6 * PIECE_TOKENS])
    expect(approximate.stats()).toMatchObject({ endpoints: 1, pieces: 12 })
  })

  it('loses the end of what goes first, as a cache does', () => {
    const { approximate, tokensAt } = rig({ cacheTokens: 10 * PIECE_TOKENS })
    approximate.computed(A, prompt(1, 2, 4))
    approximate.computed(A, prompt(2, 2, 6))
    expect([1, 2].map((start) => tokensAt(prompt(start, 2, start === 1 ? 4 : 6))[0])).toEqual([
      4 * PIECE_TOKENS,
      8 * PIECE_TOKENS,
    ])
  })

  it('forgets what is older than the time that was set, and all when it is gone', () => {
    const { approximate, tokensAt, pass } = rig({ ttlSeconds: 60 })
    approximate.computed(A, prompt(1, 0, 6))
    expect(tokensAt(prompt(1, 0, 6))[0]).toBe(6 * PIECE_TOKENS)
    pass(61_000)
    expect(tokensAt(prompt(1, 0, 6))[0]).toBe(0)
    approximate.computed(A, prompt(1, 0, 6))
    approximate.forget(A)
    expect([tokensAt(prompt(1, 0, 6))[0], approximate.stats().pieces]).toEqual([0, 0])
  })

  it('lists what is used again and again no longer than it has room', () => {
    const { approximate, tokensAt } = rig({ cacheTokens: 12 * PIECE_TOKENS })
    for (let each = 0; each < 1_000; each++) approximate.computed(A, prompt(1, 0, 6))
    expect(tokensAt(prompt(1, 0, 6))[0]).toBe(6 * PIECE_TOKENS)
    expect(approximate.stats().bytes).toBeLessThan(2_000)
  })

  it('whatever was computed and in which order, a guess is a beginning that was computed there and fits its cache', () => {
    const step = fc.record({
      start: fc.integer({ min: 1, max: 4 }),
      shared: fc.nat(4),
      own: fc.nat(5),
      at: fc.constantFrom(A, B),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const { approximate, tokensAt } = rig({ cacheTokens: 10 * PIECE_TOKENS })
        for (const { start, shared, own, at } of steps) approximate.computed(at, prompt(start, shared, own))
        for (const { start, shared, own } of steps) {
          const chain = prompt(start, shared, own)
          tokensAt(chain).forEach((tokens, index) => {
            const there = steps.filter(({ at }) => at === [A, B][index])
            const most = Math.max(
              0,
              ...there.map((each) => sharedPieces(chain.hashes, prompt(each.start, each.shared, each.own).hashes)),
            )
            expect(tokens).toBeLessThanOrEqual(Math.min(10, most) * PIECE_TOKENS)
            const last = there.at(-1)
            if (last?.start === start && last.shared === shared && last.own === own) {
              expect(tokens).toBe((shared + own) * PIECE_TOKENS)
            }
          })
        }
        expect(approximate.stats().pieces).toBeLessThanOrEqual(20)
      }),
      { numRuns: 60 },
    )
  })
})

describe('a prompt that is under way', () => {
  const known = new Map<EndpointId, EndpointPrefix>(
    [A, B].map((endpoint) => {
      const match = { endpoint, rank: 0, matchedTokens: 0, gpuTokens: 0, complete: true }
      return [endpoint, { ...match, ranks: [match] }]
    }),
  )
  const coming = (filled: ReadonlyMap<EndpointId, EndpointPrefix>) => [A, B].map((id) => filled.get(id)?.comingTokens)

  it('draws those with the same beginning after it, until its events have had their time', () => {
    const { guesses, endpoints, pass } = rig()
    const leader = guesses.follow(prompt(1, 10, 2), known)
    leader.sent(A)
    const look = () => coming(guesses.fill(prompt(2, 10, 3), known, endpoints))
    expect(look()).toEqual([10 * PIECE_TOKENS, undefined])
    expect(coming(guesses.fill(prompt(3, 2, 9), known, endpoints))).toEqual([undefined, undefined])
    pass(60_000)
    leader.firstByte()
    leader.over()
    expect(look()).toEqual([10 * PIECE_TOKENS, undefined])
    pass(2_001)
    expect(look()).toEqual([undefined, undefined])
  })

  it('draws nobody any more once its events have come, even when its blocks go again', () => {
    const told = new Set<EndpointId>()
    let nowMs = 0
    const inFlight = createInFlightPrefixes(
      () => nowMs,
      (endpoint) => told.has(endpoint),
    )
    const placed = inFlight.sent(A, prompt(1, 10, 2))
    inFlight.told(A)
    expect(inFlight.match(prompt(2, 10, 3)).size).toBe(1)
    placed.computed()
    placed.over()
    inFlight.told(A)
    expect(inFlight.match(prompt(2, 10, 3)).size).toBe(1)
    told.add(A)
    inFlight.told(A)
    told.clear()
    expect([inFlight.match(prompt(2, 10, 3)).size, inFlight.size()]).toEqual([0, 0])
    // Told before its first byte.
    told.add(A)
    inFlight.sent(A, prompt(1, 10, 2)).computed()
    nowMs += 1
    expect(inFlight.size()).toBe(0)
  })

  it('draws nobody once it failed, or went elsewhere', () => {
    const { guesses, endpoints, inFlight } = rig()
    const leader = guesses.follow(prompt(1, 10, 2), known)
    leader.sent(A)
    leader.sent(B)
    expect(coming(guesses.fill(prompt(2, 10, 3), known, endpoints))).toEqual([undefined, 10 * PIECE_TOKENS])
    leader.over()
    expect([coming(guesses.fill(prompt(2, 10, 3), known, endpoints)), inFlight.size()]).toEqual([
      [undefined, undefined],
      0,
    ])
  })

  it('is followed by nine of ten, and left where so much stands before it that another computes it sooner', () => {
    const { guesses } = rig()
    guesses.follow(prompt(1, 100, 2), known).sent(A)
    const at = (sent: number) => [view('a:1', { sentPromptTokens: sent }), view('b:1')]
    for (let follower = 2; follower <= 10; follower++) {
      const chain = prompt(follower, 100, 1)
      // The leader's own beginning stands before them, and what each of them adds to it.
      const filled = guesses.fill(chain, known, at((100 + follower) * PIECE_TOKENS))
      expect(coming(filled)[0]).toBe(100 * PIECE_TOKENS)
    }
    expect(coming(guesses.fill(prompt(11, 100, 1), known, at(201 * PIECE_TOKENS)))[0]).toBeUndefined()
    expect([followingPays(1_000, 1_900, 0), followingPays(1_000, 2_000, 0), followingPays(1_000, 2_500, 600)]).toEqual([
      true,
      false,
      true,
    ])
  })

  it('without end is bounded: the oldest is forgotten, and an answer that never begins is too', () => {
    const { inFlight, pass } = rig()
    for (let each = 0; each < 5_000; each++) inFlight.sent(A, prompt(each, 0, 5))
    expect(inFlight.size()).toBe(4_096)
    expect(inFlight.match(prompt(4_999, 0, 5)).get(A)).toBe(5 * PIECE_TOKENS)
    pass(120_001)
    expect(inFlight.match(prompt(4_999, 0, 5)).size).toBe(0)
  })

  it('holds no more token ids than it has room for, those of longer prompts that it is a view of among them', () => {
    const { inFlight, pass } = rig()
    const longest = new Uint32Array(4 * 1024 * 1024)
    for (let each = 1; each <= 10; each++) {
      const tokenIds = longest.slice()
      tokenIds.fill(each, PIECE_TOKENS * 5)
      inFlight.sent(A, chainOfTokens({ ...NAMES, tokenIds: tokenIds.subarray(0, 1_000 + each) }))
    }
    // 64 MB, and each holds 16.
    expect(inFlight.size()).toBe(3)
    pass(120_001)
    expect(inFlight.match(chainOfTokens({ ...NAMES, tokenIds: longest })).size).toBe(0)
    for (let each = 1; each <= 3; each++) inFlight.sent(A, prompt(each, 0, 5))
    expect(inFlight.size()).toBe(3)
  })
})
