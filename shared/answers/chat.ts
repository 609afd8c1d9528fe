// Chats: /v1/chat/completions, as vLLM 0.32 answers it (vllm/entrypoints/openai/chat_completion/protocol.py).
import type { AnswerForm, Fresh } from './answer-form.ts'
import { choiceEvents, createChoicesFold, type GrowingChoice, readChoices } from './choices.ts'
import {
  isSaid,
  type JsonObject,
  listOf,
  objectOf,
  parseObject,
  refuseOthers,
  textOf,
  unknown,
  withMembers,
} from './json.ts'

const CHUNK = 'chat.completion.chunk'
const WHOLE = 'chat.completion'

/** Texts of a message that grow by their deltas. */
const TEXTS = ['content', 'reasoning', 'reasoning_content', 'refusal'] as const
type TextName = (typeof TEXTS)[number]

const CHOICE_KNOWN = new Set(['index', 'delta', 'message', 'logprobs', 'finish_reason', 'stop_reason', 'token_ids'])
const MESSAGE_KNOWN = new Set<string>(['role', 'tool_calls', ...TEXTS])
const CALL_KNOWN = new Set(['index', 'id', 'type', 'function'])
const FUNCTION_KNOWN = new Set(['name', 'arguments'])
const LOGPROBS_KNOWN = new Set(['content'])

export const chatForm: AnswerForm = {
  createFold: () => createChoicesFold(CHUNK, WHOLE, createGrowingChat),
  read: (json) => readChoices(json, WHOLE, readChoice),
  toJson: (kept, fresh) => withMembers(idOf(fresh), kept),
  toEvents(kept, fresh, tellUsage) {
    const answer = parseObject(kept)
    const { prompt_token_ids = null, prompt_text = null } = answer
    const chunks: JsonObject[] = []
    for (const choice of answer.choices as readonly JsonObject[]) {
      const told = chunksOf(choice)
      // As vLLM does, with the first chunk of all.
      if (chunks.length === 0) told[0] = { ...told[0], prompt_token_ids, prompt_text }
      chunks.push(...told)
    }
    return choiceEvents(answer, { ...idOf(fresh), object: CHUNK, model: answer.model }, chunks, tellUsage)
  },
}

function idOf({ id, createdSeconds }: Fresh): JsonObject {
  return { id: `chatcmpl-${id}`, created: createdSeconds }
}

type Call = { id: unknown; type: unknown; name: unknown; arguments: string }

function createGrowingChat(): GrowingChoice {
  const texts = new Map<TextName, string>()
  const calls: Call[] = []
  const logprobs: unknown[] = []
  const tokenIds: unknown[] = []
  let hasLogprobs = false
  let hasTokenIds = false
  let role: unknown
  let chars = 0

  function growCall(told: JsonObject): void {
    refuseOthers(told, CALL_KNOWN)
    const { index } = told
    if (!Number.isInteger(index) || (index as number) < 0 || (index as number) > calls.length) unknown('call index')
    calls[index as number] ??= { id: undefined, type: undefined, name: undefined, arguments: '' }
    const call = calls[index as number] as Call
    const called = told.function === undefined || told.function === null ? {} : objectOf(told.function, 'function')
    refuseOthers(called, FUNCTION_KNOWN)
    call.id ??= told.id
    call.type ??= told.type
    call.name ??= called.name
    if (isSaid(called.arguments)) call.arguments += textOf(called.arguments, 'arguments')
    chars += String(called.arguments ?? '').length + CALL_CHARS
  }

  return {
    grow(choice) {
      refuseOthers(choice, CHOICE_KNOWN)
      const delta = objectOf(choice.delta, 'delta')
      refuseOthers(delta, MESSAGE_KNOWN)
      role ??= delta.role
      for (const name of TEXTS) {
        const text = delta[name]
        if (text === undefined || text === null) continue
        texts.set(name, (texts.get(name) ?? '') + textOf(text, name))
        chars += (text as string).length
      }
      for (const call of (delta.tool_calls ?? []) as readonly unknown[]) growCall(objectOf(call, 'call'))
      if (isSaid(choice.logprobs)) {
        const told = objectOf(choice.logprobs, 'logprobs')
        refuseOthers(told, LOGPROBS_KNOWN)
        hasLogprobs = true
        for (const one of listOf(told.content ?? [], 'logprobs')) logprobs.push(one)
        chars += logprobs.length * LOGPROB_CHARS
      }
      if (isSaid(choice.token_ids)) {
        hasTokenIds = true
        for (const id of listOf(choice.token_ids, 'token ids')) tokenIds.push(id)
      }
    },
    chars: () => chars,
    callsTools: () => calls.length > 0,
    whole(index, { finish_reason, stop_reason = null }) {
      const text = texts.get('content')
      const message = {
        role: role ?? 'assistant',
        content: text ?? null,
        refusal: texts.get('refusal') ?? null,
        annotations: null,
        audio: null,
        function_call: null,
        ...(calls.length > 0 && { tool_calls: calls.map(toCall) }),
        reasoning: texts.get('reasoning') ?? null,
        ...(texts.has('reasoning_content') && { reasoning_content: texts.get('reasoning_content') }),
      }
      const told = hasLogprobs ? { content: logprobs } : null
      return { index, message, logprobs: told, finish_reason, stop_reason, token_ids: hasTokenIds ? tokenIds : null }
    },
  }
}

/** What a call, and a token's probability, cost at least. */
const CALL_CHARS = 64
const LOGPROB_CHARS = 1

function toCall({ id, type, name, arguments: given }: Call): JsonObject {
  return { id, type: type ?? 'function', function: { name, arguments: given } }
}

/** Throws for what could not be told as a stream. */
function readChoice(choice: JsonObject): boolean {
  refuseOthers(choice, CHOICE_KNOWN)
  const message = objectOf(choice.message, 'message')
  refuseOthers(message, MESSAGE_KNOWN)
  for (const name of TEXTS) if (isSaid(message[name])) textOf(message[name], name)
  const calls = listOf(message.tool_calls ?? [], 'calls').map((call) => objectOf(call, 'call'))
  for (const call of calls) {
    refuseOthers(call, CALL_KNOWN)
    const called = objectOf(call.function, 'function')
    refuseOthers(called, FUNCTION_KNOWN)
    textOf(called.arguments, 'arguments')
  }
  if (isSaid(choice.logprobs)) refuseOthers(objectOf(choice.logprobs, 'logprobs'), LOGPROBS_KNOWN)
  return calls.length > 0
}

function chunksOf(choice: JsonObject): JsonObject[] {
  const { index, finish_reason, stop_reason = null, logprobs = null, token_ids = null } = choice
  const message = choice.message as JsonObject
  const chunk = (delta: JsonObject, more: JsonObject = {}): JsonObject => ({
    choices: [{ index, delta, logprobs: null, finish_reason: null, ...more }],
  })
  const { role, tool_calls } = message
  const texts = TEXTS.filter((name) => isSaid(message[name])).map((name) => chunk({ [name]: message[name] }))
  const calls = ((tool_calls ?? []) as readonly JsonObject[]).flatMap((call, at) => {
    const { name, arguments: given } = call.function as JsonObject
    const begun = { id: call.id, type: call.type, index: at, function: { name } }
    return [chunk({ tool_calls: [begun] }), chunk({ tool_calls: [{ index: at, function: { arguments: given } }] })]
  })
  return [
    chunk({ role, content: '' }),
    ...texts,
    ...calls,
    chunk({}, { logprobs, finish_reason, stop_reason, token_ids }),
  ]
}
