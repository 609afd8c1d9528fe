// What is asked of a KV index, and what it answers.
import type { EndpointId } from '../endpoints/endpoint.ts'

export type PromptQuery = {
  readonly tokenIds: Uint32Array
  /** The base model's name, as the sources were opened with. */
  readonly model: string
  /** The adapter's name, when the request is for one. */
  readonly lora: string | undefined
  readonly cacheSalt: string | undefined
}

/** What one rank of one endpoint holds of a prompt. */
export type PrefixMatch = {
  readonly endpoint: EndpointId
  readonly rank: number
  /**
   * Prompt tokens that the engine would report as cached: whole blocks from the start, and never the whole prompt,
   * because the last token is always computed.
   */
  readonly matchedTokens: number
  /** Of those, in GPU memory; the rest lies in slower tiers. */
  readonly gpuTokens: number
  /** False while events are missing (not replayed yet, a gap that replay could not fill): there may be more, or less. */
  readonly complete: boolean
}

/** The index as a decision uses it: in this process, or behind a remote KV-Cache Manager. */
export type MatchPrefix = (query: PromptQuery) => readonly PrefixMatch[]
