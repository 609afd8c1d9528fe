// One sequence of the engine: what was asked, what is told of it, and how far it is.
import type { Digest } from './block-hash.ts'

export type FinishReason = 'stop' | 'length' | 'abort' | 'error' | 'repetition'

export type Finish = {
  readonly reason: FinishReason
  /** The stop string or stop token that ended it; null for the end of the text itself and for every other reason. */
  readonly stopReason: string | number | null
}

export type Utterance = {
  readonly tokenId: number
  /** What the token adds to the text: nothing while a character or a possible stop string is incomplete. */
  readonly text: string
  readonly finish: Finish | undefined
}

/** An adapter of the model's weights. */
export type Lora = { readonly id: number; readonly name: string; readonly path: string }

export type SequenceRequest = {
  readonly id: string
  readonly promptTokenIds: readonly number[]
  /** At least 1, or 0 where `isPooled`. */
  readonly maxTokens: number
  /** The prompt is only computed; `speak` is asked once, for how it ends, and its token is none. */
  readonly isPooled?: boolean
  /** Only requests with the same salt share cached blocks. */
  readonly cacheSalt?: string | undefined
  readonly lora?: Lora | undefined
  /** Lower is sooner, where the engine looks at it; 0 without it. */
  readonly priority?: number
  /** Computes the whole prompt, as one must that wants the prompt's log probabilities. */
  readonly ignoreCache?: boolean
  /** Tells of the blocks that it found cached as if they had just been stored. */
  readonly reportHits?: boolean
  /** Says the next token; `isLast` when no more may follow, and then it must finish. */
  readonly speak: (isLast: boolean) => Utterance
}

/** What the prefix cache did for a prompt. */
export type PromptCaching = {
  /** Prompt tokens that were found cached when the sequence was first scheduled, wherever. */
  readonly cachedTokens: number
  /** Those of them that had to be copied from the host's memory. */
  readonly offloadedTokens: number
  /** Prompt tokens that were computed and are cached now. */
  readonly createdTokens: number
}

export type Emission = {
  readonly id: string
  readonly utterance: Utterance
  /** Whether the utterance is a token, and not only the end of a prompt. */
  readonly isToken: boolean
  readonly atMs: number
  /** Set on the first token: the time from arrival. */
  readonly timeToFirstTokenMs: number | undefined
  /** Set on every later token: the time from the token before. */
  readonly interTokenMs: number | undefined
  readonly promptTokens: number
  readonly caching: PromptCaching
}

/** What is known of a sequence when it has left the engine. Times that it never reached are undefined. */
export type FinishedSequence = {
  readonly id: string
  readonly reason: FinishReason
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly offloadedTokens: number
  readonly outputTokens: number
  /** 0 where no token was wanted. */
  readonly maxTokens: number
  readonly preemptions: number
  readonly arrivedAtMs: number
  readonly scheduledAtMs: number | undefined
  readonly firstTokenAtMs: number | undefined
  readonly lastTokenAtMs: number | undefined
  readonly finishedAtMs: number
}

export type Sequence = {
  readonly request: SequenceRequest
  readonly arrivedAtMs: number
  scheduledAtMs: number | undefined
  firstTokenAtMs: number | undefined
  lastTokenAtMs: number | undefined
  readonly outputTokenIds: number[]
  /** Of the prompt's full blocks, and of the blocks after them that output filled. */
  readonly promptHashes: readonly Digest[]
  readonly outputHashes: Digest[]
  /** Tokens, prompt or output, whose keys and values are in the sequence's blocks. */
  computedTokens: number
  blocks: number[]
  /** How many of `blocks`, from the first, the prefix cache can find. */
  cachedBlocks: number
  cachedTokens: number
  offloadedTokens: number
  createdTokens: number
  /** While blocks are copied to it: when that is done. */
  loadedAtMs: number | undefined
  /** How many of its blocks, from the first, were offered to the host's memory. */
  offeredBlocks: number
  preemptions: number
  /** Passed over when it last came to its turn, though there was room: the adapters of others fill a step. */
  isDeferred: boolean
}

export function knownTokens({ request, outputTokenIds }: Sequence): number {
  return request.promptTokenIds.length + outputTokenIds.length
}

/** Prefill, decode and recomputation after a preemption are one thing: tokens known less tokens computed. */
export function tokensToCompute(sequence: Sequence): number {
  return knownTokens(sequence) - sequence.computedTokens
}

export function tokensBetween({ request, outputTokenIds }: Sequence, from: number, to: number): readonly number[] {
  const { promptTokenIds } = request
  const prompt = promptTokenIds.slice(from, to)
  if (to <= promptTokenIds.length) return prompt
  const output = outputTokenIds.slice(Math.max(0, from - promptTokenIds.length), to - promptTokenIds.length)
  return [...prompt, ...output]
}

export function isDecoding(sequence: Sequence): boolean {
  return sequence.outputTokenIds.length > 0 && tokensToCompute(sequence) === 1
}

/** A sequence that waits for its turn; the hashes are those of its prompt's full blocks. */
export function newSequence(request: SequenceRequest, arrivedAtMs: number, promptHashes: readonly Digest[]): Sequence {
  return {
    request,
    arrivedAtMs,
    scheduledAtMs: undefined,
    firstTokenAtMs: undefined,
    lastTokenAtMs: undefined,
    outputTokenIds: [],
    promptHashes,
    outputHashes: [],
    computedTokens: 0,
    blocks: [],
    cachedBlocks: 0,
    cachedTokens: 0,
    offloadedTokens: 0,
    createdTokens: 0,
    loadedAtMs: undefined,
    offeredBlocks: 0,
    preemptions: 0,
    isDeferred: false,
  }
}

/** Prompt tokens of those that have no token yet. */
export function queuedTokens(lists: readonly (readonly Sequence[])[]): number {
  let tokens = 0
  for (const list of lists) {
    for (const { request, firstTokenAtMs } of list)
      if (firstTokenAtMs === undefined) tokens += request.promptTokenIds.length
  }
  return tokens
}

/** Names of adapters whose sequences have got a token, each once. */
export function loraNames(sequences: readonly Sequence[]): readonly string[] {
  const names = new Set<string>()
  for (const { request, firstTokenAtMs } of sequences) {
    if (request.lora && firstTokenAtMs !== undefined) names.add(request.lora.name)
  }
  return [...names]
}
