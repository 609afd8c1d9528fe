// Completions: /v1/completions, as vLLM 0.32 answers it (vllm/entrypoints/openai/completion/protocol.py). Probabilities are
// held as texts: tokens are the names of members there.
import type { AnswerForm, Fresh } from './answer-form.ts'
import {
  type ChoicesForm,
  choiceEvents,
  createChoicesFold,
  type GrowingChoice,
  readChoices,
  TOKEN_ID_CHARS,
  tokenIdsOf,
} from './choices.ts'
import { GrowingText } from './growing-text.ts'
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
    for (const name of ['token_ids', 'prompt_token_ids']) if (isSaid(choice[name])) tokenIdsOf(choice[name])
    if (isSaid(choice.logprobs)) readLogprobs(objectOf(choice.logprobs, 'logprobs'))
    return false
  },
}

export const completionForm: AnswerForm = {
  createFold: () => createChoicesFold(FORM),
  read: (json) => readChoices(json, FORM),
  toJson: (kept, fresh) => withMembers(idOf(fresh), kept),
  toEvents(kept, fresh, tellUsage) {
    const chunks = elementsOf(membersOf(kept).get('choices')).map((choice) => ({
      json: `{"choices":[${toChunk(choice)}]}`,
      ends: true,
    }))
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

function createGrowingText(): GrowingChoice {
  const text = new GrowingText()
  let logprobs: Map<string, string[]> | undefined
  let promptTokenIds: readonly unknown[] | null = null
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
      text.add(piece)
      let chars = piece.length
      if (isSaid(choice.logprobs)) {
        const given = membersOf(textOfChoice()).get('logprobs') as string
        chars += growLogprobs(objectOf(choice.logprobs, 'logprobs'), given)
      }
      if (isSaid(choice.prompt_token_ids)) {
        if (promptTokenIds) unknown('a second prompt')
        promptTokenIds = tokenIdsOf(choice.prompt_token_ids)
        chars += promptTokenIds.length * TOKEN_ID_CHARS
      }
      if (isSaid(choice.token_ids)) {
        tokenIds ??= []
        const told = tokenIdsOf(choice.token_ids)
        for (const id of told) tokenIds.push(id)
        chars += told.length * TOKEN_ID_CHARS
      }
      return chars
    },
    whole: (index, { finish_reason, stop_reason = null }) => {
      const before = JSON.stringify({ index, text: text.text() })
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
