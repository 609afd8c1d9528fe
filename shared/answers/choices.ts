// What chats and completions have in common: choices that grow side by side, a usage event, and `[DONE]`.
import { canonicaliseBody, serialiseBody } from '../canonical-body.ts'
import { FOLDED_CHARS_MAX, type Fold, type KeptAnswer } from './answer-form.ts'
import { ifKnown, isSaid, type JsonObject, listOf, objectOf, parseObject, refuseOthers, unknown } from './json.ts'

const DONE = '[DONE]'
/** `abort`, `error` and `content_filter` are answers to nobody else. */
const FINISH_REASONS: readonly unknown[] = ['stop', 'length', 'tool_calls', 'function_call']

/** Members of the answer itself that are kept as they came last. */
const TOP = ['model', 'system_fingerprint', 'service_tier', 'usage', 'prompt_token_ids', 'prompt_text'] as const
const TOP_KNOWN = new Set<string>([...TOP, 'id', 'object', 'created', 'choices'])

/** One choice of an answer while it grows. */
export type GrowingChoice = {
  /** Takes what a chunk says of it. Throws Unknown. */
  readonly grow: (choice: JsonObject) => void
  /** Characters held. */
  readonly chars: () => number
  readonly whole: (index: number, finish: JsonObject) => JsonObject
  readonly callsTools: () => boolean
}

/** @param chunk the `object` of a chunk, `whole` that of an answer. */
export function createChoicesFold(chunk: string, whole: string, createChoice: () => GrowingChoice): Fold {
  type Entry = { readonly choice: GrowingChoice; finish: JsonObject | undefined }
  const entries = new Map<number, Entry>()
  const top: Record<string, unknown> = {}
  let ended = false
  let failed = false

  function take(data: string): void {
    if (ended) unknown('something after the end')
    if (data === DONE) {
      ended = true
      return
    }
    const message = parseObject(data)
    if (message.object !== chunk) unknown('another object')
    refuseOthers(message, TOP_KNOWN)
    for (const name of TOP) if (isSaid(message[name])) top[name] = message[name]
    for (const one of listOf(message.choices, 'choices')) takeChoice(objectOf(one, 'choice'))
  }

  function takeChoice(told: JsonObject): void {
    const index = told.index as number
    if (!Number.isInteger(index) || index < 0 || index > entries.size) unknown('index')
    let entry = entries.get(index)
    if (!entry) {
      entry = { choice: createChoice(), finish: undefined }
      entries.set(index, entry)
    }
    if (entry.finish) unknown('a choice that goes on after its end')
    entry.choice.grow(told)
    if (isSaid(told.finish_reason)) entry.finish = told
  }

  function heldChars(): number {
    let chars = 0
    for (const { choice } of entries.values()) chars += choice.chars()
    return chars
  }

  return {
    push(data) {
      if (failed) return
      failed = ifKnown(() => take(data) ?? true) === undefined || heldChars() > FOLDED_CHARS_MAX
      if (failed) entries.clear()
    },
    end() {
      if (failed || !ended || top.usage === undefined || entries.size === 0) return undefined
      const choices: JsonObject[] = []
      for (const [index, { choice, finish }] of entries) {
        if (!finish || !FINISH_REASONS.includes(finish.finish_reason)) return undefined
        choices[index] = choice.whole(index, finish)
      }
      const { model, usage, ...rest } = top
      const json = JSON.stringify({ object: whole, model, choices, ...rest, usage })
      if (json.length > FOLDED_CHARS_MAX) return undefined
      return { json, callsTools: [...entries.values()].some(({ choice }) => choice.callsTools()) }
    },
  }
}

/** Reads an answer that did not stream. `readChoice` throws Unknown, and tells whether the choice calls tools. */
export function readChoices(json: string, whole: string, readChoice: (choice: JsonObject) => boolean) {
  return ifKnown((): KeptAnswer => {
    if (json.length > FOLDED_CHARS_MAX) unknown('too long')
    const answer = parseObject(json)
    if (answer.object !== whole || !isSaid(answer.usage)) unknown('another object')
    refuseOthers(answer, TOP_KNOWN)
    const choices = listOf(answer.choices, 'choices').map((choice) => objectOf(choice, 'choice'))
    if (choices.length === 0) unknown('no choices')
    const calls = choices.map((choice, index) => {
      if (choice.index !== index || !FINISH_REASONS.includes(choice.finish_reason)) unknown('a choice without an end')
      return readChoice(choice)
    })
    return { json: withoutFresh(json, ['id', 'created']), callsTools: calls.includes(true) }
  })
}

/** The answer's text without these members; what stays is as it was written. */
export function withoutFresh(json: string, names: readonly string[]): string {
  const body = canonicaliseBody(json)
  if (!body.ok) unknown(body.rejection.message)
  for (const name of names) body.members.delete(name)
  return serialiseBody(body.members)
}

/** The events of a stream: chunks of choices, the usage where it is told, and the end. */
export function choiceEvents(
  kept: JsonObject,
  head: JsonObject,
  chunks: readonly JsonObject[],
  tellUsage: boolean,
): string {
  const { usage, system_fingerprint } = kept
  const more = isSaid(system_fingerprint) ? { system_fingerprint } : {}
  const last = tellUsage ? [{ choices: [], usage, ...more }] : []
  const events = [...chunks, ...last].map((chunk) => `data: ${JSON.stringify({ ...head, ...chunk })}\n\n`)
  return `${events.join('')}data: ${DONE}\n\n`
}
