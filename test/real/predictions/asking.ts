// A router before engines, in this process; requests through it, one after another; and what it predicted beside what the
// engine then reported.
import { createHash, createHmac, randomBytes } from 'node:crypto'
import pino from 'pino'
import { expect } from 'vitest'
import { loadRouterConfig, type RouterOverrides } from '../../../cluster/config.ts'
import { scanBody } from '../../../cluster/prompts/body.ts'
import { promptOf } from '../../../cluster/prompts/prompt.ts'
import { type Router, startRouter } from '../../../cluster/router.ts'
import { readTokenIds } from '../../../cluster/tokens/token-ids.ts'
import { DIALECTS } from '../../../shared/dialect.ts'
import { HEADER } from '../../../shared/headers.ts'
import { formatSignature, signingInput } from '../../../shared/signature.ts'
import { readUsage } from '../../../shared/usage.ts'
import { eventually } from '../../eventually.ts'
import { BLOCK_SIZE_TOKENS, MODEL } from '../vllm.ts'
import type { Row } from './rows.ts'

export type Rig = { readonly router: Router; readonly url: string; readonly admin: string }

/** @param text of a configuration file, where flags do not say it. */
export async function startRig(over: RouterOverrides, text = ''): Promise<Rig> {
  const config = loadRouterConfig(
    undefined,
    { edgeKeys: `edge:${SECRET}`, port: 0, adminPort: 0, cacheEnabled: 'false', ...over },
    text,
  )
  const router = await startRouter(config, pino({ level: 'silent' }))
  await router.firstRound
  const [url, admin] = [router.port, router.adminPort].map((port) => `http://127.0.0.1:${port}`) as [string, string]
  const rig = { router, url, admin }
  // All events are followed, and the tokenizer here was compared with the engines'.
  await eventually(
    () => json(`${admin}/endpoints`),
    (seen) => seen.every((each: Any) => each.cache.length > 0 && each.cache.every(isLive)),
  )
  if (over.tokenizers?.length) {
    await eventually(
      () => json(`${admin}/tokenizers`),
      (states) => states[MODEL]?.state === 'exact',
    )
  }
  return rig
}

const SECRET = 'a secret of the edge that these tests play'

/** As the edge signs: only from there a salt is taken. */
function signed(path: string, body: Buffer): Record<string, string> {
  const tenant = 'tests'
  const timestampSeconds = Math.floor(Date.now() / 1_000)
  const nonce = randomBytes(16).toString('base64url')
  const bodyDigest = createHash('sha256').update(body).digest('hex')
  const fields = { method: 'POST', path, timestampSeconds, nonce, tenant, pin: '', bodyDigest }
  const mac = createHmac('sha256', SECRET).update(signingInput(fields)).digest('base64url')
  const signature = formatSignature({ keyId: 'edge', timestampSeconds, nonce, mac })
  return { [HEADER.signature]: signature, [HEADER.tenant]: tenant }
}

// biome-ignore lint/suspicious/noExplicitAny: what it is, the expectations say.
type Any = any

const isLive = ({ state, complete }: Any): boolean => state === 'live' && complete

export async function json(url: string, body?: unknown): Promise<Any> {
  const answer = await fetch(
    url,
    body === undefined ? {} : { method: 'POST', headers: JSON_HEADERS, body: JSON.stringify(body) },
  )
  return answer.json()
}

const JSON_HEADERS = { 'content-type': 'application/json' }
const LIMIT: Readonly<Record<string, object>> = {
  chat: { max_tokens: 2 },
  completions: { max_tokens: 2 },
  messages: { max_tokens: 2 },
  responses: { max_output_tokens: 2, store: false },
}

export type Outcome = {
  readonly name: string
  readonly endpoint: string
  readonly promptTokens: number
  readonly predicted: number | undefined
  readonly actual: number | undefined
  readonly why: string | undefined
  readonly body: Buffer
  readonly row: Row
}

/** Sends a request through the router; resolves with what was predicted and what came of it. */
export async function ask({ url, admin }: Rig, row: Row): Promise<Outcome> {
  const { name, dialect, request } = row
  const body = Buffer.from(JSON.stringify({ model: MODEL, temperature: 0, ...LIMIT[dialect], ...request }))
  const { path } = DIALECTS[dialect]
  const answer = await fetch(url + path, { method: 'POST', headers: { ...JSON_HEADERS, ...signed(path, body) }, body })
  const said = (await answer.json()) as Any
  expect([name, answer.status, answer.status === 200 ? '' : JSON.stringify(said)]).toEqual([name, 200, ''])
  const decision = await json(`${admin}/decisions/${answer.headers.get('x-warmpath-decision')}`)
  const usage = readUsage(said.usage)
  return {
    name,
    endpoint: decision.chosen,
    promptTokens: usage?.promptTokens ?? Number.NaN,
    predicted: decision.predictedCachedTokens,
    actual: usage?.cachedTokens,
    why: decision.tokensUnknown,
    body,
    row,
  }
}

/** The ids of a request's prompt as this engine has them. */
export async function idsAt(engineUrl: string, { body, row: { dialect } }: Outcome): Promise<Uint32Array> {
  const scan = scanBody(body)
  if (!scan.ok) throw new Error(scan.message)
  const prompt = promptOf(dialect, body, scan.members)
  if (prompt.kind === 'ids') return prompt.ids
  const made = prompt.kind === 'text' ? prompt.forEngine() : prompt
  if (!('body' in made)) throw new Error(made.because)
  const answer = await fetch(`${engineUrl}/tokenize`, {
    method: 'POST',
    headers: JSON_HEADERS,
    body: new Uint8Array(made.body),
  })
  const ids = readTokenIds(Buffer.from(await answer.arrayBuffer()))
  if (!ids) throw new Error(`no token ids of ${made.body.toString('utf8', 0, 200)}`)
  return ids
}

/** Whole blocks of a prompt that are found again: never the one that its last token is in. */
export function cachedWhenAsked(promptTokens: number): number {
  return Math.floor((promptTokens - 1) / BLOCK_SIZE_TOKENS) * BLOCK_SIZE_TOKENS
}

/** Resolves when a router knows that what was just computed is cached: its events have come. */
export async function settled(admin: string, outcome: Outcome, ids: Uint32Array): Promise<void> {
  const { model, cache_salt } = outcome.row.request
  await eventually(
    () => json(`${admin}/score`, { model: model ?? MODEL, cache_salt, token_ids: [...ids] }),
    ({ scores }) => {
      const there = scores?.find(({ endpoint }: Any) => endpoint === outcome.endpoint)
      return there?.matchedTokens >= cachedWhenAsked(ids.length) && !there.stale
    },
  )
}

/** What was predicted otherwise than it was, in words. */
export function misses(outcomes: readonly Outcome[]): string[] {
  return outcomes
    .filter(({ predicted, actual }) => predicted === undefined || predicted !== actual)
    .map(
      ({ name, predicted, actual, promptTokens, why }) =>
        `${name}: predicted ${predicted}, actual ${actual} of ${promptTokens} ${why ?? ''}`,
    )
}
