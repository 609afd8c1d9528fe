// Ways in which a pod can fail that its callers must survive. They are set from code only.

export type Faults = {
  /** Healthy to look at, but no step makes progress. */
  readonly hang?: boolean
  /** Every generation is refused with this status. */
  readonly refuseStatus?: number
  /** The socket of an answer dies after so many of its tokens. */
  readonly dieAfterTokens?: number
  /** The engine fails an answer after so many of its tokens; 0: before the first. */
  readonly errorAfterTokens?: number
  /** KV events are numbered and kept, but not sent: a subscriber sees a gap, and can ask for them again. */
  readonly loseKvEvents?: boolean
  /** /metrics has no `vllm:` series. */
  readonly noMetrics?: boolean
}
