// The prompt of a request: from messages, text or token ids to the ids that the engine computes, within the model's context,
// or the refusal that vLLM gives.
import { ApiError, badRequest, validationError } from './errors.ts'
import type { Body } from './schema.ts'
import type { Lora } from './sequence.ts'
import { type ChatMessage, contentText, TemplateError, type Tokenizer } from './tokenizer.ts'

export type ModelLimits = {
  readonly models: readonly string[]
  /** The adapter of that name, if one is loaded. */
  readonly adapter: (name: string) => Lora | undefined
  readonly maxModelLen: number
  readonly tokenizer: Tokenizer
  /** Whether the chat template wants all that the system says first: later system messages are moved there. */
  readonly systemFirst: boolean
}

export type Prompt = { readonly tokenIds: readonly number[]; readonly maxTokens: number }

/** Prompts in a request, and sequences that they make. */
export const SEQUENCES_MAX = 1_024
/** No vocabulary has a longer token, so a longer text is too long whatever its tokens are. */
export const CHARS_PER_TOKEN_MAX = 256

export function encodeMessages(body: Body, limits: ModelLimits, addSpecialTokens: boolean): number[] | ApiError {
  const { tokenizer } = limits
  const messages = body.messages as readonly unknown[]
  if (messages.length === 0) {
    return badRequest('Cannot apply chat template to an empty conversation. Provide at least one message.')
  }
  for (const [index, message] of messages.entries()) {
    const refusal = refuseMessage(message, index, limits)
    if (refusal) return refusal
  }
  try {
    return tokenizer.encodeChat(
      messages as readonly ChatMessage[],
      Array.isArray(body.tools) ? body.tools.map(templateTool) : undefined,
      {
        addGenerationPrompt: body.add_generation_prompt !== false,
        continueFinalMessage: body.continue_final_message === true,
        addSpecialTokens,
        templateVariables: (body.chat_template_kwargs ?? {}) as Body,
      },
    )
  } catch (error) {
    if (error instanceof TemplateError) return badRequest(error.message)
    throw error
  }
}

/** A tool as vLLM's own type of it prints: with these members in this order, whatever else the caller sent. */
function templateTool(tool: unknown): unknown {
  const { type, function: described } = (tool ?? {}) as { readonly type?: unknown; readonly function?: Body | null }
  const { name, description, parameters, strict, defer_loading: deferred } = described ?? {}
  return {
    type: type ?? 'function',
    function: {
      name,
      description: description ?? null,
      parameters: parameters ?? null,
      ...(strict === undefined || strict === null ? {} : { strict }),
      ...(deferred === undefined || deferred === null ? {} : { defer_loading: deferred }),
    },
  }
}

/** How long the messages' texts are, whatever else the list may hold. */
export function charactersOf(messages: unknown): number {
  return (messages as readonly unknown[]).reduce<number>((sum, message) => {
    const content = (message as { readonly content?: unknown } | null)?.content
    return sum + contentText(content).length
  }, 0)
}

function refuseMessage(message: unknown, index: number, { models }: ModelLimits): ApiError | undefined {
  const loc = `body.messages.${index}`
  if (typeof message !== 'object' || message === null || Array.isArray(message)) {
    return validationError([{ type: 'dict_type', loc, msg: 'Input should be a valid dictionary', input: message }])
  }
  const { role, content } = message as ChatMessage
  if (role === undefined) {
    return validationError([{ type: 'missing', loc: `${loc}.role`, msg: 'Field required', input: message }])
  }
  if (typeof role !== 'string') {
    return validationError([
      { type: 'string_type', loc: `${loc}.role`, msg: 'Input should be a valid string', input: role },
    ])
  }
  const hasMedia = Array.isArray(content) && content.some((part) => isMedia(part?.type))
  return hasMedia ? badRequest(`${models[0]} is not a multimodal model`) : undefined
}

function isMedia(type: unknown): type is string {
  return typeof type === 'string' && !type.endsWith('text')
}

export type GivenPrompt = string | readonly number[]

/** A prompt is a text, a list of token ids, or a list of either. */
export function promptsOf(prompt: unknown): readonly GivenPrompt[] | ApiError {
  if (typeof prompt === 'string') return [prompt]
  if (!Array.isArray(prompt)) return []
  if (prompt.length > 0 && prompt.every(isNumber)) return [prompt]
  if (prompt.length > SEQUENCES_MAX) {
    return badRequest(`At most ${SEQUENCES_MAX} prompts may be sent in one request, got ${prompt.length}.`, 'prompt')
  }
  const wrong = prompt.findIndex((item) => typeof item !== 'string' && !(Array.isArray(item) && item.every(isNumber)))
  if (wrong < 0) return prompt
  const msg = 'Input should be a valid string'
  return validationError([{ type: 'string_type', loc: `body.prompt.${wrong}`, msg, input: prompt[wrong] }])
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number'
}

export function readPrompt(
  given: GivenPrompt,
  addSpecialTokens: boolean,
  maxTokens: number | undefined,
  limits: ModelLimits,
): Prompt | ApiError {
  if (typeof given === 'string') {
    if (given.length > limits.maxModelLen * CHARS_PER_TOKEN_MAX) return tooLong(limits)
    return fitPrompt(limits.tokenizer.encode(given, addSpecialTokens), maxTokens, limits, false)
  }
  const prompt = fitPrompt(given, maxTokens, limits, true)
  if (prompt instanceof ApiError) return prompt
  const unknown = given.find((id) => !limits.tokenizer.isId(id))
  return unknown === undefined ? prompt : badRequest(`Token id ${unknown} is out of vocabulary`)
}

/** The refusal of a text that is too long to be counted. */
export function tooLong({ maxModelLen }: ModelLimits): ApiError {
  return promptTooLong(maxModelLen, maxModelLen + 1)
}

function promptTooLong(maxModelLen: number, counted: number): ApiError {
  // A text was cut there; vLLM does not ask whether it was one.
  const atLeast = counted === maxModelLen + 1 ? 'at least ' : ''
  const message = `This model's maximum context length is ${maxModelLen} tokens. However, your prompt contains ${atLeast}${counted} input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt.`
  return badRequest(message, 'input_tokens', String(counted))
}

/**
 * The prompt with as many tokens of answer as were asked for, or as there is room for. A text is cut one past the limit
 * before it is counted, so its count may be a lower bound.
 */
export function fitPrompt(
  tokenIds: readonly number[],
  maxTokens: number | undefined,
  { maxModelLen }: ModelLimits,
  exact: boolean,
  maxTokensName = 'max_tokens',
): Prompt | ApiError {
  if (maxTokens !== undefined && maxTokens > maxModelLen) {
    const message = `${maxTokensName}=${maxTokens} cannot be greater than max_model_len=${maxModelLen}. Please request fewer output tokens.`
    return badRequest(message, maxTokensName, String(maxTokens))
  }
  const refusal = refuseLength(tokenIds, maxModelLen, exact)
  if (refusal) return refusal
  const room = maxModelLen - tokenIds.length
  const granted = Math.min(maxTokens ?? room, room)
  if (granted >= 1) return { tokenIds, maxTokens: granted }
  return badRequest(`max_tokens must be at least 1, got ${granted}.`, 'max_tokens', String(granted))
}

/** Refuses a prompt that is empty or longer than the context. */
export function refuseLength(tokenIds: readonly number[], maxModelLen: number, exact: boolean): ApiError | undefined {
  if (tokenIds.length === 0) return badRequest('The decoder prompt cannot be empty')
  if (tokenIds.length <= maxModelLen) return undefined
  const counted = exact ? tokenIds.length : maxModelLen + 1
  return promptTooLong(maxModelLen, counted)
}
