// Completions: /v1/completions, as vLLM 0.32 answers it (vllm/entrypoints/openai/completion/protocol.py).
import type { AnswerForm, Fresh } from './answer-form.ts'
import { choiceEvents, createChoicesFold, type GrowingChoice, readChoices } from './choices.ts'
import { isSaid, type JsonObject, listOf, objectOf, parseObject, refuseOthers, textOf, withMembers } from './json.ts'

/** Of chunks and of whole answers. */
const OBJECT = 'text_completion'

const LISTS = ['text_offset', 'token_logprobs', 'tokens', 'top_logprobs'] as const
const LOGPROBS_KNOWN = new Set<string>(LISTS)
const CHOICE_KNOWN = new Set([
  ...['index', 'text', 'logprobs', 'finish_reason', 'stop_reason'],
  ...['token_ids', 'prompt_token_ids'],
])

export const completionForm: AnswerForm = {
  createFold: () => createChoicesFold(OBJECT, OBJECT, createGrowingText),
  read: (json) => readChoices(json, OBJECT, readChoice),
  toJson: (kept, fresh) => withMembers(idOf(fresh), kept),
  toEvents(kept, fresh, tellUsage) {
    const answer = parseObject(kept)
    const chunks = (answer.choices as readonly JsonObject[]).map((choice) => ({ choices: [toChunk(choice)] }))
    return choiceEvents(answer, { ...idOf(fresh), object: OBJECT, model: answer.model }, chunks, tellUsage)
  },
}

function idOf({ id, createdSeconds }: Fresh): JsonObject {
  return { id: `cmpl-${id}`, created: createdSeconds }
}

function createGrowingText(): GrowingChoice {
  let text = ''
  let logprobs: Record<(typeof LISTS)[number], unknown[]> | undefined
  let promptTokenIds: unknown = null
  let tokenIds: unknown[] | null = null
  let told = 0
  return {
    grow(choice) {
      refuseOthers(choice, CHOICE_KNOWN)
      text += textOf(choice.text, 'text')
      if (isSaid(choice.logprobs)) {
        const given = objectOf(choice.logprobs, 'logprobs')
        refuseOthers(given, LOGPROBS_KNOWN)
        logprobs ??= { text_offset: [], token_logprobs: [], tokens: [], top_logprobs: [] }
        for (const name of LISTS) for (const one of listOf(given[name] ?? [], name)) logprobs[name].push(one)
        told = logprobs.tokens.length
      }
      if (isSaid(choice.prompt_token_ids)) promptTokenIds = choice.prompt_token_ids
      if (isSaid(choice.token_ids)) {
        tokenIds ??= []
        for (const id of listOf(choice.token_ids, 'token ids')) tokenIds.push(id)
      }
    },
    chars: () => text.length + told,
    callsTools: () => false,
    whole: (index, { finish_reason, stop_reason = null }) => ({
      index,
      text,
      logprobs: logprobs ?? null,
      finish_reason,
      stop_reason,
      token_ids: tokenIds,
      // An echo tells them in a stream though nobody asked.
      prompt_token_ids: tokenIds && promptTokenIds,
    }),
  }
}

/** Throws for what could not be told as a stream. */
function readChoice(choice: JsonObject): boolean {
  refuseOthers(choice, CHOICE_KNOWN)
  textOf(choice.text, 'text')
  if (isSaid(choice.logprobs)) refuseOthers(objectOf(choice.logprobs, 'logprobs'), LOGPROBS_KNOWN)
  return false
}

function toChunk(choice: JsonObject): JsonObject {
  const { index, text, logprobs = null, finish_reason, stop_reason = null, token_ids = null } = choice
  const { prompt_token_ids = null } = choice
  return { index, text, logprobs, finish_reason, stop_reason, prompt_token_ids, token_ids }
}
