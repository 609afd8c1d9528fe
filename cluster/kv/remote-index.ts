// A KV-Cache Manager elsewhere, asked what pods hold of a prompt (`POST /score`). It is asked only while it is known to
// answer, and briefly: the index in this process stands in for it.
import * as v from 'valibot'
import type { EndpointId } from '../endpoints/endpoint.ts'
import { readBounded } from '../endpoints/read-bounded.ts'
import type { FindPrefixes, FoundPrefixes, MatchPrefix, PrefixMatch, PromptQuery } from './prefix-match.ts'

/** A decision waits no longer; what comes later is too late. */
const BUDGET_MS = 50
/** Answers in a row that came too late: one prompt may be long. */
const LATE_MAX = 3
const PROBE_INTERVAL_MS = 5_000
const PROBE_TIMEOUT_MS = 2_000
const ANSWER_BYTES_MAX = 4 * 1024 * 1024

const whole = v.pipe(v.number(), v.integer(), v.minValue(0))
const Score = v.object({
  endpoint: v.string(),
  rank: v.optional(whole, 0),
  matchedTokens: whole,
  tiers: v.optional(v.object({ gpu: v.optional(whole) })),
  stale: v.optional(v.boolean(), false),
})
const Answer = v.object({ scores: v.array(Score) })

const NoModel = v.object({ error: v.object({ param: v.literal('model') }) })

type Asked = {
  readonly model: string
  readonly lora?: string | undefined
  readonly cache_salt?: string | undefined
  readonly token_ids: readonly number[]
}

export type RemoteIndex = {
  /** The remote one's answer, or the local one's where the remote one is silent. Never rejects. */
  readonly findPrefixes: FindPrefixes
  /** Whether it answered when it was asked last. */
  readonly answers: () => boolean
  readonly close: () => void
}

export type RemoteIndexEvent = {
  readonly type: 'kv-manager-answers' | 'kv-manager-lost'
  readonly origin: string
  /** In words, why it does not answer. */
  readonly cause?: string
}

export type RemoteIndexDeps = {
  /** Scheme and authority. */
  readonly origin: string
  readonly local: MatchPrefix
  readonly fetch: typeof fetch
  /** Told at the first answer or failure, and at every change. */
  readonly onEvent: (event: RemoteIndexEvent) => void
}

export function followRemoteIndex({ origin, local, fetch, onEvent }: RemoteIndexDeps): RemoteIndex {
  /** Undefined until the first probe is over. */
  let up: boolean | undefined
  // Invariant: a probe is under way or scheduled exactly while `up` is not true.
  let timer: NodeJS.Timeout | undefined
  let closed = false
  let late = 0

  async function ask(query: Asked, timeoutMs: number): Promise<readonly PrefixMatch[]> {
    const answer = await fetch(`${origin}/score`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(query),
      redirect: 'error',
      signal: AbortSignal.timeout(timeoutMs),
    })
    const body = await readBounded((answer.body ?? []) as AsyncIterable<Buffer>, ANSWER_BYTES_MAX)
    if (!body) throw new Error(`its /score has more than ${ANSWER_BYTES_MAX} bytes`)
    // Of a model that none of its pods serves yet it has no scores.
    if (answer.status === 404 && v.is(NoModel, parsed(body))) return []
    if (!answer.ok) throw new Error(`its /score answers ${answer.status}`)
    // The last token is always computed.
    const most = Math.max(0, query.token_ids.length - 1)
    return v
      .parse(Answer, JSON.parse(body.toString()))
      .scores.map(({ endpoint, rank, matchedTokens, tiers, stale }) => ({
        endpoint: endpoint as EndpointId,
        rank,
        matchedTokens: Math.min(matchedTokens, most),
        gpuTokens: Math.min(matchedTokens, tiers?.gpu ?? matchedTokens, most),
        complete: !stale,
      }))
  }

  function answered(): void {
    if (up === true) return
    up = true
    late = 0
    onEvent({ type: 'kv-manager-answers', origin })
  }

  /** @param probed when this is the outcome of a probe: then the next one is due. */
  function failed(error: unknown, probed: boolean): void {
    const wasUp = up
    up = false
    if (wasUp !== false) onEvent({ type: 'kv-manager-lost', origin, cause: causeOf(error) })
    if ((probed || wasUp === true) && !closed) timer = setTimeout(() => void probe(), PROBE_INTERVAL_MS)
  }

  async function probe(): Promise<void> {
    try {
      await ask({ model: 'probe', token_ids: [0] }, PROBE_TIMEOUT_MS)
      answered()
    } catch (error) {
      failed(error, true)
    }
  }
  void probe()

  const standIn = (query: PromptQuery): FoundPrefixes => ({
    matches: local(query),
    by: `the index in this process: ${origin} gave no answer in time`,
  })
  return {
    async findPrefixes(query) {
      if (up !== true) return standIn(query)
      const { tokenIds, model, lora, cacheSalt } = query
      try {
        const asked = { model, lora, cache_salt: cacheSalt, token_ids: Array.from(tokenIds) }
        const matches = await ask(asked, BUDGET_MS)
        late = 0
        return { matches, by: origin }
      } catch (error) {
        late = isTimeout(error) ? late + 1 : LATE_MAX
        if (late >= LATE_MAX) failed(error, false)
        return standIn(query)
      }
    },
    answers: () => up === true,
    close() {
      closed = true
      clearTimeout(timer)
    },
  }
}

function parsed(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString())
  } catch {
    return undefined
  }
}

function isTimeout(error: unknown): boolean {
  return (error as Error).name === 'TimeoutError'
}

/** `fetch` says only that it failed; why stands in its cause. */
function causeOf(error: unknown): string {
  const { message, cause } = error as Error
  if (isTimeout(error)) return 'no answer in time'
  return (cause as NodeJS.ErrnoException | undefined)?.code ?? message
}
