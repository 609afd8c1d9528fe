// What chats and completions have in common: choices that grow side by side, a usage event, and `[DONE]`.
import { serialiseBody } from '../canonical-body.ts'
import { FOLDED_CHARS_MAX, type Fold, type KeptAnswer } from './answer-form.ts'
import {
  elementsOf,
  ifKnown,
  isObject,
  isSaid,
  type JsonObject,
  listOf,
  membersOf,
  objectOf,
  parseObject,
  refuseOthers,
  unknown,
  withMembers,
} from './json.ts'

const DONE = '[DONE]'
/** `abort`, `error` and `content_filter` are answers to nobody else. */
const FINISH_REASONS: readonly unknown[] = ['stop', 'length', 'tool_calls', 'function_call']
/** More choices than any engine gives. */
const CHOICES_MAX = 1024
/** What a choice costs at least. */
const CHOICE_CHARS = 128
/** What a token's number costs. */
export const TOKEN_ID_CHARS = 7

/** What is told of the answer itself. */
const TOP = ['model', 'system_fingerprint', 'service_tier', 'usage'] as const
const KNOWN: readonly string[] = [...TOP, 'id', 'object', 'created', 'choices']

export type ChoicesForm = {
  /** The `object` of a chunk. */
  readonly chunk: string
  /** The `object` of an answer. */
  readonly whole: string
  /** Besides those that both dialects have, the answer's members that its first chunk tells. */
  readonly opening: readonly string[]
  /** Members that vLLM writes into a whole answer and leaves out of a stream while they are null. */
  readonly blank: JsonObject
  readonly createChoice: () => GrowingChoice
  /** Throws Unknown for what could not be told as a stream; tells whether the choice calls tools. */
  readonly readChoice: (choice: JsonObject) => boolean
}

/** One choice of an answer while it grows. */
export type GrowingChoice = {
  /**
   * Takes what a chunk says of it; gives the number of characters that this adds. Throws Unknown.
   * @param text the same as it was written.
   */
  readonly grow: (choice: JsonObject, text: () => string) => number
  /** JSON of the choice in an answer. */
  readonly whole: (index: number, finish: JsonObject) => string
}

export function createChoicesFold(form: ChoicesForm): Fold {
  type Entry = { readonly choice: GrowingChoice; finish: JsonObject | undefined }
  const { chunk, opening, blank } = form
  const names = [...TOP, ...opening]
  const known = new Set([...KNOWN, ...opening])
  let entries = new Map<number, Entry>()
  let top: Record<string, unknown> = {}
  let chars = 0
  let ended = false
  let failed = false

  function take(data: string): void {
    if (ended) unknown('something after the end')
    if (data === DONE) {
      ended = true
      return
    }
    if (data.length > FOLDED_CHARS_MAX) unknown('too long')
    const message = parseObject(data)
    if (message.object !== chunk) unknown('another object')
    refuseOthers(message, known)
    for (const name of names) if (isSaid(message[name])) top[name] = message[name]
    const choices = listOf(message.choices, 'choices')
    let texts: readonly string[] | undefined
    const textsOf = () => {
      texts ??= elementsOf(membersOf(data).get('choices'))
      return texts
    }
    for (let at = 0; at < choices.length; at++) {
      takeChoice(objectOf(choices[at], 'choice'), () => textsOf()[at] as string)
    }
    // What is held of such texts may hold the whole event.
    if (texts) chars += data.length
    if (chars > FOLDED_CHARS_MAX) unknown('too long')
  }

  function takeChoice(told: JsonObject, text: () => string): void {
    const index = told.index as number
    if (!Number.isInteger(index) || index < 0 || index >= CHOICES_MAX) unknown('index')
    let entry = entries.get(index)
    if (!entry) {
      entry = { choice: form.createChoice(), finish: undefined }
      entries.set(index, entry)
      chars += CHOICE_CHARS
    }
    if (entry.finish) unknown('a choice that goes on after its end')
    chars += entry.choice.grow(told, text)
    const { finish_reason, stop_reason } = told
    if (typeof stop_reason === 'string') chars += stop_reason.length
    if (isSaid(finish_reason)) entry.finish = { finish_reason, stop_reason: stopReasonOf(stop_reason) }
  }

  function whole(): KeptAnswer | undefined {
    const choices: string[] = []
    for (let index = 0; index < entries.size; index++) {
      const entry = entries.get(index)
      choices.push(entry?.finish ? entry.choice.whole(index, entry.finish) : unknown('a choice without an end'))
    }
    const { usage, ...rest } = top
    const answer = { ...blank, ...rest, usage: wholeUsage(objectOf(usage, 'usage')), object: form.whole }
    return readChoices(`{"choices":[${choices.join(',')}],${JSON.stringify(answer).slice(1)}`, form)
  }

  return {
    push(data) {
      if (failed) return
      failed = ifKnown(() => take(data) ?? true) === undefined
      if (!failed) return
      entries = new Map()
      top = {}
    },
    end: () => (failed || !ended ? undefined : ifKnown(whole)),
  }
}

/** Reads an answer that did not stream. */
export function readChoices(json: string, form: ChoicesForm): KeptAnswer | undefined {
  return ifKnown((): KeptAnswer => {
    if (json.length > FOLDED_CHARS_MAX) unknown('too long')
    const answer = parseObject(json)
    if (answer.object !== form.whole || !isSaid(answer.usage)) unknown('another object')
    objectOf(answer.usage, 'usage')
    refuseOthers(answer, new Set([...KNOWN, ...form.opening]))
    const choices = listOf(answer.choices, 'choices').map((choice) => objectOf(choice, 'choice'))
    if (choices.length === 0 || choices.length > CHOICES_MAX) unknown('choices')
    const calls = choices.map((choice, index) => {
      if (choice.index !== index || !FINISH_REASONS.includes(choice.finish_reason)) unknown('a choice without an end')
      stopReasonOf(choice.stop_reason)
      return form.readChoice(choice)
    })
    return { json: withoutFresh(json, ['id', 'created']), callsTools: calls.includes(true) }
  })
}

/** A string or a token's number by which the engine stopped, or null. */
function stopReasonOf(value: unknown): unknown {
  return !isSaid(value) || typeof value === 'string' || Number.isInteger(value)
    ? (value ?? null)
    : unknown('stop reason')
}

/** Throws for what is no list of integers: they are counted by the piece. */
export function tokenIdsOf(value: unknown): readonly unknown[] {
  const ids = listOf(value, 'token ids')
  return ids.every((id) => Number.isInteger(id)) ? ids : unknown('token ids')
}

/** The answer's text without these members; what stays is as it was written. */
export function withoutFresh(json: string, names: readonly string[]): string {
  const members = membersOf(json)
  for (const name of names) members.delete(name)
  return serialiseBody(members)
}

/** Nulls that vLLM writes without a stream alone. */
function wholeUsage(usage: JsonObject): JsonObject {
  const { prompt_tokens_details: told } = usage
  const details = isObject(told) ? { created_cache_tokens: null, multimodal_tokens: null, ...told } : null
  return { completion_tokens_details: null, ...usage, prompt_tokens_details: details }
}

/** Details that are null are left out of streams. */
function usageEvent(usage: JsonObject): JsonObject {
  const said = (object: JsonObject) => Object.fromEntries(Object.entries(object).filter(([, value]) => value !== null))
  const { prompt_tokens_details: details } = usage
  return said({ ...usage, ...(isObject(details) && { prompt_tokens_details: said(details) }) })
}

export type Chunk = {
  /** A JSON object, whose members come after those of the head. */
  readonly json: string
  /** Whether a choice ends with it. */
  readonly ends: boolean
}

/** The events of a stream: chunks of choices, the usage where it is told, and the end. */
export function choiceEvents(kept: JsonObject, head: JsonObject, chunks: readonly Chunk[], tellUsage: boolean): string {
  const { usage, model, system_fingerprint, service_tier } = kept
  const begin = JSON.stringify({ ...head, model, ...(isSaid(service_tier) && { service_tier }) }).slice(0, -1)
  const told = chunks.map(({ json, ends }) => {
    // vLLM tells it with what comes last: the usage, or else the end of each choice.
    const printed = ends && !tellUsage && isSaid(system_fingerprint)
    return printed ? withMembers({ system_fingerprint }, json) : json
  })
  if (tellUsage) {
    const print = isSaid(system_fingerprint) ? { system_fingerprint } : {}
    told.push(JSON.stringify({ choices: [], usage: usageEvent(usage as JsonObject), ...print }))
  }
  const events = told.map((chunk) => `data: ${begin},${chunk.slice(1)}\n\n`)
  return `${events.join('')}data: ${DONE}\n\n`
}
