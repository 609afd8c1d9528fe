// From a caller's body to the one an engine gets: what the caller may not say is dropped, usage is always asked for.
import type { Dialect } from '../../shared/dialect.ts'
import { CALLER_FORBIDDEN_MEMBERS, ROUTER_ONLY_MEMBERS } from '../../shared/engine-controls.ts'
import type { Rejection } from '../../shared/rejection.ts'
import { type BodyMember, findMember, memberText, rewriteBody, scanBody, stringMember } from './body.ts'

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
}

const FORBIDDEN_TO_STRANGERS = new Set(CALLER_FORBIDDEN_MEMBERS)
const FORBIDDEN_TO_ALL = new Set(ROUTER_ONLY_MEMBERS)
const ASK_USAGE: ReadonlyMap<string, string> = new Map([['stream_options', '{"include_usage":true}']])

/** @param trusted the edge made this body, so its cache_salt, priority and vllm_xargs stay. */
export function prepareEngineRequest(
  dialect: Dialect,
  body: Buffer,
  trusted: boolean,
): { readonly ok: true; readonly request: EngineRequest } | { readonly ok: false; readonly rejection: Rejection } {
  const scan = scanBody(body)
  if (!scan.ok) return refuse(`The request body is not a JSON object: ${scan.message} at byte ${scan.offset}.`)
  const { members } = scan

  const model = stringMember(body, findMember(members, 'model'))
  if (!model) return refuse('The request needs a `model`: a string with the name of a served model.', 'model')
  if (model.length > MODEL_CHARS_MAX || /\p{Cc}/u.test(model)) {
    return refuse(`\`model\` is longer than ${MODEL_CHARS_MAX} characters or has control characters.`, 'model')
  }

  const streamMember = findMember(members, 'stream')
  const stream = streamMember !== undefined && memberText(body, streamMember) === 'true'
  const usage = stream ? wantUsage(body, findMember(members, 'stream_options')) : { set: undefined, withhold: false }

  const forbidden = trusted ? FORBIDDEN_TO_ALL : FORBIDDEN_TO_STRANGERS
  const rewritten = rewriteBody(body, members, (name) => forbidden.has(name), usage.set ?? new Map())
  return {
    ok: true,
    request: {
      dialect,
      model,
      stream,
      withholdUsage: usage.withhold,
      promptTokensEstimate: Math.ceil(body.length / BYTES_PER_TOKEN),
      body: rewritten,
    },
  }
}

type UsageWish = { readonly set: ReadonlyMap<string, string> | undefined; readonly withhold: boolean }

function wantUsage(body: Buffer, options: BodyMember | undefined): UsageWish {
  if (!options) return { set: ASK_USAGE, withhold: true }
  let value: unknown
  try {
    value = JSON.parse(memberText(body, options))
  } catch {
    return { set: undefined, withhold: false }
  }
  if (value === null) return { set: ASK_USAGE, withhold: true }
  // Not ours to judge: the engine refuses it in its own words.
  if (typeof value !== 'object' || Array.isArray(value)) return { set: undefined, withhold: false }
  if ((value as { include_usage?: unknown }).include_usage === true) return { set: undefined, withhold: false }
  const asking = JSON.stringify({ ...value, include_usage: true })
  return { set: new Map([['stream_options', asking]]), withhold: true }
}

function refuse(message: string, param?: string): { readonly ok: false; readonly rejection: Rejection } {
  return { ok: false, rejection: { reason: 'invalid-body', message, ...(param === undefined ? {} : { param }) } }
}
