// A KV-Cache Manager elsewhere, asked what pods hold of a prompt (`POST /score`). It is asked only while it is known to
// answer, and briefly: the index in this process stands in for it.
import * as v from 'valibot'
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { MatchPrefix, PrefixMatch, PromptQuery } from './prefix-match.ts'

/** A decision waits no longer; what comes later is too late. */
const BUDGET_MS = 50
const PROBE_INTERVAL_MS = 5_000
const PROBE_TIMEOUT_MS = 2_000
const ANSWER_BYTES_MAX = 4 * 1024 * 1024

const Score = v.object({
  endpoint: v.string(),
  rank: v.optional(v.number(), 0),
  matchedTokens: v.pipe(v.number(), v.minValue(0)),
  tiers: v.optional(v.object({ gpu: v.optional(v.number()) })),
  stale: v.optional(v.boolean(), false),
})
const Answer = v.object({ scores: v.array(Score) })

export type RemoteIndex = {
  /** The remote one's answer, or the local one's where the remote one is silent. Never rejects. */
  readonly findPrefixes: (query: PromptQuery) => readonly PrefixMatch[] | Promise<readonly PrefixMatch[]>
  /** Whether it answered when it was asked last. */
  readonly answers: () => boolean
  readonly close: () => void
}

export type RemoteIndexDeps = {
  /** Scheme and authority. */
  readonly origin: string
  readonly local: MatchPrefix
  readonly fetch: typeof fetch
  readonly onEvent: (event: { readonly type: 'kv-manager'; readonly answers: boolean; readonly origin: string }) => void
}

export function followRemoteIndex({ origin, local, fetch, onEvent }: RemoteIndexDeps): RemoteIndex {
  let up = false
  let timer: NodeJS.Timeout | undefined
  let closed = false

  async function ask(query: unknown, timeoutMs: number): Promise<readonly PrefixMatch[]> {
    const answer = await fetch(`${origin}/score`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(query),
      redirect: 'error',
      signal: AbortSignal.timeout(timeoutMs),
    })
    if (!answer.ok) throw new Error(`it answered ${answer.status}`)
    if (Number(answer.headers.get('content-length') ?? 0) > ANSWER_BYTES_MAX) throw new Error('its answer is too large')
    const { scores } = v.parse(Answer, await answer.json())
    return scores.map(({ endpoint, rank, matchedTokens, tiers, stale }) => ({
      endpoint: endpoint as EndpointId,
      rank,
      matchedTokens,
      gpuTokens: Math.min(matchedTokens, tiers?.gpu ?? matchedTokens),
      complete: !stale,
    }))
  }

  function turn(answers: boolean): void {
    if (answers === up) return
    up = answers
    onEvent({ type: 'kv-manager', answers, origin })
  }

  async function probe(): Promise<void> {
    try {
      await ask({ model: 'probe', token_ids: [0] }, PROBE_TIMEOUT_MS)
      turn(true)
    } catch (error) {
      // One that does not know the model has answered too.
      turn(error instanceof Error && /^it answered 4(00|04)$/.test(error.message))
    }
    if (!up && !closed) timer = setTimeout(() => void probe(), PROBE_INTERVAL_MS)
  }
  void probe()

  return {
    async findPrefixes(query) {
      if (!up) return local(query)
      const { tokenIds, model, lora, cacheSalt } = query
      try {
        return await ask({ model, lora, cache_salt: cacheSalt, token_ids: Array.from(tokenIds) }, BUDGET_MS)
      } catch {
        turn(false)
        if (!closed) timer = setTimeout(() => void probe(), PROBE_INTERVAL_MS)
        return local(query)
      }
    },
    answers: () => up,
    close() {
      closed = true
      clearTimeout(timer)
    },
  }
}
