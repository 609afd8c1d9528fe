// vLLM's queue limits: what is beyond them is refused before it reaches an engine, so that it can go elsewhere.
import { type ApiError, BACKLOG_FULL, QUEUE_FULL } from './errors.ts'
import type { QueueLimit } from './metrics.ts'
import type { Settings } from './options.ts'
import type { Rank } from './rank.ts'

export type Admission = {
  /** Why a request of so many sequences is refused; undefined for one that is not. */
  readonly refuse: (sequences: number) => ApiError | undefined
  readonly refused: ReadonlyMap<QueueLimit, number>
}

type Limits = Pick<Settings, 'maxNumQueuedReqs' | 'maxNumQueuedTokens'>

/** The limits are of all ranks together. */
export function createAdmission({ maxNumQueuedReqs, maxNumQueuedTokens }: Limits, ranks: readonly Rank[]): Admission {
  const refused = new Map<QueueLimit, number>()
  const count = (limit: QueueLimit, refusal: ApiError) => {
    refused.set(limit, (refused.get(limit) ?? 0) + 1)
    return refusal
  }
  return {
    refused,
    refuse: (sequences) => {
      if (maxNumQueuedReqs === undefined && maxNumQueuedTokens === undefined) return undefined
      const snapshots = ranks.map(({ engine }) => engine.snapshot())
      const unfinished = snapshots.reduce((sum, { waiting, running }) => sum + waiting + running, 0)
      if (maxNumQueuedReqs !== undefined && unfinished + sequences > maxNumQueuedReqs) {
        return count('max_num_queued_reqs', QUEUE_FULL)
      }
      const queued = snapshots.reduce((sum, { queuedTokens }) => sum + queuedTokens, 0)
      if (maxNumQueuedTokens === undefined || queued < maxNumQueuedTokens) return undefined
      return count('max_num_queued_tokens', BACKLOG_FULL)
    },
  }
}
