// KV-cache events as the router reads them, whatever form they had on the wire. Hashes are pairs of uint32 in typed
// arrays, high word first, and never objects: a prefill of a long prompt announces thousands of them.

/**
 * What goes into a block's hash besides its tokens, as the engine published it. `salt` stands on the first block of a
 * chain only; `others` is a canonical text of everything else (images, embeddings), empty when there is nothing.
 */
export type ExtraKeys = { readonly salt: string | undefined; readonly others: string }

/** Blocks that became full, one after the other in one chain. */
export type BlocksStored = {
  readonly type: 'stored'
  /** The engine's hashes: two words a block. May be empty, and may be fewer than the tokens cover (sliding windows). */
  readonly hashes: Uint32Array
  /** The engine's hash of the block before the first one; undefined at the root of a chain. */
  readonly parent: { readonly hi: number; readonly lo: number } | undefined
  readonly tokenIds: Uint32Array
  /** 0 when the engine did not say (old CPU offload events). */
  readonly blockSizeTokens: number
  /** `GPU`, `CPU`, `STORAGE`, … as written; undefined when absent. */
  readonly medium: string | undefined
  readonly loraName: string | undefined
  /** One per block where the engine sends them. */
  readonly extraKeys: readonly (ExtraKeys | undefined)[] | undefined
  /** KV-cache group of a hybrid model; 0 when absent. */
  readonly group: number
  /** `full_attention`, `sliding_window`, …; undefined when absent. */
  readonly specKind: string | undefined
}

/** Blocks whose memory was taken for others: one event for each physical copy. */
export type BlocksRemoved = {
  readonly type: 'removed'
  readonly hashes: Uint32Array
  readonly medium: string | undefined
  readonly group: number
}

/** The whole prefix cache was dropped. */
export type BlocksCleared = { readonly type: 'cleared' }

export type KvEvent = BlocksStored | BlocksRemoved | BlocksCleared

/** What an engine published after one step. Events count in their order. */
export type KvBatch = {
  readonly atSeconds: number
  /** Data-parallel rank; 0 when absent. */
  readonly rank: number
  readonly events: readonly KvEvent[]
  /** Events of a kind that is not known here, skipped. */
  readonly unknownEvents: number
}
