// A /v1/responses request: from its body to work for the engine and to what the answer repeats of it, or to vLLM's refusal.
import { ApiError, badRequest, invalidRequest, literalIssue, responseNotFound, validationError } from './errors.ts'
import { CHARS_PER_TOKEN_MAX, charactersOf, encodeMessages, fitPrompt, type ModelLimits, tooLong } from './prompt.ts'
import { complete, type GenerationRequest, refuseModel, refuseSalt, topLogprobs } from './request.ts'
import { conversationOf, type EarlierTurns, refuseInput } from './response-input.ts'
import { type Body, type MemberType, missing, parseBody } from './schema.ts'
import type { ChatMessage } from './tokenizer.ts'
import { toolAnswer } from './tool-answer.ts'

export type ResponseRequest = {
  readonly generation: GenerationRequest
  /** With the turns before it. */
  readonly messages: readonly ChatMessage[]
  /** Whether the answer is to be kept. */
  readonly store: boolean
  /** Whether the answer is only kept, not waited for. */
  readonly background: boolean
  /** Whether the answer shows the prompt and the output with their token ids. */
  readonly showMessages: boolean
  readonly repeated: RepeatedMembers
}

/** What an answer says again of its request. */
export type RepeatedMembers = {
  readonly instructions: unknown
  readonly metadata: unknown
  readonly parallelToolCalls: boolean
  readonly temperature: number
  readonly toolChoice: unknown
  readonly tools: readonly unknown[]
  readonly topP: number
  readonly maxToolCalls: unknown
  readonly previousResponseId: string | undefined
  readonly reasoning: unknown
  readonly serviceTier: unknown
  readonly text: unknown
  readonly truncation: unknown
  readonly user: unknown
  readonly presencePenalty: number
  readonly frequencyPenalty: number
}

/** Where earlier responses are kept; undefined where none are. */
export type EarlierResponses = { readonly turnsOf: (id: string) => EarlierTurns | undefined }

const MEMBERS = {
  model: 'string',
  input: 'any',
  instructions: 'string',
  max_output_tokens: 'integer',
  max_tool_calls: 'integer',
  metadata: 'object',
  parallel_tool_calls: 'boolean',
  previous_response_id: 'string',
  reasoning: 'object',
  include: 'list',
  store: 'boolean',
  stream: 'boolean',
  background: 'boolean',
  temperature: 'number',
  top_p: 'number',
  top_logprobs: 'integer',
  presence_penalty: 'number',
  frequency_penalty: 'number',
  text: 'object',
  tools: 'list',
  tool_choice: 'any',
  user: 'string',
  seed: 'integer',
  stop: 'any',
  stop_token_ids: 'list',
  include_stop_str_in_output: 'boolean',
  ignore_eos: 'boolean',
  request_id: 'string',
  priority: 'integer',
  cache_salt: 'any',
  vllm_xargs: 'object',
  structured_outputs: 'object',
  chat_template_kwargs: 'object',
  enable_response_messages: 'boolean',
  previous_input_messages: 'list',
} as const satisfies Record<string, MemberType>

const TOOL_CHOICES = ['none', 'auto', 'required']
const SERVICE_TIERS = ['auto', 'default', 'flex', 'scale', 'priority']
const TRUNCATIONS = ['auto', 'disabled']
const OUTPUT_LOGPROBS = 'message.output_text.logprobs'
const STORE_DISABLED =
  'This vLLM engine does not support `store=True` and therefore does not support the background mode. To enable these features, set the environment variable `VLLM_ENABLE_RESPONSES_API_STORE=1` when launching the vLLM server.'

export function parseResponse(
  text: string,
  limits: ModelLimits,
  earlier: EarlierResponses | undefined,
): ResponseRequest | ApiError {
  const body = parseBody(text, MEMBERS, ['input'], { tool_choice: 'auto' })
  if (body instanceof ApiError) return body
  const refusal = refuseShape(body) ?? refuseModel(body, limits) ?? refuseStore(body, earlier !== undefined)
  if (refusal) return refusal
  const previousId = (body.previous_response_id ?? undefined) as string | undefined
  const turns = previousId === undefined ? undefined : earlier?.turnsOf(previousId)
  if (previousId !== undefined && turns === undefined) return responseNotFound(previousId)
  const messages = conversationOf(body.instructions, turns, body.input)
  if (messages instanceof ApiError) return messages
  const chat = chatBody(body, messages)
  if (charactersOf(messages) > limits.maxModelLen * CHARS_PER_TOKEN_MAX) return tooLong(limits)
  // The one API whose rendered text gets special tokens again: Llama 3 sees two at its beginning.
  const tokenIds = encodeMessages(chat, limits, true)
  if (tokenIds instanceof ApiError) return tokenIds
  const maxTokens = (body.max_output_tokens ?? undefined) as number | undefined
  const prompt = fitPrompt(tokenIds, maxTokens, limits, false, 'max_output_tokens')
  if (prompt instanceof ApiError) return prompt
  const tool = toolAnswer(chat)
  if (tool instanceof ApiError) return tool
  const wantsLogprobs = ((body.include ?? []) as unknown[]).includes(OUTPUT_LOGPROBS)
  const logprobs = wantsLogprobs ? topLogprobs((body.top_logprobs ?? 0) as number) : undefined
  if (logprobs instanceof ApiError) return logprobs
  const settled = { api: 'response', prompts: [prompt], echo: false, promptOnly: false, tool, logprobs } as const
  const generation = complete(chat, limits, settled)
  if (generation instanceof ApiError) return generation
  return {
    generation,
    messages,
    store: body.store !== false && earlier !== undefined,
    background: body.background === true,
    showMessages: body.enable_response_messages === true,
    repeated: repeatedOf(body, generation.temperature),
  }
}

function refuseShape(body: Body): ApiError | undefined {
  if (body.background === true && body.store === false) {
    return badRequest('background can only be used when `store` is true', 'background')
  }
  if (body.prompt !== undefined && body.prompt !== null) {
    return badRequest('prompt template is not supported', 'prompt')
  }
  const salt = refuseSalt(body) ?? refuseToolChoice(body)
  if (salt) return salt
  return (
    refuseInput(body.input) ??
    refuseTools(body) ??
    refuseLiteral('service_tier', body.service_tier, SERVICE_TIERS) ??
    refuseLiteral('truncation', body.truncation, TRUNCATIONS)
  )
}

function refuseToolChoice({ tools, tool_choice: choice }: Body): ApiError | undefined {
  const named = (choice as { readonly type?: unknown } | null | undefined)?.type === 'function'
  const offered = Array.isArray(tools) ? tools : []
  if (choice === 'required' && offered.length === 0) {
    return badRequest("Tool choice 'required' must be specified with 'tools' parameter.", 'tool_choice')
  }
  if (!named || offered.some((tool) => tool?.name === (choice as Body).name)) return undefined
  return badRequest("Tool choice 'function' not found in 'tools' parameter.", 'tool_choice')
}

/** vLLM tries every kind of tool and of choice and says of each what is wrong; here it is what it says first. */
function refuseTools({ tools, tool_choice: choice }: Body): ApiError | undefined {
  for (const [index, tool] of ((tools ?? []) as readonly unknown[]).entries()) {
    const loc = `body.tools.${index}.FunctionTool`
    if (typeof tool !== 'object' || tool === null || Array.isArray(tool)) {
      const msg = 'Input should be a valid dictionary or object to extract fields from'
      return validationError([{ type: 'model_attributes_type', loc, msg, input: tool }])
    }
    const { type, name } = tool as Body
    if (type === 'function' && name === undefined) return validationError([missing(`${loc}.name`, tool)])
  }
  if (typeof choice === 'object' && choice !== null) return undefined
  if (TOOL_CHOICES.includes(choice as string)) return undefined
  return validationError([literalIssue('body.tool_choice', choice, TOOL_CHOICES)])
}

function refuseLiteral(name: string, input: unknown, allowed: readonly string[]): ApiError | undefined {
  if (input === undefined || input === null || allowed.includes(input as string)) return undefined
  return validationError([literalIssue(`body.${name}`, input, allowed)])
}

function refuseStore(body: Body, storing: boolean): ApiError | undefined {
  if (body.background === true && !storing) return invalidRequest(400, STORE_DISABLED, 'background')
  const given = (body.previous_input_messages ?? []) as readonly unknown[]
  if (given.length === 0 || !body.previous_response_id) return undefined
  const message = 'Only one of `previous_input_messages` and `previous_response_id` can be set.'
  return invalidRequest(400, message, 'previous_response_id')
}

/** The request in the words of a chat: what remains is sampled and constrained alike. */
function chatBody(body: Body, messages: readonly ChatMessage[]): Body {
  const tools = ((body.tools ?? []) as readonly (Body | null)[]).flatMap(chatTool)
  const choice = body.tool_choice as Body | string | null | undefined
  const { stream_options: _, min_tokens: __, n: ___, response_format: ____, ...sampling } = body
  return {
    ...sampling,
    messages,
    ...(tools.length > 0 ? { tools } : { tools: null }),
    tool_choice: typeof choice === 'object' && choice !== null ? { function: { name: choice.name } } : choice,
    response_format: formatOf(body.text),
  }
}

function chatTool(tool: Body | null): readonly Body[] {
  if (typeof tool !== 'object' || tool === null || tool.type !== 'function') return []
  const { type, ...described } = tool
  return [{ type, function: described }]
}

function formatOf(text: unknown): Body | null {
  const format = (text as { readonly format?: Body | null } | null | undefined)?.format
  if (typeof format !== 'object' || format === null) return null
  return format.type === 'json_schema' ? { type: 'json_schema', json_schema: { schema: format.schema } } : format
}

function repeatedOf(body: Body, temperature: number): RepeatedMembers {
  const tools = ((body.tools ?? []) as readonly (Body | null)[]).map(repeatedTool)
  const choice = body.tool_choice as Body | string | null | undefined
  return {
    instructions: body.instructions ?? null,
    metadata: body.metadata ?? null,
    parallelToolCalls: body.parallel_tool_calls !== false,
    temperature,
    toolChoice: tools.length === 0 ? 'none' : (repeatedChoice(choice) ?? 'auto'),
    tools,
    // Greedy sampling looks at no share of the candidates.
    topP: temperature === 0 ? 1 : ((body.top_p ?? 1) as number),
    maxToolCalls: body.max_tool_calls ?? null,
    previousResponseId: (body.previous_response_id ?? undefined) as string | undefined,
    reasoning: withNulls(body.reasoning, ['context', 'effort', 'generate_summary', 'mode', 'summary']),
    serviceTier: body.service_tier ?? 'auto',
    text: repeatedText(body.text),
    truncation: body.truncation ?? 'disabled',
    user: body.user ?? null,
    presencePenalty: (body.presence_penalty ?? 0) as number,
    frequencyPenalty: (body.frequency_penalty ?? 0) as number,
  }
}

function repeatedChoice(choice: Body | string | null | undefined): unknown {
  if (typeof choice !== 'object' || choice === null) return choice
  const { mode, name, tools, type } = choice
  return type === 'allowed_tools' ? { mode, tools, type } : { name, type }
}

function repeatedTool(tool: Body | null): unknown {
  if (tool?.type === 'web_search_preview') {
    return withNulls(tool, ['type', 'search_content_types', 'search_context_size', 'user_location'])
  }
  if (tool?.type !== 'function') return tool
  return withNulls(tool, [
    'name',
    'parameters',
    'strict',
    'type',
    'allowed_callers',
    'async',
    'defer_loading',
    'description',
    'output_schema',
  ])
}

/** Plain text is what there is anyway, and is not repeated. */
function repeatedText(text: unknown): unknown {
  const { format, verbosity } = (text ?? {}) as { readonly format?: Body | null; readonly verbosity?: unknown }
  if (format?.type !== 'json_schema')
    return format?.type === 'json_object' ? { format, verbosity: verbosity ?? null } : null
  return {
    format: withNulls(format, ['name', 'schema', 'type', 'description', 'strict']),
    verbosity: verbosity ?? null,
  }
}

function withNulls(given: unknown, names: readonly string[]): unknown {
  if (typeof given !== 'object' || given === null) return null
  return Object.fromEntries(names.map((name) => [name, (given as Body)[name] ?? null]))
}
