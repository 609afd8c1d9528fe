// Chats: /v1/chat/completions, as vLLM 0.32 answers it (vllm/entrypoints/openai/chat_completion/protocol.py).
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

/** Texts of a message that grow by their deltas, in the order in which engines tell them: thoughts come first. */
const TEXTS = ['reasoning', 'reasoning_content', 'content', 'refusal'] as const
type TextName = (typeof TEXTS)[number]

const CHOICE_KNOWN = ['index', 'logprobs', 'finish_reason', 'stop_reason', 'token_ids']
const WHOLE_CHOICE_KNOWN = new Set([...CHOICE_KNOWN, 'message'])
const DELTA_CHOICE_KNOWN = new Set([...CHOICE_KNOWN, 'delta'])
const MESSAGE_KNOWN = new Set<string>(['role', 'tool_calls', 'function_call', ...TEXTS])
const CALL_KNOWN = new Set(['id', 'type', 'function'])
const DELTA_CALL_KNOWN = new Set([...CALL_KNOWN, 'index'])
const FUNCTION_KNOWN = new Set(['name', 'arguments'])
const LOGPROBS_KNOWN = new Set(['content'])

const FORM: ChoicesForm = {
  chunk: CHUNK,
  whole: 'chat.completion',
  opening: ['prompt_token_ids', 'prompt_text'],
  blank: {
    service_tier: null,
    system_fingerprint: null,
    prompt_logprobs: null,
    prompt_token_ids: null,
    prompt_text: null,
    kv_transfer_params: null,
    ec_transfer_params: null,
    metrics: null,
  },
  createChoice: createGrowingChat,
  readChoice,
}

export const chatForm: AnswerForm = {
  createFold: () => createChoicesFold(FORM),
  read: (json) => readChoices(json, FORM),
  toJson: (kept, fresh) => withMembers(idOf(fresh), kept),
  toEvents(kept, fresh, tellUsage) {
    const answer = parseObject(kept)
    const { prompt_token_ids = null, prompt_text = null } = answer
    const choices = answer.choices as readonly JsonObject[]
    const openings = choices.map((choice) => ({
      json: JSON.stringify({ choices: [openingOf(choice)], prompt_token_ids, prompt_text }),
      ends: false,
    }))
    const others = choices.flatMap(chunksOf).map((choice) => ({
      json: JSON.stringify({ choices: [choice] }),
      ends: isSaid(choice.finish_reason),
    }))
    return choiceEvents(answer, { ...idOf(fresh), object: CHUNK }, [...openings, ...others], tellUsage)
  },
}

function idOf({ id, createdSeconds }: Fresh): JsonObject {
  return { id: `chatcmpl-${id}`, created: createdSeconds }
}

/** What a call, and a value among probabilities cost besides their texts. */
const CALL_CHARS = 64
const VALUE_CHARS = 12

/** One call: what is told once, and its arguments, which grow. */
type Call = { id: string | undefined; type: string | undefined; name: string | undefined; readonly given: GrowingText }

function createGrowingChat(): GrowingChoice {
  const texts = new Map<TextName, GrowingText>()
  const calls: Call[] = []
  let functionCall: Call | undefined
  let logprobs: unknown[] | undefined
  let tokenIds: unknown[] | undefined
  let role: string | undefined

  function growText(name: TextName, piece: string): number {
    const held = texts.get(name) ?? new GrowingText()
    texts.set(name, held)
    held.add(piece)
    return piece.length
  }

  function growCall(told: JsonObject): number {
    refuseOthers(told, DELTA_CALL_KNOWN)
    const index = told.index as number
    if (!Number.isInteger(index) || index < 0 || index > calls.length) unknown('call index')
    const call = calls[index] ?? newCall()
    const before = calls.length
    calls[index] = call
    call.id = once(call.id, told.id, 'call id')
    call.type = once(call.type, told.type, 'call type')
    const chars = isSaid(told.function) ? growFunction(call, objectOf(told.function, 'function')) : 0
    return chars + lengthOf(told.id) + lengthOf(told.type) + (calls.length - before) * CALL_CHARS
  }

  return {
    grow(choice) {
      refuseOthers(choice, DELTA_CHOICE_KNOWN)
      const delta = objectOf(choice.delta, 'delta')
      refuseOthers(delta, MESSAGE_KNOWN)
      let chars = lengthOf(delta.role)
      role = once(role, delta.role, 'role')
      for (const name of TEXTS) {
        const text = delta[name]
        if (text === undefined || text === null) continue
        chars += growText(name, textOf(text, name))
      }
      if (isSaid(delta.tool_calls)) {
        for (const call of listOf(delta.tool_calls, 'calls')) chars += growCall(objectOf(call, 'call'))
      }
      if (isSaid(delta.function_call)) {
        functionCall ??= newCall()
        chars += growFunction(functionCall, objectOf(delta.function_call, 'function'))
      }
      if (isSaid(choice.logprobs)) {
        const told = objectOf(choice.logprobs, 'logprobs')
        refuseOthers(told, LOGPROBS_KNOWN)
        logprobs ??= []
        for (const one of listOf(told.content ?? [], 'logprobs')) {
          logprobs.push(one)
          chars += charsOf(one)
        }
      }
      if (isSaid(choice.token_ids)) {
        tokenIds ??= []
        const told = tokenIdsOf(choice.token_ids)
        for (const id of told) tokenIds.push(id)
        chars += told.length * TOKEN_ID_CHARS
      }
      return chars
    },
    whole(index, { finish_reason, stop_reason = null }) {
      const content = texts.get('content')?.text() ?? null
      const thinks = texts.has('reasoning') || texts.has('reasoning_content')
      const message = {
        role: role ?? unknown('no role'),
        // A stream opens with an empty text; what only thought has none.
        content: thinks && content === '' ? null : content,
        refusal: texts.get('refusal')?.text() ?? null,
        annotations: null,
        audio: null,
        function_call: functionCall ? toFunction(functionCall) : null,
        ...(calls.length > 0 && {
          tool_calls: calls.map((call) => ({ id: call.id, type: call.type ?? 'function', function: toFunction(call) })),
        }),
        reasoning: texts.get('reasoning')?.text() ?? null,
        ...(texts.has('reasoning_content') && { reasoning_content: texts.get('reasoning_content')?.text() }),
      }
      const told = logprobs ? { content: logprobs } : null
      const ids = tokenIds ?? null
      const ends = { logprobs: told, finish_reason, stop_reason, token_ids: ids, routed_experts: null }
      return JSON.stringify({ index, message, ...ends })
    },
  }
}

function newCall(): Call {
  return { id: undefined, type: undefined, name: undefined, given: new GrowingText() }
}

/** Gives the number of characters that this adds. */
function growFunction(call: Call, told: JsonObject): number {
  refuseOthers(told, FUNCTION_KNOWN)
  call.name = once(call.name, told.name, 'name')
  if (!isSaid(told.arguments)) return lengthOf(told.name)
  const piece = textOf(told.arguments, 'arguments')
  call.given.add(piece)
  return lengthOf(told.name) + piece.length
}

function toFunction({ name, given }: Call): JsonObject {
  return { name: name ?? unknown('no name'), arguments: given.text() }
}

/** A text that is told once; told again, it must be the same. */
function once(held: string | undefined, told: unknown, what: string): string | undefined {
  if (!isSaid(told)) return held
  return held === undefined || held === told ? textOf(told, what) : unknown(what)
}

function lengthOf(told: unknown): number {
  return typeof told === 'string' ? told.length : 0
}

/** About the length of a value's JSON, nested no deeper than probabilities are. */
function charsOf(value: unknown, levels = 6): number {
  if (typeof value === 'string') return value.length + 2
  if (typeof value !== 'object' || value === null) return VALUE_CHARS
  if (levels === 0) return unknown('too deep')
  let chars = 2
  if (Array.isArray(value)) for (const one of value) chars += typeof one === 'number' ? 4 : charsOf(one, levels - 1)
  else for (const name in value) chars += name.length + 4 + charsOf((value as JsonObject)[name], levels - 1)
  return chars
}

/** Throws for what could not be told as a stream. */
function readChoice(choice: JsonObject): boolean {
  refuseOthers(choice, WHOLE_CHOICE_KNOWN)
  const message = objectOf(choice.message, 'message')
  refuseOthers(message, MESSAGE_KNOWN)
  textOf(message.role, 'role')
  for (const name of TEXTS) if (isSaid(message[name])) textOf(message[name], name)
  const calls = listOf(message.tool_calls ?? [], 'calls').map((call) => objectOf(call, 'call'))
  for (const call of calls) {
    refuseOthers(call, CALL_KNOWN)
    textOf(call.id, 'call id')
    textOf(call.type, 'call type')
    readFunction(call.function)
  }
  if (isSaid(message.function_call)) readFunction(message.function_call)
  if (isSaid(choice.token_ids)) tokenIdsOf(choice.token_ids)
  if (isSaid(choice.logprobs)) {
    const logprobs = objectOf(choice.logprobs, 'logprobs')
    refuseOthers(logprobs, LOGPROBS_KNOWN)
    for (const one of listOf(logprobs.content ?? [], 'logprobs')) charsOf(one)
  }
  return calls.length > 0 || isSaid(message.function_call)
}

function readFunction(value: unknown): void {
  const called = objectOf(value, 'function')
  refuseOthers(called, FUNCTION_KNOWN)
  textOf(called.name, 'name')
  textOf(called.arguments, 'arguments')
}

/** vLLM opens each choice with an empty text; where there is to be none, null says so and is added to nothing. */
function openingOf({ index, message }: JsonObject): JsonObject {
  const { role, content } = message as JsonObject
  const delta = { role, content: content === null ? null : '' }
  return { index, delta, logprobs: null, finish_reason: null }
}

function chunksOf(choice: JsonObject): JsonObject[] {
  const { index, finish_reason, stop_reason = null, logprobs = null, token_ids = null } = choice
  const message = choice.message as JsonObject
  const texts = TEXTS.filter((name) => isSaid(message[name])).map((name) => ({ [name]: message[name] }))
  const calls = ((message.tool_calls ?? []) as readonly JsonObject[]).flatMap((call, at) => {
    const { name, arguments: given } = call.function as JsonObject
    const begun = { id: call.id, type: call.type, index: at, function: { name } }
    const grown = { index: at, function: { arguments: given } }
    return [begun, grown].map((told) => ({ content: null, tool_calls: [told] }))
  })
  const called = isSaid(message.function_call) ? [{ function_call: message.function_call }] : []
  const deltas: readonly JsonObject[] = [...texts, ...calls, ...called]
  const none = { logprobs: null, finish_reason: null, token_ids: null }
  // Tokens are told beside the first of what they say.
  const tokens = { logprobs, token_ids }
  const chunks = deltas.map((delta, at) => ({ index, delta, ...none, ...(at === 0 && tokens) }))
  const end = { index, delta: {}, ...none, ...(deltas.length === 0 && tokens), finish_reason, stop_reason }
  return [...chunks, end]
}
