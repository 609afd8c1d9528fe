// Token ids from the engines themselves: `POST /tokenize` renders and tokenises as generation will. Whole prompts are
// remembered; equal ones that arrive together are asked once.
import { createHash } from 'node:crypto'
import type { EndpointId } from '../endpoints/endpoint.ts'
import { createLru } from '../lru.ts'
import { readTokenIds } from './token-ids.ts'
import type { Prompt, Tokenize, Tokens } from './tokenizer.ts'

/** 16 million tokens. */
const CACHE_BYTES = 64 * 1024 * 1024
/** What a prompt costs beside its ids: key, map entry, typed array. */
const ENTRY_BYTES = 300
/** Prompts on their way to an engine; beyond it a request is placed without token ids. */
const ASKED_MAX = 256
/** Another engine is asked when the first one fails. */
const ATTEMPTS_MAX = 2
/** One that gave no answer is left alone for so long; where nobody else is left, by all prompts but one at a time. */
const SILENT_MS = 30_000

export type TokenizeAnswer = { readonly status: number; readonly body: Buffer }

export type EngineTokenizerDeps = {
  /** Engines that can be asked about this model, the best one first; of those the one that is asked least is asked. */
  readonly askable: (model: string) => readonly EndpointId[]
  /** `POST /tokenize`; undefined when it gave no answer in time. */
  readonly ask: (to: EndpointId, body: Buffer, timeoutMs: number) => Promise<TokenizeAnswer | undefined>
  readonly nowMs: () => number
  /** For all attempts together. Read per request: configuration may change it. */
  readonly budgetMs: () => number
}

export function createEngineTokenizer(deps: EngineTokenizerDeps): Tokenize {
  const cache = createLru<Uint32Array>(CACHE_BYTES, ({ byteLength }) => byteLength + ENTRY_BYTES)
  const asked = new Map<string, Promise<Tokens>>()
  /** Prompts that each engine is asked about now. */
  const asking = new Map<EndpointId, number>()
  const silentUntilMs = new Map<EndpointId, number>()

  /** Least asked first. Sorting is stable: among equals the best stays first. */
  function candidates(model: string): readonly EndpointId[] {
    const now = deps.nowMs()
    for (const [id, untilMs] of silentUntilMs) if (untilMs <= now) silentUntilMs.delete(id)
    const engines = deps.askable(model)
    const heard = engines.filter((id) => !silentUntilMs.has(id))
    const burden = (id: EndpointId) => asking.get(id) ?? 0
    const some = heard.length > 0 ? heard : engines.filter((id) => burden(id) === 0).slice(0, 1)
    return [...some].sort((a, b) => burden(a) - burden(b)).slice(0, ATTEMPTS_MAX)
  }

  async function askOne(to: EndpointId, body: Buffer, timeoutMs: number): Promise<TokenizeAnswer | undefined> {
    asking.set(to, (asking.get(to) ?? 0) + 1)
    const answer = await deps.ask(to, body, timeoutMs)
    const left = (asking.get(to) ?? 1) - 1
    if (left > 0) asking.set(to, left)
    else asking.delete(to)
    if (answer === undefined) silentUntilMs.set(to, deps.nowMs() + SILENT_MS)
    else silentUntilMs.delete(to)
    return answer
  }

  async function ask(key: string, model: string, body: Buffer): Promise<Tokens> {
    const deadlineMs = deps.nowMs() + deps.budgetMs()
    const engines = candidates(model)
    let because = 'no engine can be asked, or none has answered /tokenize lately'
    for (const [index, endpoint] of engines.entries()) {
      const leftMs = deadlineMs - deps.nowMs()
      if (leftMs <= 0) break
      // Whoever is silent leaves time for the next one.
      const answer = await askOne(endpoint, body, Math.ceil(leftMs / (engines.length - index)))
      const ids = answer?.status === 200 ? readTokenIds(answer.body) : undefined
      if (ids) {
        cache.set(key, ids)
        return { ok: true, ids }
      }
      because = `${endpoint} ${answer === undefined ? 'gave no answer in time' : `answered ${answer.status}`} to /tokenize`
      // What one engine finds wrong with the request, the others will too.
      if (answer !== undefined && answer.status < 500) break
    }
    return { ok: false, because }
  }

  return async (model: string, prompt: Prompt): Promise<Tokens> => {
    if (prompt.kind === 'unknown') return { ok: false, because: prompt.because }
    if (prompt.kind === 'ids') return { ok: true, ids: prompt.ids }
    const made = prompt.forEngine()
    if (!made.ok) return made
    const { body } = made
    const key = createHash('sha256').update(body).digest('base64')
    const ids = cache.get(key)
    if (ids) return { ok: true, ids }
    const under = asked.get(key)
    if (under) return under
    if (asked.size >= ASKED_MAX) return { ok: false, because: `${ASKED_MAX} prompts are being tokenised already` }
    const pending = ask(key, model, body).finally(() => asked.delete(key))
    asked.set(key, pending)
    return pending
  }
}
