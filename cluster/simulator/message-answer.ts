// The JSON of vLLM's /v1/messages, which it makes of a chat's: the whole answer, and the events of a stream.
import type { AnswerHead, Choice, StreamWriter, UsageCounts } from './answers.ts'
import type { GenerationRequest } from './request.ts'
import type { Finish } from './sequence.ts'
import { readCall, readCallDelta } from './tool-answer.ts'

/** What of a chat's usage ends in a message's: cached and newly cached tokens are no input any more. */
type MessageUsage = {
  readonly input_tokens: number
  readonly output_tokens: number
  readonly cache_creation_input_tokens?: number
  readonly cache_read_input_tokens?: number
}

/** The converter takes the chat's error for a chunk; what pydantic says of it is what the client reads. */
const FAILURE_WORDS = ['model', 'choices'].map(
  (member) =>
    `${member}\n  Field required [type=missing, input_value={'error': {'message': 'In...am': None, 'code': 500}}, input_type=dict]\n    For further information visit https://errors.pydantic.dev/2.14/v/missing`,
)

/** The last event of a stream whose engine failed; no message_stop comes after it. */
export const MESSAGE_FAILURE_EVENT = messageEvent({
  type: 'error',
  error: {
    type: 'internal_error',
    message: `2 validation errors for ChatCompletionStreamResponse\n${FAILURE_WORDS.join('\n')}`,
  },
})

/** The whole answer. Members without a value are left out. */
export function messageBody(
  { id }: AnswerHead,
  request: GenerationRequest,
  choices: readonly Choice[],
  usage: UsageCounts,
): unknown {
  const [choice] = choices
  if (!choice) throw new Error('a message has one choice')
  const call = request.tool && readCall(request.tool, choice.text)
  const content = call?.isComplete
    ? { type: 'tool_use', id: choice.toolCallId, name: request.tool?.name, input: JSON.parse(call.argumentsJson) }
    : { type: 'text', text: choice.text }
  const complete = call?.isComplete === true
  // A chat that had to call ends with "tool_calls", whatever was said.
  const used = complete || request.tool?.named === false
  const { reason, sequence } = stopOf(choice.finish, used, complete)
  return {
    id,
    type: 'message',
    role: 'assistant',
    content: [content],
    model: request.model,
    ...(reason === null ? {} : { stop_reason: reason }),
    ...(sequence === null ? {} : { stop_sequence: sequence }),
    usage: usageOf(usage),
  }
}

/** Writes a message's stream. */
export function createMessageWriter({ id }: AnswerHead, request: GenerationRequest): StreamWriter {
  const { tool, model } = request
  let isOpen = false
  let choice: Choice | undefined
  const open = (block: unknown) => {
    isOpen = true
    return messageEvent({ type: 'content_block_start', content_block: block, index: 0 })
  }
  const delta = (told: unknown) => messageEvent({ type: 'content_block_delta', delta: told, index: 0 })

  return {
    opening: (opened) => {
      choice = opened
      const usage = { input_tokens: request.prompts[0]?.tokenIds.length ?? 0, output_tokens: 0 }
      const head = {
        id,
        type: 'message',
        role: 'assistant',
        content: [],
        model,
        stop_reason: null,
        stop_sequence: null,
      }
      return messageEvent({ type: 'message_start', message: { ...head, usage } })
    },
    token: ({ choice: { text: said, toolCallId }, text }) => {
      if (!tool) {
        if (text === '') return ''
        return (isOpen ? '' : open({ type: 'text', text: '' })) + delta({ type: 'text_delta', text })
      }
      const { startsNow, argumentsJson } = readCallDelta(tool, said, text.length)
      const start = startsNow ? open({ type: 'tool_use', id: toolCallId, name: tool.name, input: {} }) : ''
      if (argumentsJson === '') return start
      return start + delta({ type: 'input_json_delta', partial_json: argumentsJson })
    },
    end: (usage) => {
      const used = tool !== undefined && isOpen
      const complete = used && readCall(tool, choice?.text ?? '').argumentsJson === tool.argumentsJson
      const { reason, sequence } = stopOf(choice?.finish, used, complete)
      return (
        (isOpen ? messageEvent({ type: 'content_block_stop', index: 0 }) : '') +
        messageEvent({
          type: 'message_delta',
          delta: { stop_reason: reason, stop_sequence: sequence },
          usage: usageOf(usage),
        }) +
        messageEvent({ type: 'message_stop' })
      )
    },
  }
}

/** Why it ended: max_tokens above all, a complete call above the stop string that ended it. */
function stopOf(
  finish: Finish | undefined,
  isCall: boolean,
  isCompleteCall: boolean,
): { readonly reason: string | null; readonly sequence: string | null } {
  if (finish?.reason === 'length') return { reason: 'max_tokens', sequence: null }
  if (finish?.reason !== 'stop') return { reason: null, sequence: null }
  if (isCompleteCall) return { reason: 'tool_use', sequence: null }
  if (typeof finish.stopReason === 'string') return { reason: 'stop_sequence', sequence: finish.stopReason }
  return { reason: isCall ? 'tool_use' : 'end_turn', sequence: null }
}

function usageOf({ promptTokens, completionTokens, caching, withDetails }: UsageCounts): MessageUsage {
  if (!withDetails) return { input_tokens: promptTokens, output_tokens: completionTokens }
  const { cachedTokens, createdTokens } = caching
  return {
    input_tokens: Math.max(0, promptTokens - cachedTokens - createdTokens),
    output_tokens: completionTokens,
    cache_creation_input_tokens: createdTokens,
    cache_read_input_tokens: cachedTokens,
  }
}

function messageEvent(event: { readonly type: string; readonly [member: string]: unknown }): string {
  return `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`
}
