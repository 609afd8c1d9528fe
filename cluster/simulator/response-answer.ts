// The JSON of vLLM's /v1/responses: an answer, whole or at any stage of its making, and the events of a stream.
import { randomBytes } from 'node:crypto'
import type { Choice, UsageCounts } from './answers.ts'
import type { Logprobs } from './logprobs.ts'
import type { ResponseRequest } from './response-request.ts'
import type { Body } from './schema.ts'
import type { Tokenizer } from './tokenizer.ts'
import { readCall, readCallDelta, type ToolAnswer } from './tool-answer.ts'

export type ResponseStatus = 'queued' | 'in_progress' | 'completed' | 'incomplete' | 'cancelled'

export type ResponseHead = { readonly id: string; readonly createdSeconds: number }

/** The whole answer. */
export function responseBody(
  head: ResponseHead,
  { generation, background, repeated, showMessages }: ResponseRequest,
  status: ResponseStatus,
  output: readonly Body[],
  usage: UsageCounts | undefined,
  messages: readonly [input: unknown, output: unknown] = [null, null],
): Body {
  return {
    id: head.id,
    created_at: head.createdSeconds,
    incomplete_details: status === 'incomplete' ? { reason: 'max_output_tokens' } : null,
    instructions: repeated.instructions,
    metadata: repeated.metadata,
    model: generation.model,
    object: 'response',
    output,
    parallel_tool_calls: repeated.parallelToolCalls,
    temperature: repeated.temperature,
    tool_choice: repeated.toolChoice,
    tools: repeated.tools,
    top_p: repeated.topP,
    background,
    max_output_tokens: generation.prompts[0]?.maxTokens,
    max_tool_calls: repeated.maxToolCalls,
    previous_response_id: repeated.previousResponseId ?? null,
    prompt: null,
    reasoning: repeated.reasoning,
    service_tier: repeated.serviceTier,
    status,
    text: repeated.text,
    top_logprobs: generation.logprobs ?? null,
    truncation: repeated.truncation,
    usage: usage ? usageBody(usage) : null,
    user: repeated.user,
    presence_penalty: repeated.presencePenalty,
    frequency_penalty: repeated.frequencyPenalty,
    kv_transfer_params: null,
    ec_transfer_params: null,
    input_messages: showMessages ? messages[0] : null,
    output_messages: showMessages ? messages[1] : null,
  }
}

/** Only counts of a single turn: vLLM leaves the lists empty. */
function usageBody({ promptTokens, completionTokens, caching }: UsageCounts): Body {
  return {
    input_tokens: promptTokens,
    input_tokens_details: {
      cached_tokens: caching.cachedTokens,
      cache_write_tokens: caching.createdTokens,
      input_tokens_per_turn: [],
      cached_tokens_per_turn: [],
    },
    output_tokens: completionTokens,
    output_tokens_details: {
      reasoning_tokens: 0,
      tool_output_tokens: 0,
      output_tokens_per_turn: [],
      tool_output_tokens_per_turn: [],
    },
    total_tokens: promptTokens + completionTokens,
  }
}

/** A prompt or an output with its token ids. */
export function rawMessage(tokenizer: Tokenizer, tokenIds: readonly number[], text?: string): readonly Body[] {
  return [{ message: text ?? tokenizer.decode(tokenIds), tokens: tokenIds, type: 'raw_message_tokens' }]
}

/** What was said, as the one item of an answer's output; it is the same in a stream and without one. */
export function createOutputItem(request: ResponseRequest, logprobs: Logprobs | undefined): OutputItem {
  const message = messageItem(logprobs)
  return request.generation.tool ? callItem(request.generation.tool, message) : message
}

export type OutputItem = {
  /** The answer's output once all is said; in a stream, what its events told of. */
  readonly items: (choice: Choice, streamed: boolean) => readonly Body[]
  /** Events of a token, whose text is the last of the choice's; their numbers are still to be set. */
  readonly told: (choice: Choice, text: string) => readonly Body[]
  /** The events after the last token. */
  readonly closing: (choice: Choice) => readonly Body[]
}

function messageItem(logprobs: Logprobs | undefined): OutputItem {
  const id = `msg_${randomBytes(8).toString('hex')}`
  const place = { output_index: 0 }
  const item = (status: string, content: readonly Body[]): Body => ({
    id,
    content,
    role: 'assistant',
    status,
    type: 'message',
    phase: null,
  })
  const toldOf = (choice: Choice) => (logprobs ? toldLogprobs(logprobs, choice.tokenIds, 0, true) : null)
  const part = (text: string, told: unknown): Body => ({ annotations: [], text, type: 'output_text', logprobs: told })
  const done = (choice: Choice) => item('completed', choice.text === '' ? [] : [part(choice.text, toldOf(choice))])
  const opening = (): readonly Body[] => [
    { item: item('in_progress', []), ...place, sequence_number: -1, type: 'response.output_item.added' },
    {
      content_index: 0,
      item_id: id,
      ...place,
      part: part('', []),
      sequence_number: -1,
      type: 'response.content_part.added',
    },
  ]
  let isOpen = false
  return {
    items: (choice, streamed) => (streamed && !isOpen ? [] : [done(choice)]),
    told: (choice, text) => {
      if (text === '') return []
      const delta = {
        content_index: 0,
        delta: text,
        item_id: id,
        logprobs: logprobs ? toldLogprobs(logprobs, choice.tokenIds.slice(-1), choice.tokenIds.length - 1, false) : [],
        ...place,
        sequence_number: -1,
        type: 'response.output_text.delta',
      }
      const before = isOpen ? [] : opening()
      isOpen = true
      return [...before, delta]
    },
    closing: (choice) =>
      isOpen
        ? [
            {
              content_index: 0,
              item_id: id,
              logprobs: [],
              ...place,
              sequence_number: -1,
              text: choice.text,
              type: 'response.output_text.done',
            },
            {
              content_index: 0,
              item_id: id,
              ...place,
              part: part(choice.text, toldOf(choice)),
              sequence_number: -1,
              type: 'response.content_part.done',
            },
            { item: done(choice), ...place, sequence_number: -1, type: 'response.output_item.done' },
          ]
        : [],
  }
}

type ToldLogprob = {
  readonly token: string
  readonly bytes: unknown
  readonly logprob: number
  readonly top_logprobs?: readonly ToldLogprob[]
}

/** A chat's log probabilities in the order of this API; a delta leaves the bytes out. */
function toldLogprobs(logprobs: Logprobs, tokenIds: readonly number[], position: number, withBytes: boolean): unknown {
  const { content } = logprobs.chat(tokenIds, position) as { readonly content: readonly ToldLogprob[] }
  const tell = ({ token, bytes, logprob }: ToldLogprob) => ({ token, ...(withBytes ? { bytes } : {}), logprob })
  return content.map((told) => ({ ...tell(told), top_logprobs: told.top_logprobs?.map(tell) }))
}

/** A call that is cut is one as far as it came in a stream, and a text without one. */
function callItem(tool: ToolAnswer, message: OutputItem): OutputItem {
  const { name } = tool
  const id = `fc_${randomBytes(8).toString('hex')}`
  const callId = `chatcmpl-tool-${randomBytes(8).toString('hex')}`
  const item = (status: string, json: string): Body => ({
    arguments: json,
    call_id: callId,
    name,
    type: 'function_call',
    id,
    async: null,
    caller: null,
    namespace: null,
    status,
  })
  const place = { output_index: 0, sequence_number: -1 }
  return {
    items: (choice, streamed) => {
      const { isNamed, isComplete, argumentsJson } = readCall(tool, choice.text)
      if (streamed ? isNamed : isComplete) return [item('completed', argumentsJson)]
      return streamed ? [] : message.items(choice, false)
    },
    told: (choice, text) => {
      const { startsNow, argumentsJson } = readCallDelta(tool, choice.text, text.length)
      const delta = { item_id: id, ...place, type: 'response.function_call_arguments.delta' }
      return [
        ...(startsNow ? [{ item: item('in_progress', ''), ...place, type: 'response.output_item.added' }] : []),
        ...(argumentsJson === '' ? [] : [{ delta: argumentsJson, ...delta }]),
      ]
    },
    closing: ({ text }) => {
      const { isNamed, argumentsJson } = readCall(tool, text)
      if (!isNamed) return []
      return [
        { arguments: argumentsJson, item_id: id, ...place, type: 'response.function_call_arguments.done', name },
        { item: item('completed', argumentsJson), ...place, type: 'response.output_item.done' },
      ]
    },
  }
}

/** An event as it is sent. */
export function responseEvent(event: Body, sequenceNumber: number): string {
  return `event: ${event.type}\ndata: ${JSON.stringify({ ...event, sequence_number: sequenceNumber })}\n\n`
}
