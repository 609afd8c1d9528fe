// Token ids from the engines themselves: `POST /tokenize` renders and tokenises as generation will. Whole prompts are
// remembered; equal ones that arrive together are asked once.
import { createHash } from 'node:crypto'
import type { EndpointId } from '../endpoints/endpoint.ts'
import { createTokenCache } from './token-cache.ts'
import { readTokenIds } from './tokenize-answer.ts'
import type { Prompt, Tokenize, Tokens } from './tokenizer.ts'

/** 16 million tokens. */
const CACHE_BYTES = 64 * 1024 * 1024
/** Prompts on their way to an engine; beyond it a request is placed without token ids. */
const ASKED_MAX = 256
/** Another engine is asked when the first one fails. */
const ATTEMPTS_MAX = 2

export type TokenizeAnswer = { readonly status: number; readonly body: Buffer }

export type EngineTokenizerDeps = {
  /** Engines that can be asked about this model, the best one first. */
  readonly askable: (model: string) => readonly EndpointId[]
  /** `POST /tokenize`; undefined when it gave no answer in time. */
  readonly ask: (to: EndpointId, body: Buffer, timeoutMs: number) => Promise<TokenizeAnswer | undefined>
  readonly nowMs: () => number
  /** For all attempts together. Read per request: configuration may change it. */
  readonly budgetMs: () => number
}

export function createEngineTokenizer(deps: EngineTokenizerDeps): Tokenize {
  const cache = createTokenCache(CACHE_BYTES)
  const asked = new Map<string, Promise<Tokens>>()

  async function ask(key: string, model: string, body: Buffer): Promise<Tokens> {
    const deadlineMs = deps.nowMs() + deps.budgetMs()
    let because = 'no engine can be asked'
    for (const endpoint of deps.askable(model).slice(0, ATTEMPTS_MAX)) {
      const leftMs = deadlineMs - deps.nowMs()
      if (leftMs <= 0) break
      const answer = await deps.ask(endpoint, body, Math.ceil(leftMs))
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
    const key = createHash('sha256').update(prompt.body).digest('base64')
    const ids = cache.get(key)
    if (ids) return { ok: true, ids }
    const under = asked.get(key)
    if (under) return under
    if (asked.size >= ASKED_MAX) return { ok: false, because: `${ASKED_MAX} prompts are being tokenised already` }
    const asking = ask(key, model, prompt.body).finally(() => asked.delete(key))
    asked.set(key, asking)
    return asking
  }
}
