// What pods hold, guessed from where prompts were sent: for pods that publish no events, and prompts whose token ids are not
// known. Each pod's guesses are as many as its cache has room for, and the oldest go first, as they go there.
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { BlocksRemoved, BlocksStored } from './kv-event.ts'
import { createKvIndex, type KvSource } from './kv-index.ts'
import type { PrefixMatch } from './prefix-match.ts'
import { PIECE_TOKENS, type PromptChain } from './prompt-chain.ts'

/** Of a pod that does not say how large its cache is: an 8B model on one large GPU has about as much. */
const TOKENS_DEFAULT = 400_000
/** Of all pods together; about 120 bytes each. */
const PIECES_MAX = 2 * 1024 * 1024

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

/**
 * Invariant: `source` holds the pieces of `sentAtSeconds` and no others; its keys are in the order of their use, and each
 * is the engine hash that its piece is stored under.
 */
type Guessed = { readonly source: KvSource; readonly sentAtSeconds: Map<number, number> }

export function createApproximateIndex({ cacheTokensOf, ttlSeconds, nowMs }: ApproximateIndexDeps): ApproximateIndex {
  const index = createKvIndex()
  /** By endpoint and by the names that keep caches apart: the index has one model a source. */
  const guesses = new Map<string, Guessed>()
  let pieces = 0

  function guessedOf(endpoint: EndpointId, model: string): Guessed {
    const key = `${endpoint} ${model}`
    const known = guesses.get(key)
    if (known !== undefined) return known
    const opened = { source: index.open({ endpoint, rank: 0, model }), sentAtSeconds: new Map<number, number>() }
    guesses.set(key, opened)
    return opened
  }

  function remove({ source, sentAtSeconds }: Guessed, keys: readonly number[]): void {
    if (keys.length === 0) return
    const hashes = new Uint32Array(2 * keys.length)
    keys.forEach((key, at) => {
      sentAtSeconds.delete(key)
      hashes[2 * at] = Math.floor(key / 2 ** 32)
      hashes[2 * at + 1] = key >>> 0
    })
    pieces -= keys.length
    const event: BlocksRemoved = { type: 'removed', hashes, medium: undefined, group: 0 }
    source.apply({ atSeconds: 0, rank: 0, events: [event], unknownEvents: 0 })
  }

  /** Oldest first: those beyond the room, and those of too long ago. */
  function evict(guessed: Guessed, room: number): void {
    const before = nowMs() / 1_000 - ttlSeconds
    const old: number[] = []
    for (const [key, sentAt] of guessed.sentAtSeconds) {
      if (guessed.sentAtSeconds.size - old.length <= room && sentAt >= before) break
      old.push(key)
    }
    remove(guessed, old)
  }

  return {
    computed(endpoint, chain) {
      const guessed = guessedOf(endpoint, modelOf(chain))
      const { source, sentAtSeconds } = guessed
      const tokens = cacheTokensOf(endpoint) ?? TOKENS_DEFAULT
      const room = Math.max(1, Math.min(Math.floor(tokens / PIECE_TOKENS), Math.floor(PIECES_MAX / guesses.size)))
      const keys = keysOf(chain).slice(0, room)
      const now = nowMs() / 1_000
      const events: BlocksStored[] = []
      for (let at = 0; at < keys.length; at++) {
        const key = keys[at] as number
        if (sentAtSeconds.delete(key)) {
          sentAtSeconds.set(key, now)
          continue
        }
        let end = at + 1
        while (end < keys.length && !sentAtSeconds.has(keys[end] as number)) end++
        for (let each = at; each < end; each++) sentAtSeconds.set(keys[each] as number, now)
        pieces += end - at
        events.push(storedOf(chain, keys, at, end))
        at = end - 1
      }
      if (events.length > 0) source.apply({ atSeconds: now, rank: 0, events, unknownEvents: 0 })
      evict(guessed, room)
    },
    match(chain, endpoints) {
      const wanted = new Set(endpoints)
      for (const endpoint of endpoints) {
        const guessed = guesses.get(`${endpoint} ${modelOf(chain)}`)
        if (guessed) evict(guessed, Number.POSITIVE_INFINITY)
      }
      const matches = index.match({ ...chain.query, model: modelOf(chain) })
      const known = new Map(
        matches.filter(({ endpoint }) => wanted.has(endpoint)).map((match) => [match.endpoint, match]),
      )
      return endpoints.map(
        (endpoint) => known.get(endpoint) ?? { endpoint, rank: 0, matchedTokens: 0, gpuTokens: 0, complete: false },
      )
    },
    forget(endpoint) {
      for (const [key, { source, sentAtSeconds }] of guesses) {
        if (!key.startsWith(`${endpoint} `)) continue
        guesses.delete(key)
        pieces -= sentAtSeconds.size
        source.close()
      }
    },
    stats: () => ({ endpoints: guesses.size, pieces, bytes: index.stats().bytes + pieces * MAP_ENTRY_BYTES }),
  }
}

/** Two doubles and their place in a map. */
const MAP_ENTRY_BYTES = 48

/** Bytes and tokens never meet. */
function modelOf({ ofBytes, query }: PromptChain): string {
  return ofBytes ? `bytes of ${query.model}` : query.model
}

/** 53 of a hash's bits, which stand for an engine's hash of the piece. */
function keysOf({ hashes }: PromptChain): number[] {
  const keys: number[] = []
  for (let at = 0; at + 1 < hashes.length; at += 2) {
    keys.push(((hashes[at] as number) & 0x1fffff) * 2 ** 32 + (hashes[at + 1] as number))
  }
  return keys
}

function storedOf({ query }: PromptChain, keys: readonly number[], from: number, to: number): BlocksStored {
  const hashes = new Uint32Array(2 * (to - from))
  for (let at = from; at < to; at++) {
    hashes[2 * (at - from)] = Math.floor((keys[at] as number) / 2 ** 32)
    hashes[2 * (at - from) + 1] = (keys[at] as number) >>> 0
  }
  const before = from === 0 ? undefined : (keys[from - 1] as number)
  return {
    type: 'stored',
    hashes,
    parent: before === undefined ? undefined : { hi: Math.floor(before / 2 ** 32), lo: before >>> 0 },
    tokenIds: query.tokenIds.subarray(from * PIECE_TOKENS, to * PIECE_TOKENS),
    blockSizeTokens: PIECE_TOKENS,
    medium: undefined,
    loraName: query.lora,
    extraKeys: query.cacheSalt === undefined ? undefined : [{ salt: query.cacheSalt, others: '' }],
    group: 0,
    specKind: undefined,
  }
}
