// The JSON of vLLM's answers and stream chunks: member order and null members are part of what clients see. A chunk is
// put together from parts prepared once for the stream, because a pod sends thousands a second.
import type { Logprobs } from './logprobs.ts'
import type { GenerationRequest } from './request.ts'
import type { Finish, PromptCaching } from './sequence.ts'
import { readCall, readCallDelta } from './tool-answer.ts'

export type AnswerHead = {
  readonly id: string
  readonly createdSeconds: number
  readonly systemFingerprint: string
}

/** What became of one choice. */
export type Choice = {
  readonly index: number
  text: string
  readonly tokenIds: number[]
  finish: Finish | undefined
  /** Used where the answer is a call. */
  readonly toolCallId: string
}

export type UsageCounts = {
  readonly promptTokens: number
  readonly completionTokens: number
  readonly caching: PromptCaching
  /** Whether chats and completions tell of the cache (`--enable-prompt-tokens-details`). */
  readonly withDetails: boolean
}

export const STREAM_END = 'data: [DONE]\n\n'

/** The whole answer to a request that is not streamed. */
export function answerBody(
  head: AnswerHead,
  request: GenerationRequest,
  choices: readonly Choice[],
  usage: UsageCounts,
  logprobs: Logprobs | undefined,
): unknown {
  const tail = {
    service_tier: null,
    system_fingerprint: head.systemFingerprint,
    usage: {
      ...usageCounts(usage),
      prompt_tokens_details: usage.withDetails
        ? {
            cached_tokens: usage.caching.cachedTokens,
            // Completions do not tell.
            created_cache_tokens: request.api === 'chat' ? usage.caching.createdTokens : null,
            multimodal_tokens: null,
          }
        : null,
      completion_tokens_details: null,
    },
  }
  const transfer = { kv_transfer_params: null, ec_transfer_params: null, metrics: null }
  const { id, createdSeconds: created } = head
  if (request.api === 'completion') {
    return {
      id,
      object: 'text_completion',
      created,
      model: request.model,
      choices: choices.map((choice) => completionChoice(request, choice, logprobs)),
      ...tail,
      ...transfer,
    }
  }
  return {
    id,
    object: 'chat.completion',
    created,
    model: request.model,
    choices: choices.map((choice) => chatChoice(request, choice, logprobs)),
    ...tail,
    prompt_logprobs: null,
    prompt_token_ids: request.returnTokenIds ? request.prompts[0]?.tokenIds : null,
    prompt_text: null,
    ...transfer,
  }
}

function completionChoice(request: GenerationRequest, choice: Choice, logprobs: Logprobs | undefined): unknown {
  const { index, text, tokenIds, finish } = choice
  return {
    index,
    text,
    logprobs: logprobs?.completion(textTokens(request, choice, tokenIds), 0, 0, request.echo) ?? null,
    finish_reason: finish?.reason ?? null,
    stop_reason: finish?.stopReason ?? null,
    token_ids: request.returnTokenIds ? tokenIds : null,
    prompt_logprobs: null,
    prompt_token_ids: request.returnTokenIds ? promptOfChoice(request, index) : null,
    routed_experts: null,
  }
}

/** The tokens of a completion's text, which may begin with its prompt and may be only that. */
function textTokens(request: GenerationRequest, { index }: Choice, said: readonly number[]): readonly number[] {
  const prompt = request.echo ? (promptOfChoice(request, index) ?? []) : []
  return request.promptOnly ? prompt : [...prompt, ...said]
}

function chatChoice(request: GenerationRequest, choice: Choice, logprobs: Logprobs | undefined): unknown {
  const { tool } = request
  const { index, text, tokenIds, finish, toolCallId } = choice
  const read = tool && readCall(tool, text)
  const call = read?.isComplete && {
    id: toolCallId,
    type: 'function',
    function: { name: tool?.name, arguments: read.argumentsJson },
  }
  return {
    index,
    message: {
      role: 'assistant',
      content: call ? '' : text,
      refusal: null,
      annotations: null,
      audio: null,
      function_call: null,
      ...(call ? { tool_calls: [call] } : {}),
      reasoning: null,
    },
    logprobs: logprobs?.chat(tokenIds, 0) ?? null,
    finish_reason: finish ? chatFinishReason(request, finish, true) : null,
    stop_reason: finish?.stopReason ?? null,
    token_ids: request.returnTokenIds ? tokenIds : null,
    routed_experts: null,
  }
}

/**
 * Only a call demanded by "required" ends with "tool_calls": one demanded by name ends as the text of it did. A stream must
 * have told of a call as well.
 */
function chatFinishReason({ tool }: GenerationRequest, { reason }: Finish, told: boolean): string {
  return tool && !tool.named && told && reason === 'stop' ? 'tool_calls' : reason
}

function promptOfChoice({ prompts, n }: GenerationRequest, index: number): readonly number[] | undefined {
  return prompts[Math.floor(index / n)]?.tokenIds
}

function usageCounts({ promptTokens, completionTokens }: Pick<UsageCounts, 'promptTokens' | 'completionTokens'>) {
  return {
    prompt_tokens: promptTokens,
    total_tokens: promptTokens + completionTokens,
    completion_tokens: completionTokens,
  }
}

export type StreamedToken = {
  readonly choice: Choice
  readonly text: string
  /** None where a choice ends without one. */
  readonly tokenIds: readonly number[]
  readonly finish: Finish | undefined
  /** Whether it is the choice's first. */
  readonly first: boolean
  /** Whether nothing but the usage comes after it. */
  readonly last: boolean
  /** Tokens that the choice has, with this one. */
  readonly completionTokens: number
}

export type StreamWriter = {
  /** What a choice begins with; empty when nothing comes before its first token. */
  readonly opening: (choice: Choice) => string
  /** Empty when there is nothing to tell of it. */
  readonly token: (token: StreamedToken) => string
  readonly end: (usage: UsageCounts) => string
}

/** Writes a request's stream in its API's shape. */
export function createStreamWriter(
  head: AnswerHead,
  request: GenerationRequest,
  logprobs: Logprobs | undefined,
): StreamWriter {
  const object = request.api === 'chat' ? 'chat.completion.chunk' : 'text_completion'
  const { id, createdSeconds: created } = head
  const start = `data: ${JSON.stringify({ id, object, created, model: request.model }).slice(0, -1)},"choices":[`
  const fingerprint = `,"system_fingerprint":${JSON.stringify(head.systemFingerprint)}`
  const usageSoFar = (choice: Choice, completionTokens: number) => {
    if (!request.continuousUsage) return ''
    const promptTokens = promptOfChoice(request, choice.index)?.length ?? 0
    const counts = usageCounts({ promptTokens, completionTokens })
    return `,"usage":${JSON.stringify({ ...counts, completion_tokens_details: null })}`
  }
  const choiceOf = request.api === 'chat' ? chatChunkChoice : completionChunkChoice
  const logprobsOf = logprobs === undefined ? () => 'null' : createLogprobsWriter(request, logprobs)
  return {
    opening: (choice) => {
      if (request.api === 'completion') return ''
      const delta = `{"index":${choice.index},"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}`
      const promptIds = request.returnTokenIds ? JSON.stringify(promptOfChoice(request, choice.index)) : 'null'
      const usage = usageSoFar(choice, 0)
      return `${start}${delta}]${usage},"prompt_token_ids":${promptIds},"prompt_text":null}\n\n`
    },
    token: (token) => {
      const usage = usageSoFar(token.choice, token.completionTokens)
      // The fingerprint comes once, in the stream's last chunk.
      const end = token.last && !request.includeUsage ? fingerprint : ''
      const choice = choiceOf(request, token, logprobsOf(token))
      return choice === undefined ? '' : `${start}${choice}]${usage}${end}}\n\n`
    },
    end: (usage) => {
      if (!request.includeUsage) return STREAM_END
      const { cachedTokens, createdTokens } = usage.caching
      const counts = {
        ...usageCounts(usage),
        ...(usage.withDetails && {
          prompt_tokens_details: {
            cached_tokens: cachedTokens,
            ...(request.api === 'chat' ? { created_cache_tokens: createdTokens } : {}),
          },
        }),
      }
      return `${start}],"usage":${JSON.stringify(counts)}${fingerprint}}\n\n${STREAM_END}`
    },
  }
}

/** Writes each token's member; a completion's remembers where in its choice's text it is. */
function createLogprobsWriter(request: GenerationRequest, logprobs: Logprobs): (token: StreamedToken) => string {
  const said = new Map<number, { readonly tokens: number; readonly offset: number }>()
  return ({ choice, tokenIds, first, completionTokens }) => {
    if (tokenIds.length === 0) return 'null'
    if (request.api === 'chat') return JSON.stringify(logprobs.chat(tokenIds, completionTokens - tokenIds.length))
    const before = said.get(choice.index) ?? { tokens: 0, offset: 0 }
    const ids = first ? textTokens(request, choice, tokenIds) : tokenIds
    said.set(choice.index, {
      tokens: before.tokens + ids.length,
      offset: logprobs.offsetAfter(ids, before.offset),
    })
    return JSON.stringify(logprobs.completion(ids, before.tokens, before.offset, request.echo))
  }
}

/** Undefined where a token only leads to a call, and nobody asked for the tokens themselves. */
function chatChunkChoice(request: GenerationRequest, token: StreamedToken, logprobs: string): string | undefined {
  const { choice, finish, tokenIds } = token
  const delta = chatDelta(request, token)
  if (delta === '{}' && !finish && logprobs === 'null' && !request.returnTokenIds) return undefined
  const ids = request.returnTokenIds ? `[${tokenIds}]` : 'null'
  const told = request.tool !== undefined && readCall(request.tool, choice.text).isNamed
  const ending = finish
    ? `"finish_reason":"${chatFinishReason(request, finish, told)}","stop_reason":${JSON.stringify(finish.stopReason)}`
    : '"finish_reason":null'
  return `{"index":${choice.index},"delta":${delta},"logprobs":${logprobs},${ending},"token_ids":${ids}}`
}

function chatDelta({ tool }: GenerationRequest, { choice, text }: StreamedToken): string {
  if (!tool) return `{"content":${JSON.stringify(text)}}`
  const { startsNow, argumentsJson } = readCallDelta(tool, choice.text, text.length)
  const calls: string[] = []
  if (startsNow) {
    const called = JSON.stringify({ name: tool.name })
    calls.push(`{"id":"${choice.toolCallId}","type":"function","index":0,"function":${called}}`)
  }
  if (argumentsJson !== '') calls.push(`{"index":0,"function":{"arguments":${JSON.stringify(argumentsJson)}}}`)
  return calls.length === 0 ? '{}' : `{"content":null,"tool_calls":[${calls.join(',')}]}`
}

function completionChunkChoice(request: GenerationRequest, token: StreamedToken, logprobs: string): string {
  const { choice, text, finish, tokenIds, first } = token
  const ids = request.returnTokenIds ? `[${tokenIds}]` : 'null'
  const promptIds = request.returnTokenIds && first ? JSON.stringify(promptOfChoice(request, choice.index)) : 'null'
  const reason = finish ? `"${finish.reason}"` : 'null'
  const stopReason = JSON.stringify(finish?.stopReason ?? null)
  return `{"index":${choice.index},"text":${JSON.stringify(text)},"logprobs":${logprobs},"finish_reason":${reason},"stop_reason":${stopReason},"prompt_token_ids":${promptIds},"token_ids":${ids}}`
}

/** An engine's failure after the head was sent, spaced as Python's json module does. */
export function errorEvent(body: unknown): string {
  return `data: ${pythonJson(body)}\n\n`
}

function pythonJson(value: unknown): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value)
  if (Array.isArray(value)) return `[${value.map(pythonJson).join(', ')}]`
  return `{${Object.entries(value)
    .map(([name, member]) => `${JSON.stringify(name)}: ${pythonJson(member)}`)
    .join(', ')}}`
}
