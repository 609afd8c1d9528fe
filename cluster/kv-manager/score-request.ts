// What is asked of `/score`: a model and a prompt, as a query or as a body, read and checked.

import { type BodyMember, findMember, scanBody, stringMember } from '../prompts/body.ts'
import { promptOf } from '../prompts/prompt.ts'
import { readIdList } from '../tokens/token-ids.ts'
import type { Prompt } from '../tokens/tokenizer.ts'

export type ScoreRequest = {
  /** Undefined: the only one there is. */
  readonly model: string | undefined
  readonly lora: string | undefined
  readonly cacheSalt: string | undefined
  readonly prompt: Prompt
}

export type ScoreFault = { readonly message: string; readonly param: string | null }

export type ReadScore =
  | { readonly ok: true; readonly request: ScoreRequest }
  | { readonly ok: false; readonly fault: ScoreFault }

const NAME_CHARS_MAX = 1_024
const OPEN_BRACKET = 0x5b

/** `?prompt=…&model=…` (and `lora`, `cache_salt`). */
export function readScoreQuery(query: URLSearchParams): ReadScore {
  const prompt = query.get('prompt')
  if (prompt === null) return refused('Say which prompt: /score?prompt=…', 'prompt')
  const members = Object.fromEntries(
    ['model', 'lora', 'cache_salt'].flatMap((name) => {
      const value = query.get(name)
      return value === null || value === '' ? [] : [[name, value]]
    }),
  )
  return readScoreBody(Buffer.from(JSON.stringify({ ...members, prompt })))
}

/** A JSON object with `model` and one of `prompt`, `messages` (with what belongs to a chat) and `token_ids`. */
export function readScoreBody(body: Buffer): ReadScore {
  const scan = scanBody(body)
  if (!scan.ok) return refused(`The body is not what is expected: ${scan.message}.`, null)
  const { members } = scan
  const names: Record<string, string | undefined> = {}
  for (const name of ['model', 'lora', 'cache_salt']) {
    const member = findMember(members, name)
    const value = stringMember(body, member)
    if (member !== undefined && value === undefined && !isNull(body, member))
      return refused(`\`${name}\` is no text.`, name)
    if ((value?.length ?? 0) > NAME_CHARS_MAX)
      return refused(`\`${name}\` has more than ${NAME_CHARS_MAX} characters.`, name)
    names[name] = value || undefined
  }
  const given = ['prompt', 'messages', 'token_ids'].filter((name) => findMember(members, name) !== undefined)
  const [which] = given
  if (which === undefined || given.length > 1) {
    return refused('Give one of `prompt`, `messages` and `token_ids`.', which ?? 'prompt')
  }
  const prompt =
    which === 'token_ids' ? idsOf(body, members) : promptOf(which === 'prompt' ? 'completions' : 'chat', body, members)
  if (prompt === undefined) return refused('`token_ids` is no list of token ids.', 'token_ids')
  if (which === 'prompt' && prompt.kind === 'unknown')
    return refused(`There is no one prompt: ${prompt.because}.`, 'prompt')
  return { ok: true, request: { model: names.model, lora: names.lora, cacheSalt: names.cache_salt, prompt } }
}

function idsOf(body: Buffer, members: readonly BodyMember[]): Prompt | undefined {
  const { valueStart } = findMember(members, 'token_ids') as BodyMember
  const list = body[valueStart] === OPEN_BRACKET ? readIdList(body, valueStart + 1) : undefined
  return list && { kind: 'ids', ids: list.ids }
}

function isNull(body: Buffer, { valueStart, valueEnd }: BodyMember): boolean {
  return body.toString('latin1', valueStart, valueEnd) === 'null'
}

function refused(message: string, param: string | null): ReadScore {
  return { ok: false, fault: { message, param } }
}
