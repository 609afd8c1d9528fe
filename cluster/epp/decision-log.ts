// Remembers recent decisions for `why`, in a ring bounded by bytes.
import type { Bypass } from '../../shared/cache/policy.ts'
import type { Dialect } from '../../shared/dialect.ts'
import type { Rejection } from '../../shared/rejection.ts'
import type { Usage } from '../../shared/usage.ts'
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { Candidate, ProfileRun } from '../scheduling/types.ts'

export const LOG_BYTES_MAX = 32 * 1024 * 1024
export const CANDIDATES_MAX = 32

/** Upper estimates of what a record holds on the heap; a test holds them against V8's own count. */
const RECORD_BYTES = 1_300
const CANDIDATE_BYTES = 460
const CHAR_BYTES = 2

export type Attempt = {
  readonly endpoint: EndpointId
  /** In words: `answered 200`, `connection refused`. */
  outcome: string
  readonly startedAtMs: number
  endedAtMs: number | undefined
}

/** What the response cache did for a request. */
export type CacheNote = {
  /**
   * `memory`, `redis`: answered from there. `joined`: got the answer that an equal request was waiting for. `miss`, `stale`:
   * nothing there, or too old. `request`: the caller wanted a new one. Any other word says why it was not asked.
   */
  readonly outcome: 'memory' | 'redis' | 'joined' | 'miss' | 'stale' | 'request' | Bypass
  /** Of a stored answer: how long it had been there. */
  readonly ageSeconds?: number
}

/** A decision and what became of it. The exchange writes into it while it goes on. */
export type DecisionRecord = {
  readonly id: string
  readonly atEpochMs: number
  readonly startedAtMs: number
  readonly requestId: string
  readonly tenant: string | undefined
  readonly dialect: Dialect
  readonly model: string
  readonly stream: boolean
  /** Estimated from the body's size until its token ids are known. */
  promptTokens: number
  /** In words, where the token ids are not known; undefined where they are. */
  tokensUnknown: string | undefined
  /** Who told what pods hold of it, in words; undefined when it was the index in this process, as configured. */
  lookedUpBy: string | undefined
  /** What the endpoint that was tried last would have cached; undefined when that is not known. */
  predictedCachedTokens: number | undefined
  /** What named the session: `x-session-token`, another header, `prompt_cache_key`. */
  session: string | undefined
  /** Set when nothing was to be placed: a response that was made before is fetched or cancelled where it lies. */
  stored: 'fetched' | 'cancelled' | undefined
  /** Undefined where there was nothing to look up. */
  cache: CacheNote | undefined
  /** Time in the line before admission. */
  waitedMs: number
  /** Time until the prompt's token ids and what pods hold of them were known. */
  gatherMs: number
  decideMs: number
  run: ProfileRun | undefined
  /** How many candidates there were, of which at most CANDIDATES_MAX are kept. */
  candidatesTotal: number
  rejection: Rejection | undefined
  readonly attempts: Attempt[]
  firstByteAtMs: number | undefined
  endedAtMs: number | undefined
  /** In words, when it is over. */
  outcome: string | undefined
  usage: Usage | undefined
}

export type DecisionLog = {
  readonly add: (record: DecisionRecord) => void
  readonly find: (id: string) => DecisionRecord | undefined
  /** Newest first. */
  readonly newest: (count: number) => readonly DecisionRecord[]
  readonly size: () => { readonly records: number; readonly bytes: number }
}

export function createDecisionLog(bytesMax = LOG_BYTES_MAX): DecisionLog {
  // Invariant: `bytes` is the sum of bytesOf() over the records as they were added; insertion order is age. What `byAge`
  // has passed is deleted: a new iterator would step over all of that again to find the oldest.
  const records = new Map<string, { readonly record: DecisionRecord; readonly bytes: number }>()
  const byAge = records.entries()
  let bytes = 0
  return {
    add(record) {
      const size = bytesOf(record)
      records.set(record.id, { record, bytes: size })
      bytes += size
      while (bytes > bytesMax) {
        const { value: oldest } = byAge.next()
        if (oldest === undefined) break
        records.delete(oldest[0])
        bytes -= oldest[1].bytes
      }
    },
    find: (id) => records.get(id)?.record,
    newest: (count) =>
      [...records.values()]
        .slice(-count)
        .reverse()
        .map(({ record }) => record),
    size: () => ({ records: records.size, bytes }),
  }
}

/** The run with at most CANDIDATES_MAX candidates: the chosen one and those that scored best. */
export function trimRun(run: ProfileRun): ProfileRun {
  if (run.candidates.length <= CANDIDATES_MAX) return run
  const kept = run.candidates.slice(0, CANDIDATES_MAX)
  const chosen = run.candidates.find(({ view }) => view === run.chosen)
  if (chosen && !kept.includes(chosen)) kept[CANDIDATES_MAX - 1] = chosen as Candidate
  return { ...run, order: run.order.slice(0, CANDIDATES_MAX), candidates: kept }
}

function bytesOf(record: DecisionRecord): number {
  const { requestId, tenant, model, rejection, run } = record
  const chars = requestId.length + (tenant?.length ?? 0) + model.length + (rejection?.message.length ?? 0)
  let filteredChars = 0
  for (const { filtered } of run?.candidates ?? []) filteredChars += filtered?.because.length ?? 0
  return RECORD_BYTES + (run?.candidates.length ?? 0) * CANDIDATE_BYTES + (chars + filteredChars) * CHAR_BYTES
}
