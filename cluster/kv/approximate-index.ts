// What pods hold, guessed from where prompts were sent: for pods that publish no events, and prompts whose token ids are not
// known. Each pod's guesses are as many as its cache has room for, and the oldest go first, as they go there.
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { PrefixMatch } from './prefix-match.ts'
import { PIECE_TOKENS, type PromptChain } from './prompt-chain.ts'
import { StampTable } from './stamp-table.ts'

/** Of a pod that does not say how large its cache is: an 8B model on one large GPU has about as much. */
const TOKENS_DEFAULT = 400_000
/** Of all pods together; some hundred bytes each. */
const PIECES_MAX = 2 * 1024 * 1024
/** Of one pod: its table grows at once, and everybody waits meanwhile. */
const PIECES_OF_ONE_MAX = 128 * 1024
/** What was used lately is listed, once for each use: so many times what there is room for. */
const LISTED_MAX = 4
const STAMP_MAX = 0xffffffff
const NO_ROOM = -1

export type ApproximateIndex = {
  /** The prompt was computed there. */
  readonly computed: (endpoint: EndpointId, chain: PromptChain) => void
  /** One entry for each of these endpoints. Nothing is `complete`: it is a guess. */
  readonly match: (chain: PromptChain, endpoints: readonly EndpointId[]) => readonly PrefixMatch[]
  readonly forget: (endpoint: EndpointId) => void
  readonly stats: () => { readonly endpoints: number; readonly pieces: number; readonly bytes: number }
}

export type ApproximateIndexDeps = {
  /** Tokens that the pod's cache has room for, where it says so. */
  readonly cacheTokensOf: (endpoint: EndpointId) => number | undefined
  /** What was sent longer ago counts no more. */
  readonly ttlSeconds: number
  readonly nowMs: () => number
}

export function createApproximateIndex({ cacheTokensOf, ttlSeconds, nowMs }: ApproximateIndexDeps): ApproximateIndex {
  const pods = new Map<EndpointId, GuessedPod>()

  function roomOf(endpoint: EndpointId): number {
    const tokens = cacheTokensOf(endpoint) ?? TOKENS_DEFAULT
    const room = Math.min(Math.floor(tokens / PIECE_TOKENS), PIECES_OF_ONE_MAX, Math.floor(PIECES_MAX / pods.size))
    return Math.max(1, room)
  }

  return {
    computed(endpoint, { hashes }) {
      let pod = pods.get(endpoint)
      if (pod === undefined || pod.isWornOut) {
        pod = new GuessedPod()
        pods.set(endpoint, pod)
      }
      const now = nowMs()
      pod.use(hashes, roomOf(endpoint), now)
      pod.expire(now - ttlSeconds * 1_000)
    },
    match({ hashes, tokens }, endpoints) {
      // The engine computes the last token of every prompt anew, and so the piece that it is in.
      const pieces = Math.max(0, Math.floor((tokens - 1) / PIECE_TOKENS))
      const before = nowMs() - ttlSeconds * 1_000
      return endpoints.map((endpoint) => {
        const pod = pods.get(endpoint)
        pod?.expire(before)
        const matchedTokens = (pod?.heldOf(hashes, pieces) ?? 0) * PIECE_TOKENS
        return { endpoint, rank: 0, matchedTokens, gpuTokens: matchedTokens, complete: false }
      })
    },
    forget: (endpoint) => void pods.delete(endpoint),
    stats() {
      const all = [...pods.values()]
      const sum = (of: (pod: GuessedPod) => number) => all.reduce((total, pod) => total + of(pod), 0)
      return { endpoints: pods.size, pieces: sum(({ pieces }) => pieces), bytes: sum(({ bytes }) => bytes) }
    },
  }
}

type Use = { readonly hashes: Uint32Array; readonly stamp: number; readonly atMs: number; pieces: number }

/**
 * Invariant: a piece was used no later than those before it in its prompt, and goes before them. So what is held of a prompt
 * is a beginning of it.
 */
class GuessedPod {
  readonly #held = new StampTable()
  /** In their order. A piece stands in each use of it, and goes with the one that has its stamp. */
  readonly #uses = new Set<Use>()
  #listed = 0
  #stamp = 0

  get pieces(): number {
    return this.#held.count
  }

  get bytes(): number {
    return this.#held.bytes + 8 * this.#listed
  }

  /** No stamp is left for another use. */
  get isWornOut(): boolean {
    return this.#stamp === STAMP_MAX
  }

  use(hashes: Uint32Array, room: number, atMs: number): void {
    const stamp = ++this.#stamp
    const pieces = Math.min(hashes.length / 2, room)
    for (let at = 0; at < 2 * pieces; at += 2) this.#held.put(hashes[at] as number, hashes[at + 1] as number, stamp)
    this.#uses.add({ hashes, stamp, atMs, pieces })
    this.#listed += pieces
    for (const oldest of this.#uses) {
      this.#shorten(oldest, room)
      if (oldest.pieces > 0) break
    }
  }

  /** Forgets what was not used since then. */
  expire(beforeMs: number): void {
    for (const oldest of this.#uses) {
      if (oldest.atMs >= beforeMs) break
      this.#shorten(oldest, NO_ROOM)
    }
  }

  /** Of a prompt's pieces, how many are held from the first on. */
  heldOf(hashes: Uint32Array, pieces: number): number {
    let low = 0
    let high = Math.min(pieces, hashes.length / 2)
    while (low < high) {
      const middle = (low + high + 1) >>> 1
      const stamp = this.#held.stampOf(hashes[2 * middle - 2] as number, hashes[2 * middle - 1] as number)
      if (stamp === 0) high = middle - 1
      else low = middle
    }
    return low
  }

  /** Last piece first, until all that is left has room. */
  #shorten(use: Use, room: number): void {
    const { hashes, stamp } = use
    const held = this.#held
    while (use.pieces > 0 && (held.count > room || this.#listed > LISTED_MAX * room)) {
      const hi = hashes[2 * use.pieces - 2] as number
      const lo = hashes[2 * use.pieces - 1] as number
      const lastUse = held.stampOf(hi, lo)
      if (lastUse === stamp) held.remove(hi, lo)
      // One that was used since then was so with all that stand before it.
      const gone = lastUse > stamp ? use.pieces : 1
      use.pieces -= gone
      this.#listed -= gone
    }
    if (use.pieces === 0) this.#uses.delete(use)
  }
}
