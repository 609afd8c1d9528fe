// A /v1/embeddings request: from its body to prompts for the engine, or to vLLM's refusal.
import { ApiError, badRequest, type Issue, literalIssue, modelNotFound, validationError } from './errors.ts'
import {
  CHARS_PER_TOKEN_MAX,
  charactersOf,
  encodeMessages,
  type ModelLimits,
  type Prompt,
  refuseLength,
  SEQUENCES_MAX,
  tooLong,
} from './prompt.ts'
import { type GenerationRequest, REQUEST_ID_CHARS_MAX, refuseSalt } from './request.ts'
import { type Body, type MemberType, missing, parseBody } from './schema.ts'

export type EmbeddingRequest = {
  readonly generation: GenerationRequest
  readonly encoding: 'float' | 'base64'
  readonly bigEndian: boolean
  readonly normalised: boolean
}

const MEMBERS = {
  model: 'string',
  user: 'string',
  truncate_prompt_tokens: 'integer',
  request_id: 'string',
  priority: 'integer',
  input: 'any',
  messages: 'any',
  add_special_tokens: 'boolean',
  add_generation_prompt: 'boolean',
  continue_final_message: 'boolean',
  chat_template_kwargs: 'object',
  encoding_format: 'string',
  embed_dtype: 'string',
  endianness: 'string',
  dimensions: 'integer',
  use_activation: 'boolean',
} as const satisfies Record<string, MemberType>

const ENCODINGS = ['float', 'base64', 'bytes', 'bytes_only']
const DTYPES = ['float32', 'float16', 'bfloat16', 'fp8_e4m3', 'fp8_e5m2']
const ENDIANNESSES = ['native', 'big', 'little']
/** Prompt tokens of one request: each prompt has a vector of its own. */
const PROMPT_TOKENS_MAX = 4_194_304

/** Of no meaning where nothing is said. */
const SILENT = {
  api: 'embedding',
  n: 1,
  stream: false,
  includeUsage: false,
  continuousUsage: false,
  temperature: 0,
  seed: undefined,
  stop: [],
  stopTokenIds: [],
  includeStopInOutput: false,
  minTokens: 0,
  ignoreEos: false,
  returnTokenIds: false,
  echo: false,
  promptOnly: true,
  tool: undefined,
  script: undefined,
  logprobs: undefined,
  ignoreCache: false,
  reportHits: false,
} as const

export function parseEmbedding(text: string, limits: ModelLimits): EmbeddingRequest | ApiError {
  const body = parseBody(text, MEMBERS, [])
  if (body instanceof ApiError) return body
  const refusal = refuseRemoved(body) ?? refuseSalt(body) ?? refuseShape(body) ?? refuseModel(body, limits)
  if (refusal) return refusal
  const prompts = promptsOf(body, limits)
  if (prompts instanceof ApiError) return prompts
  const requestId = (body.request_id ?? undefined) as string | undefined
  if (requestId !== undefined && requestId.length > REQUEST_ID_CHARS_MAX) {
    return badRequest(`request_id must have at most ${REQUEST_ID_CHARS_MAX} characters.`, 'request_id')
  }
  return {
    generation: {
      ...SILENT,
      model: (body.model ?? limits.models[0]) as string,
      prompts,
      requestId,
      cacheSalt: (body.cache_salt ?? undefined) as string | undefined,
      lora: undefined,
      priority: (body.priority ?? 0) as number,
    },
    encoding: body.encoding_format === 'base64' ? 'base64' : 'float',
    bigEndian: body.endianness === 'big',
    normalised: body.use_activation !== false,
  }
}

function refuseRemoved(body: Body): ApiError | undefined {
  if (body.normalize === undefined) return undefined
  return badRequest('Parameter `normalize` was removed; use `use_activation` instead.', 'normalize')
}

/** vLLM tries every kind of request and says of each what is wrong; here it is the findings of the plain one. */
function refuseShape(body: Body): ApiError | undefined {
  const { input, encoding_format: encoding, embed_dtype: dtype } = body
  const issues: Issue[] = []
  if (!Array.isArray(body.messages) && !isConversation(input) && !isConversations(input))
    issues.push(...inputIssues(body))
  for (const [name, allowed] of [
    ['encoding_format', ENCODINGS],
    ['embed_dtype', DTYPES],
    ['endianness', ENDIANNESSES],
  ] as const) {
    const given = body[name]
    if (given !== undefined && !allowed.includes(given as string)) {
      issues.push(literalIssue(`body.${name}`, given, allowed))
    }
  }
  if (issues.length > 0) return validationError(issues)
  if (encoding !== undefined && encoding !== 'float' && encoding !== 'base64') {
    return badRequest(`A simulated pod encodes embeddings as float or base64, not as ${encoding}.`, 'encoding_format')
  }
  if (dtype === undefined || dtype === 'float32') return undefined
  return badRequest(`A simulated pod has embeddings of float32, not of ${dtype}.`, 'embed_dtype')
}

function inputIssues(body: Body): readonly Issue[] {
  const { input } = body
  const loc = 'body.input'
  if (input === undefined) return [missing(loc, body)]
  if (typeof input === 'string') return []
  const text: Issue = { type: 'string_type', loc, msg: 'Input should be a valid string', input }
  if (!Array.isArray(input)) {
    const list: Issue = { type: 'list_type', loc, msg: 'Input should be a valid list', input }
    return [list, list, text, list]
  }
  const isWhole = [isId, isText, isIdList].some((kind) => input.every(kind))
  if (isWhole) return []
  const wrong = input.findIndex((item) => !isText(item))
  const msg = 'Input should be a valid string'
  return [text, { type: 'string_type', loc: `${loc}.${wrong}`, msg, input: input[wrong] }]
}

/** This server's own check of the name, which tells no aliases. */
function refuseModel(body: Body, { models }: ModelLimits): ApiError | undefined {
  const { model, dimensions } = body
  if (model !== undefined && model !== null && !models.includes(model as string)) return modelNotFound(model as string)
  if (dimensions === undefined || dimensions === null) return undefined
  return badRequest(
    `Model '${model ?? models[0]}' does not support Matryoshka embeddings; dimensions must be unset (received dimensions=${dimensions}).`,
  )
}

function promptsOf(body: Body, limits: ModelLimits): readonly Prompt[] | ApiError {
  const isChat = Array.isArray(body.messages)
  const given = isChat ? body.messages : body.input
  const conversations = isConversations(given) ? given : isChat || isConversation(given) ? [given] : undefined
  const items = conversations ?? (isPrompt(given) ? [given] : (given as readonly unknown[]))
  if (items.length === 0) return badRequest('You must pass at least one prompt')
  if (items.length > SEQUENCES_MAX) {
    return badRequest(`At most ${SEQUENCES_MAX} inputs may be sent in one request, got ${items.length}.`, 'input')
  }
  const kept = truncationOf(body, limits)
  if (kept instanceof ApiError) return kept
  const prompts: Prompt[] = []
  let tokens = 0
  for (const item of items) {
    const whole = conversations ? conversationIds(body, item, limits) : inputIds(body, item, limits, kept !== undefined)
    if (whole instanceof ApiError) return whole
    const tokenIds = kept === undefined ? whole : whole.slice(0, kept)
    const refusal = refuseLength(tokenIds, limits.maxModelLen, typeof item !== 'string')
    if (refusal) return refusal
    tokens += tokenIds.length
    if (tokens > PROMPT_TOKENS_MAX) {
      return badRequest(`The inputs of one request may have at most ${PROMPT_TOKENS_MAX} tokens.`, 'input')
    }
    prompts.push({ tokenIds, maxTokens: 0 })
  }
  return prompts
}

function truncationOf(
  { truncate_prompt_tokens: kept }: Body,
  { maxModelLen }: ModelLimits,
): number | undefined | ApiError {
  if (kept === undefined || kept === null) return undefined
  const tokens = kept as number
  if (tokens < -1) {
    const msg = 'Input should be greater than or equal to -1'
    const loc = 'body.truncate_prompt_tokens'
    return validationError([{ type: 'greater_than_equal', loc, msg, input: kept, context: "'ge': -1" }])
  }
  if (tokens <= maxModelLen) return tokens === -1 ? maxModelLen : tokens
  const message = `truncate_prompt_tokens=${tokens} cannot be greater than max_model_len = ${maxModelLen}. Please request a smaller truncation size.`
  return badRequest(message, 'truncate_prompt_tokens', String(tokens))
}

function conversationIds(body: Body, messages: unknown, limits: ModelLimits): readonly number[] | ApiError {
  if (charactersOf(messages) > limits.maxModelLen * CHARS_PER_TOKEN_MAX) return tooLong(limits)
  const chat = { ...body, messages, tools: null, add_generation_prompt: body.add_generation_prompt === true }
  return encodeMessages(chat, limits, body.add_special_tokens === true)
}

function inputIds(body: Body, input: unknown, limits: ModelLimits, isCut: boolean): readonly number[] | ApiError {
  const { maxModelLen, tokenizer } = limits
  if (typeof input === 'string') {
    const charactersMax = maxModelLen * CHARS_PER_TOKEN_MAX
    if (input.length > charactersMax && !isCut) return tooLong(limits)
    return tokenizer.encode(input.slice(0, charactersMax), body.add_special_tokens !== false)
  }
  const ids = input as readonly number[]
  const unknown = ids.length > maxModelLen ? undefined : ids.find((id) => !tokenizer.isId(id))
  return unknown === undefined ? ids : badRequest(`Token id ${unknown} is out of vocabulary`)
}

function isConversations(value: unknown): value is readonly unknown[] {
  return Array.isArray(value) && value.length > 0 && value.every(isConversation)
}

function isConversation(value: unknown): value is readonly unknown[] {
  return (
    Array.isArray(value) &&
    value.length > 0 &&
    value.every((message) => typeof (message as { readonly role?: unknown } | null | undefined)?.role === 'string')
  )
}

/** One prompt, not a list of them. An empty list is none. */
function isPrompt(value: unknown): boolean {
  return typeof value === 'string' || (isIdList(value) && value.length > 0)
}

function isIdList(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every(isId)
}

function isId(value: unknown): value is number {
  return Number.isInteger(value)
}

function isText(value: unknown): value is string {
  return typeof value === 'string'
}
