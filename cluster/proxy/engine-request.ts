// From a caller's body to the one an engine gets: what the caller may not say is dropped, usage is always asked for.
import { DIALECTS, type Dialect } from '../../shared/dialect.ts'
import { CALLER_FORBIDDEN_MEMBERS, ROUTER_ONLY_MEMBERS } from '../../shared/engine-controls.ts'
import type { Rejection } from '../../shared/rejection.ts'
import { readStreamWish } from '../../shared/stream-wish.ts'
import { type BodyMember, findMember, memberText, rewriteBody, scanBody, stringMember } from '../prompts/body.ts'
import { promptBytesOf, promptOf, readsPrefixCache } from '../prompts/prompt.ts'
import type { Prompt } from '../tokens/tokenizer.ts'

/** Until token ids are known: four bytes to a token. */
const BYTES_PER_TOKEN = 4

/** The name stands in logs, decisions and answers: it must not fill or forge them. */
const MODEL_CHARS_MAX = 256

export type EngineRequest = {
  readonly dialect: Dialect
  readonly model: string
  readonly stream: boolean
  /** The engine is asked for usage, and the caller did not ask: the event is withheld. */
  readonly withholdUsage: boolean
  readonly promptTokensEstimate: number
  readonly body: Buffer
  /** The caller's body, and where the members stand in it that go on: what the response cache makes its key of. */
  readonly source: Buffer
  readonly members: readonly BodyMember[]
  /** Made when it is asked for: not every request needs it. */
  readonly prompt: () => Prompt
  /** The conversation as it stands in the body; undefined for what is no prompt that another could share. */
  readonly promptBytes: () => readonly Buffer[] | undefined
  /** Whether the engine looks into its prefix cache for it. */
  readonly readsPrefixCache: boolean
  /** What scopes the prompt's blocks in the engine's cache: the edge's word for the tenant. */
  readonly cacheSalt: string | undefined
  /** A caller's name for requests that share a prefix. */
  readonly promptCacheKey: string | undefined
  /** The response that this one continues. */
  readonly previousResponseId: string | undefined
}

const FORBIDDEN_TO_STRANGERS = new Set(CALLER_FORBIDDEN_MEMBERS)
const FORBIDDEN_TO_ALL = new Set(ROUTER_ONLY_MEMBERS)

/** @param trusted the edge made this body, so its cache_salt, priority and vllm_xargs stay. */
export function prepareEngineRequest(
  dialect: Dialect,
  body: Buffer,
  trusted: boolean,
): { readonly ok: true; readonly request: EngineRequest } | { readonly ok: false; readonly rejection: Rejection } {
  const scan = scanBody(body)
  if (!scan.ok) return refuse(`The request body is not a JSON object: ${scan.message} at byte ${scan.offset}.`)
  const { members } = scan
  const textOf = (name: string): string | undefined => {
    const member = findMember(members, name)
    return member && memberText(body, member)
  }

  const model = stringMember(body, findMember(members, 'model'))
  if (!model) return refuse('The request needs a `model`: a string with the name of a served model.', 'model')
  if (model.length > MODEL_CHARS_MAX || /\p{Cc}/u.test(model)) {
    return refuse(`\`model\` is longer than ${MODEL_CHARS_MAX} characters or has control characters.`, 'model')
  }

  const previous = findMember(members, 'previous_response_id')
  const previousResponseId = dialect === 'responses' ? stringMember(body, previous) : undefined

  const wish = readStreamWish(dialect, textOf('stream'), textOf('stream_options'))
  if (!wish.ok) return wish
  const { askUsageBy } = wish
  const set = new Map(askUsageBy === undefined ? [] : [['stream_options', askUsageBy]])

  const forbidden = trusted ? FORBIDDEN_TO_ALL : FORBIDDEN_TO_STRANGERS
  const { forbidden: forbiddenHere } = DIALECTS[dialect]
  const drop = (name: string): boolean => forbidden.has(name) || forbiddenHere.includes(name)
  const rewritten = rewriteBody(body, members, drop, set)
  return {
    ok: true,
    request: {
      dialect,
      model,
      stream: wish.stream,
      withholdUsage: askUsageBy !== undefined,
      promptTokensEstimate: Math.ceil(body.length / BYTES_PER_TOKEN),
      body: rewritten,
      source: body,
      members: members.filter(({ name }) => !drop(name)),
      prompt: () => promptOf(dialect, body, members),
      promptBytes: () => promptBytesOf(dialect, body, members),
      readsPrefixCache: readsPrefixCache(body, members),
      cacheSalt: trusted ? stringMember(body, findMember(members, 'cache_salt')) : undefined,
      promptCacheKey: stringMember(body, findMember(members, 'prompt_cache_key')),
      previousResponseId,
    },
  }
}

/** In vLLM's responses API this member of the body becomes the response's id. */
const RESPONSE_ID_MEMBER = 'request_id'

const OPEN_BRACE = 0x7b

/** The body of a request for a response, with the id that the response shall have. */
export function withResponseId(body: Buffer, id: string): Buffer {
  const brace = body.indexOf(OPEN_BRACE)
  // Never empty: a model stands in it.
  return Buffer.concat([Buffer.from(`{"${RESPONSE_ID_MEMBER}":${JSON.stringify(id)},`), body.subarray(brace + 1)])
}

function refuse(message: string, param?: string): { readonly ok: false; readonly rejection: Rejection } {
  return { ok: false, rejection: { reason: 'invalid-body', message, ...(param === undefined ? {} : { param }) } }
}
