// Prompts that are being computed: what a pod will hold in a moment, and no event has told yet. Kept apart from what is
// known; it is forgotten when the events have had their time.
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { PromptQuery } from './prefix-match.ts'
import { PIECE_TOKENS, type PromptChain, sharedPieces, shares } from './prompt-chain.ts'

/** An answer that never begins. */
const LONGEST_MS = 120_000
/** From the first byte on the blocks are there; their events follow. */
const AFTER_FIRST_BYTE_MS = 2_000
const PROMPTS_MAX = 4_096
/** Of what they hold, their token ids above all. */
const BYTES_MAX = 64 * 1024 * 1024
/** A shorter beginning is computed sooner than it is waited for. */
const PIECES_MIN = 4
/** Prompts of an endpoint that are looked for in one batch of its events. */
const CONFIRMED_AT_ONCE = 8
/** Of prompts with one beginning as many are looked at, the newest first. */
const LOOKS_MAX = 256

export type UnderWay = {
  /** Its first byte came: all of its prompt is computed. */
  readonly computed: () => void
  /** It came to nothing, or is over. */
  readonly over: () => void
}

export type InFlightPrefixes = {
  readonly sent: (endpoint: EndpointId, chain: PromptChain) => UnderWay
  /** Events of this endpoint have come: what they told of is not under way any more. */
  readonly told: (endpoint: EndpointId) => void
  /** Tokens of this prompt that are being computed, or just were, by endpoint: the longest beginning at each. */
  readonly match: (chain: PromptChain) => ReadonlyMap<EndpointId, number>
  readonly size: () => number
}

type Entry = {
  readonly endpoint: EndpointId
  readonly query: PromptQuery | undefined
  readonly hashes: Uint32Array
  readonly bytes: number
  untilMs: number
}

const NOBODY: ReadonlyMap<EndpointId, number> = new Map()
const NOTHING: UnderWay = { computed: () => undefined, over: () => undefined }

/** @param holds whether an endpoint is known to hold a prompt. */
export function createInFlightPrefixes(
  nowMs: () => number,
  holds: (endpoint: EndpointId, query: PromptQuery) => boolean = () => false,
): InFlightPrefixes {
  // Invariant: an entry is in `all` exactly while it stands under its first piece; those in `untold` are computed.
  const all = new Set<Entry>()
  let bytes = 0
  const byFirst = new Map<number, Set<Entry>>()
  const untold = new Map<EndpointId, Set<Entry>>()

  function remove(entry: Entry): void {
    if (!all.delete(entry)) return
    bytes -= entry.bytes
    leave(byFirst, firstOf(entry.hashes), entry)
    leave(untold, entry.endpoint, entry)
  }

  return {
    sent(endpoint, { hashes, query }) {
      if (hashes.length / 2 < PIECES_MIN) return NOTHING
      // Its ids may be a part of a longer array, which is held with them.
      const held = hashes.byteLength + (query?.tokenIds.buffer.byteLength ?? 0)
      const entry = { endpoint, hashes, query, bytes: held, untilMs: nowMs() + LONGEST_MS }
      all.add(entry)
      bytes += held
      for (const oldest of all) {
        if (all.size <= PROMPTS_MAX && bytes <= BYTES_MAX) break
        remove(oldest)
      }
      if (!all.has(entry)) return NOTHING
      enter(byFirst, firstOf(hashes), entry)
      return {
        computed() {
          entry.untilMs = nowMs() + AFTER_FIRST_BYTE_MS
          if (query !== undefined && holds(endpoint, query)) remove(entry)
          else if (all.has(entry)) enter(untold, endpoint, entry)
        },
        over() {
          // After a first byte its events still need their time.
          if (entry.untilMs > nowMs() + AFTER_FIRST_BYTE_MS) remove(entry)
        },
      }
    },
    told(endpoint) {
      let looks = 0
      for (const entry of untold.get(endpoint) ?? []) {
        if (++looks > CONFIRMED_AT_ONCE) break
        const { query } = entry
        if (entry.untilMs <= nowMs() || (query !== undefined && holds(endpoint, query))) remove(entry)
      }
    },
    match({ hashes }) {
      const those = hashes.length < 2 * PIECES_MIN ? undefined : byFirst.get(firstOf(hashes))
      if (those === undefined) return NOBODY
      /** Pieces. */
      const found = new Map<EndpointId, number>()
      const now = nowMs()
      let looks = 0
      for (const entry of [...those].reverse()) {
        if (entry.untilMs <= now) {
          remove(entry)
          continue
        }
        if (++looks > LOOKS_MAX) break
        const before = found.get(entry.endpoint) ?? PIECES_MIN - 1
        if (!shares(hashes, entry.hashes, before)) continue
        found.set(entry.endpoint, sharedPieces(hashes, entry.hashes))
      }
      return new Map([...found].map(([endpoint, pieces]) => [endpoint, pieces * PIECE_TOKENS]))
    },
    size: () => all.size,
  }
}

function enter<Key>(entries: Map<Key, Set<Entry>>, key: Key, entry: Entry): void {
  const those = entries.get(key)
  if (those === undefined) entries.set(key, new Set([entry]))
  else those.add(entry)
}

function leave<Key>(entries: Map<Key, Set<Entry>>, key: Key, entry: Entry): void {
  const those = entries.get(key)
  those?.delete(entry)
  if (those?.size === 0) entries.delete(key)
}

function firstOf(hashes: Uint32Array): number {
  return ((hashes[0] as number) & 0x1fffff) * 2 ** 32 + (hashes[1] as number)
}

/**
 * Whether a prompt had better go where its beginning is being computed: there it waits for what stands before it, the
 * beginning itself among that; elsewhere it waits for what stands there, and computes the beginning anew. That costs it the
 * same time once more, and all others there the work: so much longer it may wait.
 *
 * @param sharedTokens of its beginning, which the other prompt shares.
 * @param aheadTokens prompt tokens sent there and not computed yet.
 * @param leastAheadTokens the same at the endpoint that has the least.
 */
export function followingPays(sharedTokens: number, aheadTokens: number, leastAheadTokens: number): boolean {
  return aheadTokens < 2 * sharedTokens + leastAheadTokens
}
