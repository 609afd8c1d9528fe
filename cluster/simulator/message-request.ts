// A /v1/messages request, or one that only counts its tokens: from its body to the chat that vLLM makes of it, and from that
// to work for the engine, or to vLLM's refusal.
import { ApiError, anthropicError, badRequest, pythonText, validationError } from './errors.ts'
import { chatMessages, chatTools } from './message-conversation.ts'
import { messageIssues } from './message-schema.ts'
import {
  CHARS_PER_TOKEN_MAX,
  charactersOf,
  encodeMessages,
  fitPrompt,
  type ModelLimits,
  refuseLength,
  tooLong,
} from './prompt.ts'
import { complete, type GenerationRequest, refuseModel, refuseSalt } from './request.ts'
import { type Body, type MemberType, parseBody } from './schema.ts'
import { toolAnswer } from './tool-answer.ts'

const COUNT_MEMBERS = {
  model: 'string',
  messages: 'list',
  output_config: 'object',
  system: 'any',
  thinking: 'object',
  tool_choice: 'any',
  tools: 'list',
  chat_template_kwargs: 'object',
} as const satisfies Record<string, MemberType>

const MEMBERS = {
  model: 'string',
  messages: 'list',
  max_tokens: 'integer',
  metadata: 'object',
  output_config: 'object',
  thinking: 'object',
  stop_sequences: 'list',
  stream: 'boolean',
  system: 'any',
  temperature: 'number',
  tool_choice: 'any',
  tools: 'list',
  top_k: 'integer',
  top_p: 'number',
  cache_salt: 'string',
  vllm_xargs: 'object',
  chat_template_kwargs: 'object',
} as const satisfies Record<string, MemberType>

const NO_THINKING_BUDGET =
  'thinking_token_budget is set but reasoning_config is not configured. Please set --reasoning-parser and/or --reasoning-config to use thinking_token_budget.'

/** A message to be generated. Refusals are worded as the dialect words them. */
export function parseMessage(text: string, limits: ModelLimits): GenerationRequest | ApiError {
  const request = understand(text, limits)
  return request instanceof ApiError ? anthropicError(request) : request
}

/** How many tokens the prompt of a message has. */
export function parseMessageCount(text: string, limits: ModelLimits): number | ApiError {
  const body = parseBody(text, COUNT_MEMBERS, ['model', 'messages'])
  const chat = body instanceof ApiError ? body : chatOf(body, limits)
  const tokenIds = chat instanceof ApiError ? chat : promptOf(chat, limits)
  if (tokenIds instanceof ApiError) return anthropicError(tokenIds)
  const refusal = refuseLength(tokenIds, limits.maxModelLen, false)
  return refusal ? anthropicError(refusal) : tokenIds.length
}

function understand(text: string, limits: ModelLimits): GenerationRequest | ApiError {
  const body = parseBody(text, MEMBERS, ['model', 'messages', 'max_tokens'])
  if (body instanceof ApiError) return body
  const chat = chatOf(body, limits)
  if (chat instanceof ApiError) return chat
  const tokenIds = promptOf(chat, limits)
  if (tokenIds instanceof ApiError) return tokenIds
  const prompt = fitPrompt(tokenIds, body.max_tokens as number, limits, false, 'max_completion_tokens')
  if (prompt instanceof ApiError) return prompt
  const tool = toolAnswer(chat)
  if (tool instanceof ApiError) return tool
  const settled = {
    api: 'message',
    prompts: [prompt],
    echo: false,
    promptOnly: false,
    tool,
    logprobs: undefined,
  } as const
  const request = complete(chat, limits, settled)
  if (request instanceof ApiError) return request
  return (body.thinking as Body | null | undefined)?.type === 'enabled' ? badRequest(NO_THINKING_BUDGET) : request
}

/** The request in the words of a chat. What vLLM's own type of a message does not know goes no further. */
function chatOf(body: Body, limits: ModelLimits): Body | ApiError {
  const issues = messageIssues(body)
  if (issues.length > 0) return validationError(issues)
  const tools = chatTools(body)
  if (tools instanceof ApiError) return tools
  const { model, stream, temperature, top_k, top_p, cache_salt, vllm_xargs } = body
  const refusal = refuseModel(body, limits) ?? refuseSalt(body)
  if (refusal) return refusal
  const choice = choiceOf(body.tool_choice, tools ?? [])
  if (choice instanceof ApiError) return choice
  return {
    ...{ model, stream, temperature, top_k, top_p, cache_salt, vllm_xargs },
    stop: body.stop_sequences,
    messages: chatMessages(body, limits.systemFirst),
    tools: tools ?? null,
    tool_choice: choice,
    response_format: formatOf(body.output_config),
    chat_template_kwargs: templateVariables(body),
  }
}

function promptOf(chat: Body, limits: ModelLimits): readonly number[] | ApiError {
  if (charactersOf(chat.messages) > limits.maxModelLen * CHARS_PER_TOKEN_MAX) return tooLong(limits)
  return encodeMessages(chat, limits, false)
}

/** A choice among no tools is none. */
function choiceOf(choice: unknown, tools: readonly Body[]): unknown | ApiError {
  const { type, name } = (choice ?? {}) as { readonly type?: string; readonly name?: string }
  if (tools.length === 0) return null
  if (type === 'any') return 'required'
  if (type !== 'tool') return type === 'none' ? 'none' : 'auto'
  if (tools.some((tool) => (tool.function as Body).name === name)) return { type: 'function', function: { name } }
  return badRequest(`The tool with name ${pythonText(name ?? '')} is not found in the tools list.`)
}

function formatOf(config: unknown): Body | null {
  const format = (config as { readonly format?: Body | null } | null | undefined)?.format
  return format?.schema ? { type: 'json_schema', json_schema: { schema: format.schema } } : null
}

/**
 * The effort is said to the template, and whether there is to be any thinking where the caller does not say so itself.
 * (`build_chat_params`, 0.32)
 */
function templateVariables({ thinking, output_config: config, chat_template_kwargs: given }: Body): Body | null {
  const isOff = (thinking as Body | null | undefined)?.type === 'disabled'
  const effort = isOff ? 'none' : (config as Body | null | undefined)?.effort
  if (effort === undefined || effort === null) return given as Body | null
  return { enable_thinking: effort !== 'none', ...(given as Body | null), reasoning_effort: effort }
}
