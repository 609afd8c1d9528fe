// Completions: /v1/completions, as vLLM 0.32 answers it (vllm/entrypoints/openai/completion/protocol.py). Probabilities are
// held as texts: tokens are the names of members there.
import type { AnswerForm, Fresh } from './answer-form.ts'
import { type ChoicesForm, choiceEvents, createChoicesFold, type GrowingChoice, readChoices } from './choices.ts'
import {
  elementsOf,
  isSaid,
  type JsonObject,
  listOf,
  membersOf,
  objectOf,
  objectText,
  parseObject,
  refuseOthers,
  textOf,
  unknown,
  withMembers,
} from './json.ts'

/** Of chunks and of whole answers. */
const OBJECT = 'text_completion'

const LISTS = ['text_offset', 'token_logprobs', 'tokens', 'top_logprobs'] as const
const LOGPROBS_KNOWN = new Set<string>(LISTS)
const CHOICE_KNOWN = new Set([
  ...['index', 'text', 'logprobs', 'finish_reason', 'stop_reason'],
  ...['token_ids', 'prompt_token_ids'],
])

const FORM: ChoicesForm = {
  chunk: OBJECT,
  whole: OBJECT,
  opening: [],
  blank: {
    service_tier: null,
    system_fingerprint: null,
    kv_transfer_params: null,
    ec_transfer_params: null,
    metrics: null,
  },
  createChoice: createGrowingText,
  readChoice(choice) {
    refuseOthers(choice, CHOICE_KNOWN)
    textOf(choice.text, 'text')
    for (const name of ['token_ids', 'prompt_token_ids']) if (isSaid(choice[name])) listOf(choice[name], name)
    if (isSaid(choice.logprobs)) readLogprobs(objectOf(choice.logprobs, 'logprobs'))
    return false
  },
}

export const completionForm: AnswerForm = {
  createFold: () => createChoicesFold(FORM),
  read: (json) => readChoices(json, FORM),
  toJson: (kept, fresh) => withMembers(idOf(fresh), kept),
  toEvents(kept, fresh, tellUsage) {
    const chunks = elementsOf(membersOf(kept).get('choices')).map((choice) => `{"choices":[${toChunk(choice)}]}`)
    return choiceEvents(parseObject(kept), { ...idOf(fresh), object: OBJECT }, chunks, tellUsage)
  },
}

function idOf({ id, createdSeconds }: Fresh): JsonObject {
  return { id: `cmpl-${id}`, created: createdSeconds }
}

function readLogprobs(logprobs: JsonObject): void {
  refuseOthers(logprobs, LOGPROBS_KNOWN)
  for (const name of LISTS) listOf(logprobs[name], name)
}

/** What a list's element costs besides its text. */
const ELEMENT_CHARS = 1
/** What a token's number costs. */
const TOKEN_ID_CHARS = 7

function createGrowingText(): GrowingChoice {
  let text = ''
  let logprobs: Map<string, string[]> | undefined
  let promptTokenIds: unknown = null
  let tokenIds: unknown[] | null = null

  function growLogprobs(told: JsonObject, given: string): number {
    readLogprobs(told)
    // The prompt's first token has none: then it was echoed, and vLLM tells more of it without a stream than with one.
    if ((told.token_logprobs as readonly unknown[]).includes(null)) unknown('probabilities of the prompt')
    logprobs ??= new Map(LISTS.map((name) => [name, []]))
    const lists = membersOf(given)
    let chars = 0
    for (const [name, held] of logprobs) {
      for (const element of elementsOf(lists.get(name))) {
        held.push(element)
        chars += element.length + ELEMENT_CHARS
      }
    }
    return chars
  }

  return {
    grow(choice, textOfChoice) {
      refuseOthers(choice, CHOICE_KNOWN)
      const piece = textOf(choice.text, 'text')
      text += piece
      let chars = piece.length
      if (isSaid(choice.logprobs)) {
        const given = membersOf(textOfChoice()).get('logprobs') as string
        chars += growLogprobs(objectOf(choice.logprobs, 'logprobs'), given)
      }
      if (isSaid(choice.prompt_token_ids)) promptTokenIds = choice.prompt_token_ids
      if (isSaid(choice.token_ids)) {
        tokenIds ??= []
        for (const id of listOf(choice.token_ids, 'token ids')) tokenIds.push(id)
        chars += (choice.token_ids as readonly unknown[]).length * TOKEN_ID_CHARS
      }
      return chars
    },
    whole: (index, { finish_reason, stop_reason = null }) => {
      const before = JSON.stringify({ index, text })
      const held =
        logprobs && objectText(Array.from(logprobs, ([name, list]) => [name, `[${list.join(',')}]`] as const))
      const after = {
        finish_reason,
        stop_reason,
        token_ids: tokenIds,
        prompt_logprobs: null,
        // An echo tells them in a stream though nobody asked.
        prompt_token_ids: tokenIds && promptTokenIds,
        routed_experts: null,
      }
      return `${before.slice(0, -1)},"logprobs":${held ?? 'null'},${JSON.stringify(after).slice(1)}`
    },
  }
}

const CHUNK_MEMBERS = [
  ...['index', 'text', 'logprobs', 'finish_reason', 'stop_reason'],
  ...['prompt_token_ids', 'token_ids'],
] as const

function toChunk(choice: string): string {
  const members = membersOf(choice)
  return objectText(CHUNK_MEMBERS.map((name) => [name, members.get(name) ?? 'null']))
}
