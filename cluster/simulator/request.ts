// From a request body to work for the engine, or to the refusal that vLLM gives: schema first, then the model, then the
// prompt, then the sampling parameters, in the order in which vLLM looks at them.
import { ApiError, badRequest, modelNotFound, pythonFloat, validationError } from './errors.ts'
import {
  CHARS_PER_TOKEN_MAX,
  charactersOf,
  encodeMessages,
  fitPrompt,
  type ModelLimits,
  type Prompt,
  promptsOf,
  readPrompt,
  SEQUENCES_MAX,
  tooLong,
} from './prompt.ts'
import { type Body, type MemberType, missing, parseBody } from './schema.ts'
import type { Lora } from './sequence.ts'
import { structuredAnswer } from './structured-answer.ts'
import { spokenCall, type ToolAnswer, toolAnswer } from './tool-answer.ts'

/** A request that will be served. */
export type GenerationRequest = {
  readonly api: 'chat' | 'completion' | 'response' | 'message' | 'embedding'
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
  /** Said instead of prose: a call's arguments, or the JSON that was asked for. */
  readonly script: string | undefined
  /** How many of the most probable tokens to tell at each place; undefined for no log probabilities. */
  readonly logprobs: number | undefined
  readonly cacheSalt: string | undefined
  /** The adapter that `model` names. */
  readonly lora: Lora | undefined
  /** Lower is sooner, where the engine looks at it. */
  readonly priority: number
  /** The prompt's own log probabilities are wanted, which only computing it gives. */
  readonly ignoreCache: boolean
  /** KV events tell of cached blocks that were found too (`kv_cache_report_mode`). */
  readonly reportHits: boolean
  /** The rank that was asked for. */
  readonly rank?: number | undefined
}

const SAMPLING_MEMBERS = {
  model: 'string',
  stream: 'boolean',
  stream_options: 'object',
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
  cache_salt: 'any',
  vllm_xargs: 'object',
  user: 'string',
  response_format: 'object',
  structured_outputs: 'object',
} as const satisfies Record<string, MemberType>

const RENDER_MEMBERS = {
  messages: 'list',
  tools: 'list',
  add_generation_prompt: 'boolean',
  continue_final_message: 'boolean',
  add_special_tokens: 'boolean',
  chat_template_kwargs: 'object',
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

const COMPLETION_MEMBERS = {
  ...SAMPLING_MEMBERS,
  prompt: 'any',
  add_special_tokens: 'boolean',
  echo: 'boolean',
  logprobs: 'integer',
} as const satisfies Record<string, MemberType>

const COMPLETION_MAX_TOKENS_DEFAULT = 16
/** vLLM's own limit is 16384 for each prompt; a simulated pod keeps every answer in one small process. */
const CHOICES_MAX = 128
/** Prompt tokens of all choices together: each may get its prompt back. */
const PROMPT_TOKENS_MAX = 4_194_304
/** Probabilities that one answer may hold. */
const LOGPROBS_MAX = 4_194_304
/** As of `--max-logprobs`. */
const TOP_LOGPROBS_MAX = 20
/** Every one is looked for after every token. */
const STOPS_MAX = 128
/** It is said again in every chunk. */
export const REQUEST_ID_CHARS_MAX = 1_024
const CACHE_SALT_CHARS_MAX = 128
/** They would mean something in the storage of caches. */
const CACHE_SALT_FORBIDDEN = /[@/\\\0]/
/** Below it vLLM samples greedily. */
export const GREEDY_TEMPERATURE = 1e-5

export function parseChat(text: string, limits: ModelLimits): GenerationRequest | ApiError {
  const body = parseBody(text, CHAT_MEMBERS, ['messages'])
  if (body instanceof ApiError) return body
  const refusal = refuseShape(body) ?? refuseModel(body, limits)
  if (refusal) return refusal
  const tool = toolAnswer(body)
  if (tool instanceof ApiError) return tool
  const logprobs = chatLogprobs(body)
  if (logprobs instanceof ApiError) return logprobs
  const maxTokens = (body.max_completion_tokens ?? body.max_tokens ?? undefined) as number | undefined
  if (charactersOf(body.messages) > limits.maxModelLen * CHARS_PER_TOKEN_MAX) return tooLong(limits)
  const tokenIds = encodeMessages(body, limits, body.add_special_tokens === true)
  if (tokenIds instanceof ApiError) return tokenIds
  const prompt = fitPrompt(tokenIds, maxTokens, limits, false)
  if (prompt instanceof ApiError) return prompt
  return complete(body, limits, { api: 'chat', prompts: [prompt], echo: false, promptOnly: false, tool, logprobs })
}

export function parseCompletion(text: string, limits: ModelLimits): GenerationRequest | ApiError {
  const body = parseBody(text, COMPLETION_MEMBERS, ['prompt'])
  if (body instanceof ApiError) return body
  const refusal = refuseShape(body) ?? refuseModel(body, limits)
  if (refusal) return refusal
  const asked = (body.max_tokens ?? COMPLETION_MAX_TOKENS_DEFAULT) as number
  const echo = body.echo === true
  const promptOnly = echo && asked === 0
  const logprobs = completionLogprobs(body)
  if (logprobs instanceof ApiError) return logprobs
  const given = promptsOf(body.prompt)
  if (given instanceof ApiError) return given
  const prompts: Prompt[] = []
  for (const one of given) {
    const prompt = readPrompt(one, body.add_special_tokens !== false, promptOnly ? 1 : asked, limits)
    if (prompt instanceof ApiError) return prompt
    prompts.push(prompt)
  }
  if (prompts.length === 0) {
    return badRequest('Either prompt or prompt_embeds must be provided and non-empty.', 'prompt')
  }
  return complete(body, limits, { api: 'completion', prompts, echo, promptOnly, tool: undefined, logprobs })
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
  return refuseSalt(body)
}

export function refuseSalt({ cache_salt: salt }: Body): ApiError | undefined {
  if (salt === undefined || salt === null) return undefined
  if (typeof salt !== 'string' || salt === '') {
    return badRequest("Parameter 'cache_salt' must be a non-empty string if provided.", 'cache_salt')
  }
  if (salt.length <= CACHE_SALT_CHARS_MAX && !CACHE_SALT_FORBIDDEN.test(salt)) return undefined
  const message = `Parameter 'cache_salt' must be at most ${CACHE_SALT_CHARS_MAX} characters and must not contain '@', '/', '\\\\', or NUL.`
  return badRequest(message, 'cache_salt')
}

export function refuseModel({ model }: Body, { models, adapter }: ModelLimits): ApiError | undefined {
  if (model === undefined || model === null || model === '' || models.includes(model as string)) return undefined
  if (adapter(model as string)) return undefined
  return modelNotFound(model as string, models)
}

/** How many tokens' probabilities a chat wants at each place. */
function chatLogprobs(body: Body): number | undefined | ApiError {
  const top = (body.top_logprobs ?? 0) as number
  if (top < -1) {
    return badRequest('`top_logprobs` must be a positive value or -1.', 'top_logprobs', String(top))
  }
  if (body.logprobs === true) return topLogprobs(top)
  if (top === 0) return undefined
  return badRequest('when using `top_logprobs`, `logprobs` must be set to true.', 'top_logprobs')
}

function completionLogprobs(body: Body): number | undefined | ApiError {
  if (body.logprobs === undefined || body.logprobs === null) return undefined
  const top = body.logprobs as number
  return top < 0 ? badRequest('`logprobs` must be a positive value.', 'logprobs', String(top)) : topLogprobs(top)
}

export function topLogprobs(top: number): number | ApiError {
  if (top >= 0 && top <= TOP_LOGPROBS_MAX) return top
  // -1 asks for the whole vocabulary.
  const wanted = top < 0 ? 'all tokens' : String(top)
  const message = `Requested sample logprobs of ${wanted}, which is greater than max allowed: ${TOP_LOGPROBS_MAX}`
  return badRequest(message, 'logprobs', String(top))
}

/** What one answer would take more memory for than a pod has. */
function refuseSize({ prompts, echo, logprobs }: Settled, n: number): ApiError | undefined {
  const sequences = prompts.length * n
  if (sequences > SEQUENCES_MAX) {
    return badRequest(
      `n times the number of prompts must be at most ${SEQUENCES_MAX}, got ${sequences}.`,
      'n',
      String(n),
    )
  }
  const promptTokens = n * prompts.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0)
  if (promptTokens > PROMPT_TOKENS_MAX) {
    return badRequest(
      `n times the prompt tokens must be at most ${PROMPT_TOKENS_MAX}, got ${promptTokens}.`,
      'n',
      String(n),
    )
  }
  if (logprobs === undefined) return undefined
  const answerTokens = n * prompts.reduce((sum, { maxTokens }) => sum + maxTokens, 0)
  const told = (answerTokens + (echo ? promptTokens : 0)) * (logprobs + 1)
  if (told <= LOGPROBS_MAX) return undefined
  return badRequest(`One answer may tell at most ${LOGPROBS_MAX} logprobs: lower max_tokens or n.`, 'logprobs')
}

type Settled = Pick<GenerationRequest, 'api' | 'prompts' | 'echo' | 'promptOnly' | 'tool' | 'logprobs'>

/** The sampling parameters, which vLLM checks last. */
export function complete(body: Body, { models, adapter }: ModelLimits, settled: Settled): GenerationRequest | ApiError {
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
  const topK = (body.top_k ?? 0) as number
  if (topK < -1) return badRequest(`top_k must be 0 (disable), or at least 1, got ${topK}.`)
  if (minTokens < 0) return badRequest(`min_tokens must be greater than or equal to 0, got ${minTokens}.`)
  for (const { maxTokens } of settled.prompts) {
    if (minTokens > maxTokens) {
      return badRequest(`min_tokens must be less than or equal to max_tokens=${maxTokens}, got ${minTokens}.`)
    }
  }
  if (n > 1 && temperature < GREEDY_TEMPERATURE) {
    return badRequest(`n must be 1 when using greedy sampling, got ${n}.`)
  }
  const tooMuch = refuseSize(settled, n)
  if (tooMuch) return tooMuch
  const stop = typeof body.stop === 'string' ? [body.stop] : ((body.stop ?? []) as readonly unknown[])
  if (!Array.isArray(stop) || stop.some((text) => typeof text !== 'string')) {
    const msg = 'Input should be a valid string'
    return validationError([{ type: 'string_type', loc: 'body.stop.str', msg, input: body.stop }])
  }
  const stopTokenIds = (body.stop_token_ids ?? []) as readonly unknown[]
  const wrong = stopTokenIds.findIndex((id) => !Number.isInteger(id))
  if (wrong >= 0) {
    const msg = 'Input should be a valid integer'
    return validationError([{ type: 'int_type', loc: `body.stop_token_ids.${wrong}`, msg, input: stopTokenIds[wrong] }])
  }
  for (const [name, { length }] of Object.entries({ stop, stop_token_ids: stopTokenIds })) {
    if (length > STOPS_MAX) return badRequest(`${name} must have at most ${STOPS_MAX} items, got ${length}.`, name)
  }
  const requestId = (body.request_id ?? undefined) as string | undefined
  if (requestId !== undefined && requestId.length > REQUEST_ID_CHARS_MAX) {
    return badRequest(`request_id must have at most ${REQUEST_ID_CHARS_MAX} characters.`, 'request_id')
  }
  const structured = structuredAnswer(body)
  if (structured instanceof ApiError) return structured
  if (stop.includes('')) return badRequest('stop cannot contain an empty string.')
  const streamOptions = (body.stream_options ?? {}) as Body
  const includeUsage = streamOptions.include_usage === true
  return {
    ...settled,
    model: (body.model || models[0]) as string,
    n,
    stream: body.stream === true,
    includeUsage,
    continuousUsage: includeUsage && streamOptions.continuous_usage_stats === true,
    temperature: temperature < GREEDY_TEMPERATURE ? 0 : temperature,
    seed: (body.seed ?? undefined) as number | undefined,
    stop,
    stopTokenIds: stopTokenIds as readonly number[],
    includeStopInOutput: body.include_stop_str_in_output === true,
    minTokens,
    ignoreEos: body.ignore_eos === true,
    returnTokenIds: body.return_token_ids === true,
    requestId,
    script: settled.tool ? spokenCall(settled.tool) : structured,
    cacheSalt: (body.cache_salt ?? undefined) as string | undefined,
    lora: adapter((body.model ?? '') as string),
    priority: (body.priority ?? 0) as number,
    ignoreCache: settled.echo && settled.logprobs !== undefined,
    reportHits: (body.vllm_xargs as Body | null | undefined)?.kv_cache_report_mode === 'full',
  }
}
