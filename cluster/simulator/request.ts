// From a request body to work for the engine, or to the refusal that vLLM gives: schema first, then the model, then the
// prompt, then the sampling parameters, in the order in which vLLM looks at them.
import { ApiError, badRequest, modelNotFound, pythonFloat, validationError } from './errors.ts'
import { type Body, type MemberType, missing, parseBody } from './schema.ts'
import { type ChatMessage, TemplateError, type Tokenizer } from './tokenizer.ts'
import { type ToolAnswer, toolAnswer } from './tool-answer.ts'

export type ModelLimits = {
  readonly models: readonly string[]
  readonly maxModelLen: number
  readonly tokenizer: Tokenizer
}

export type Prompt = { readonly tokenIds: readonly number[]; readonly maxTokens: number }

/** A request that will be served. */
export type GenerationRequest = {
  readonly api: 'chat' | 'completion'
  readonly model: string
  readonly prompts: readonly Prompt[]
  readonly n: number
  readonly stream: boolean
  readonly includeUsage: boolean
  readonly continuousUsage: boolean
  readonly temperature: number
  readonly seed: number | undefined
  readonly stop: readonly string[]
  readonly stopTokenIds: readonly number[]
  readonly includeStopInOutput: boolean
  readonly minTokens: number
  readonly ignoreEos: boolean
  readonly returnTokenIds: boolean
  readonly requestId: string | undefined
  /** Completions: the prompt's text is given back before the answer. */
  readonly echo: boolean
  /** Completions: `max_tokens: 0`; the engine still makes one token, which nobody sees. */
  readonly promptOnly: boolean
  /** Chat: the answer is a call of this function. */
  readonly tool: ToolAnswer | undefined
}

const SAMPLING_MEMBERS = {
  model: 'string',
  stream: 'boolean',
  stream_options: 'any',
  max_tokens: 'integer',
  min_tokens: 'integer',
  n: 'integer',
  temperature: 'number',
  top_p: 'number',
  top_k: 'integer',
  presence_penalty: 'number',
  frequency_penalty: 'number',
  repetition_penalty: 'number',
  seed: 'integer',
  stop: 'any',
  stop_token_ids: 'list',
  include_stop_str_in_output: 'boolean',
  ignore_eos: 'boolean',
  return_token_ids: 'boolean',
  request_id: 'string',
  priority: 'integer',
  cache_salt: 'string',
  user: 'string',
} as const satisfies Record<string, MemberType>

const RENDER_MEMBERS = {
  messages: 'list',
  tools: 'list',
  add_generation_prompt: 'boolean',
  continue_final_message: 'boolean',
  add_special_tokens: 'boolean',
  chat_template_kwargs: 'any',
} as const satisfies Record<string, MemberType>

const CHAT_MEMBERS = {
  ...SAMPLING_MEMBERS,
  ...RENDER_MEMBERS,
  max_completion_tokens: 'integer',
  tool_choice: 'any',
  parallel_tool_calls: 'boolean',
  logprobs: 'boolean',
  top_logprobs: 'integer',
} as const satisfies Record<string, MemberType>

const COMPLETION_MEMBERS = { ...SAMPLING_MEMBERS, prompt: 'any', echo: 'boolean' } as const satisfies Record<
  string,
  MemberType
>

const COMPLETION_MAX_TOKENS_DEFAULT = 16
/** vLLM's own limit. */
const CHOICES_MAX = 16_384
/** Below it vLLM samples greedily. */
const GREEDY_TEMPERATURE = 1e-5

export function parseChat(text: string, limits: ModelLimits): GenerationRequest | ApiError {
  const body = parseBody(text, CHAT_MEMBERS, ['messages'])
  if (body instanceof ApiError) return body
  const refusal = refuseShape(body) ?? refuseModel(body, limits)
  if (refusal) return refusal
  const tool = toolAnswer(body)
  if (tool instanceof ApiError) return tool
  const maxTokens = (body.max_completion_tokens ?? body.max_tokens ?? undefined) as number | undefined
  const tokenIds = encodeMessages(body, limits, false)
  if (tokenIds instanceof ApiError) return tokenIds
  const prompt = fitPrompt(tokenIds, maxTokens, limits, false)
  if (prompt instanceof ApiError) return prompt
  return complete(body, limits, { api: 'chat', prompts: [prompt], echo: false, promptOnly: false, tool })
}

export function parseCompletion(text: string, limits: ModelLimits): GenerationRequest | ApiError {
  const body = parseBody(text, COMPLETION_MEMBERS, ['prompt'])
  if (body instanceof ApiError) return body
  const refusal = refuseShape(body) ?? refuseModel(body, limits)
  if (refusal) return refusal
  const asked = (body.max_tokens ?? COMPLETION_MAX_TOKENS_DEFAULT) as number
  const echo = body.echo === true
  const promptOnly = echo && asked === 0
  const prompts: Prompt[] = []
  for (const { tokenIds, exact } of promptsOf(body.prompt, limits.tokenizer) ?? []) {
    const unknown = tokenIds.find((id) => !limits.tokenizer.isId(id))
    if (unknown !== undefined) return badRequest(`Token id ${unknown} is out of vocabulary`)
    const prompt = fitPrompt(tokenIds, promptOnly ? 1 : asked, limits, exact)
    if (prompt instanceof ApiError) return prompt
    prompts.push(prompt)
  }
  if (prompts.length === 0) {
    return badRequest('Either prompt or prompt_embeds must be provided and non-empty.', 'prompt')
  }
  return complete(body, limits, { api: 'completion', prompts, echo, promptOnly, tool: undefined })
}

/** The ids that `/tokenize` answers with. */
export function parseTokenize(
  text: string,
  limits: ModelLimits,
): { readonly ids: number[]; readonly strs: boolean } | ApiError {
  const members = { ...RENDER_MEMBERS, model: 'string', prompt: 'string', return_token_strs: 'boolean' } as const
  const body = parseBody(text, members, [])
  if (body instanceof ApiError) return body
  if (typeof body.prompt !== 'string' && !Array.isArray(body.messages)) {
    return validationError([missing('body.prompt', body)])
  }
  const refusal = refuseModel(body, limits)
  if (refusal) return refusal
  const strs = body.return_token_strs === true
  if (typeof body.prompt === 'string') {
    return { ids: limits.tokenizer.encode(body.prompt, body.add_special_tokens !== false), strs }
  }
  const ids = encodeMessages(body, limits, body.add_special_tokens === true)
  return ids instanceof ApiError ? ids : { ids, strs }
}

/** The ids that `/detokenize` was given. */
export function parseDetokenize(text: string, limits: ModelLimits): readonly number[] | ApiError {
  const body = parseBody(text, { model: 'string', tokens: 'list' }, ['tokens'])
  if (body instanceof ApiError) return body
  const refusal = refuseModel(body, limits)
  if (refusal) return refusal
  const ids = body.tokens as readonly unknown[]
  const wrong = ids.findIndex((id) => !Number.isInteger(id))
  if (wrong >= 0) {
    const msg = 'Input should be a valid integer'
    return validationError([{ type: 'int_type', loc: `body.tokens.${wrong}`, msg, input: ids[wrong] }])
  }
  return ids as readonly number[]
}

function refuseShape(body: Body): ApiError | undefined {
  if (body.stream_options !== undefined && body.stream_options !== null && body.stream !== true) {
    return badRequest('Stream options can only be defined when `stream=True`.', 'stream_options')
  }
  if (body.cache_salt === '') {
    return badRequest("Parameter 'cache_salt' must be a non-empty string if provided.", 'cache_salt')
  }
  return undefined
}

function refuseModel({ model }: Body, { models }: ModelLimits): ApiError | undefined {
  if (model === undefined || model === null || models.includes(model as string)) return undefined
  return modelNotFound(model as string, models)
}

function encodeMessages(body: Body, { tokenizer }: ModelLimits, addSpecialTokens: boolean): number[] | ApiError {
  const messages = body.messages as readonly unknown[]
  if (messages.length === 0) {
    return badRequest('Cannot apply chat template to an empty conversation. Provide at least one message.')
  }
  for (const [index, message] of messages.entries()) {
    const refusal = refuseMessage(message, index)
    if (refusal) return refusal
  }
  const variables = body.chat_template_kwargs
  try {
    return tokenizer.encodeChat(
      messages as readonly ChatMessage[],
      (body.tools ?? undefined) as unknown[] | undefined,
      {
        addGenerationPrompt: body.add_generation_prompt !== false,
        continueFinalMessage: body.continue_final_message === true,
        addSpecialTokens,
        templateVariables: typeof variables === 'object' && variables !== null ? (variables as Body) : {},
      },
    )
  } catch (error) {
    if (error instanceof TemplateError) return badRequest(error.message)
    throw error
  }
}

function refuseMessage(message: unknown, index: number): ApiError | undefined {
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
  const media = Array.isArray(content) ? content.find((part) => part?.type && !/text$/.test(part.type)) : undefined
  if (media) {
    const modality = String(media.type).replace(/^input_|_url$/g, '')
    return badRequest(`At most 0 ${modality}(s) may be provided in one prompt.`)
  }
  return undefined
}

type EncodedPrompt = { readonly tokenIds: readonly number[]; readonly exact: boolean }

/** A prompt is a text, a list of token ids, or a list of either. */
function promptsOf(prompt: unknown, tokenizer: Tokenizer): readonly EncodedPrompt[] | undefined {
  if (typeof prompt === 'string') return [{ tokenIds: tokenizer.encode(prompt, true), exact: false }]
  if (!Array.isArray(prompt)) return undefined
  if (prompt.length > 0 && prompt.every((item) => typeof item === 'number')) return [{ tokenIds: prompt, exact: true }]
  return prompt.flatMap((item) => promptsOf(item, tokenizer) ?? [])
}

/** A text is cut at the limit before it is counted, so its count is a lower bound; given ids are counted exactly. */
function fitPrompt(
  tokenIds: readonly number[],
  maxTokens: number | undefined,
  { maxModelLen }: ModelLimits,
  exact: boolean,
): Prompt | ApiError {
  if (maxTokens !== undefined && maxTokens < 1) {
    return badRequest(`max_tokens must be at least 1, got ${maxTokens}.`, 'max_tokens', String(maxTokens))
  }
  if (maxTokens !== undefined && maxTokens > maxModelLen) {
    const message = `max_tokens=${maxTokens} cannot be greater than max_model_len=${maxModelLen}. Please request fewer output tokens.`
    return badRequest(message, 'max_tokens', String(maxTokens))
  }
  if (tokenIds.length === 0) return badRequest('The decoder prompt cannot be empty')
  const counted = exact ? tokenIds.length : Math.min(tokenIds.length, maxModelLen + 1)
  const atLeast = exact ? '' : 'at least '
  const limit = `This model's maximum context length is ${maxModelLen} tokens. However,`
  if (counted > maxModelLen || (maxTokens === undefined && counted === maxModelLen)) {
    const message = `${limit} your prompt contains ${atLeast}${counted} input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt.`
    return badRequest(message, 'input_tokens', String(counted))
  }
  if (maxTokens !== undefined && counted + maxTokens > maxModelLen) {
    const message = `${limit} you requested ${maxTokens} output tokens and your prompt contains ${atLeast}${counted} input tokens, for a total of ${atLeast}${counted + maxTokens} tokens. Please reduce the length of the input prompt or the number of requested output tokens.`
    return badRequest(message, 'input_tokens', String(counted))
  }
  return { tokenIds, maxTokens: maxTokens ?? maxModelLen - counted }
}

type Settled = Pick<GenerationRequest, 'api' | 'prompts' | 'echo' | 'promptOnly' | 'tool'>

/** The sampling parameters, which vLLM checks last. */
function complete(body: Body, { models }: ModelLimits, settled: Settled): GenerationRequest | ApiError {
  const n = (body.n ?? 1) as number
  const temperature = (body.temperature ?? 1) as number
  const topP = (body.top_p ?? 1) as number
  const minTokens = (body.min_tokens ?? 0) as number
  if (n < 1) return badRequest(`n must be at least 1, got ${n}.`, 'n', String(n))
  if (n > CHOICES_MAX) return badRequest(`n must be at most ${CHOICES_MAX}, got ${n}.`, 'n', String(n))
  for (const name of ['presence_penalty', 'frequency_penalty'] as const) {
    const penalty = (body[name] ?? 0) as number
    if (penalty < -2 || penalty > 2) {
      return badRequest(`${name} must be in [-2, 2], got ${pythonFloat(penalty)}.`, name, pythonFloat(penalty))
    }
  }
  if (temperature < 0) {
    const value = pythonFloat(temperature)
    return badRequest(`temperature must be non-negative, got ${value}.`, 'temperature', value)
  }
  if (topP <= 0 || topP > 1) {
    return badRequest(`top_p must be in (0, 1], got ${pythonFloat(topP)}.`, 'top_p', pythonFloat(topP))
  }
  if (minTokens < 0) return badRequest(`min_tokens must be greater than or equal to 0, got ${minTokens}.`)
  for (const { maxTokens } of settled.prompts) {
    if (minTokens > maxTokens) {
      return badRequest(`min_tokens must be less than or equal to max_tokens=${maxTokens}, got ${minTokens}.`)
    }
  }
  if (n > 1 && temperature < GREEDY_TEMPERATURE) {
    return badRequest(`n must be 1 when using greedy sampling, got ${n}.`)
  }
  const stop = typeof body.stop === 'string' ? [body.stop] : ((body.stop ?? []) as readonly unknown[])
  if (!Array.isArray(stop) || stop.some((text) => typeof text !== 'string')) {
    const msg = 'Input should be a valid string'
    return validationError([{ type: 'string_type', loc: 'body.stop.str', msg, input: body.stop }])
  }
  if (stop.includes('')) return badRequest('stop cannot contain an empty string.')
  const streamOptions = (body.stream_options ?? {}) as Body
  const includeUsage = streamOptions.include_usage === true
  return {
    ...settled,
    model: (body.model ?? models[0]) as string,
    n,
    stream: body.stream === true,
    includeUsage,
    continuousUsage: includeUsage && streamOptions.continuous_usage_stats === true,
    temperature: temperature < GREEDY_TEMPERATURE ? 0 : temperature,
    seed: (body.seed ?? undefined) as number | undefined,
    stop,
    stopTokenIds: (body.stop_token_ids ?? []) as readonly number[],
    includeStopInOutput: body.include_stop_str_in_output === true,
    minTokens,
    ignoreEos: body.ignore_eos === true,
    returnTokenIds: body.return_token_ids === true,
    requestId: (body.request_id ?? undefined) as string | undefined,
  }
}
