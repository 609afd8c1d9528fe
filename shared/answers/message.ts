// Messages: Anthropic's /v1/messages, as vLLM 0.32 answers it (vllm/entrypoints/anthropic/serving.py).
import { type AnswerForm, FOLDED_CHARS_MAX, type Fold, type Fresh, type KeptAnswer } from './answer-form.ts'
import { withoutFresh } from './choices.ts'
import {
  ifKnown,
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

const STOP_REASONS: readonly unknown[] = ['end_turn', 'max_tokens', 'stop_sequence', 'tool_use']
const KNOWN = new Set(['id', 'type', 'role', 'content', 'model', 'stop_reason', 'stop_sequence', 'usage'])
const BLOCK_KNOWN: Readonly<Record<string, ReadonlySet<string>>> = {
  text: new Set(['type', 'text']),
  thinking: new Set(['type', 'thinking', 'signature']),
  tool_use: new Set(['type', 'id', 'name', 'input']),
}

export const messageForm: AnswerForm = {
  createFold: createMessageFold,
  read: (json) =>
    ifKnown(() => {
      if (json.length > FOLDED_CHARS_MAX) unknown('too long')
      return { json: withoutFresh(json, ['id']), callsTools: readMessage(parseObject(json)) }
    }),
  toJson: (kept, fresh) => withMembers(idOf(fresh), kept),
  toEvents(kept, fresh) {
    const { content, stop_reason, stop_sequence = null, usage, ...rest } = parseObject(kept)
    const start = {
      ...idOf(fresh),
      ...rest,
      content: [],
      stop_reason: null,
      stop_sequence: null,
      usage: atStart(usage),
    }
    return [
      eventOf({ type: 'message_start', message: start }),
      ...(content as readonly JsonObject[]).flatMap(blockEvents),
      eventOf({ type: 'message_delta', delta: { stop_reason, stop_sequence }, usage }),
      eventOf({ type: 'message_stop' }),
    ].join('')
  },
}

function idOf({ id }: Fresh): JsonObject {
  return { id: `chatcmpl-${id}` }
}

/** Throws for a message that is not whole, or holds what is not known; tells whether it calls tools. */
function readMessage(message: JsonObject): boolean {
  refuseOthers(message, KNOWN)
  if (message.type !== 'message' || !STOP_REASONS.includes(message.stop_reason) || !isSaid(message.usage)) {
    unknown('no whole message')
  }
  const blocks = listOf(message.content, 'content').map((block) => objectOf(block, 'block'))
  for (const block of blocks) {
    refuseOthers(block, BLOCK_KNOWN[String(block.type)] ?? unknown('block'))
    if (block.type === 'text') textOf(block.text, 'text')
    if (block.type === 'thinking') textOf(block.thinking, 'thinking')
    if (block.type === 'tool_use') objectOf(block.input, 'input')
  }
  return blocks.some(({ type }) => type === 'tool_use')
}

type GrowingBlock = { readonly start: JsonObject; text: string; signature: string | undefined }

function createMessageFold(): Fold {
  let head: JsonObject | undefined
  const blocks: GrowingBlock[] = []
  /** The last one is being told. */
  let open = false
  let delta: JsonObject | undefined
  let usage: JsonObject = {}
  let ended = false
  let failed = false
  let chars = 0

  function take(event: JsonObject): void {
    if (ended) unknown('something after the end')
    switch (event.type) {
      case 'ping':
        return
      case 'message_start': {
        if (head) unknown('a second start')
        head = objectOf(event.message, 'message')
        refuseOthers(head, KNOWN)
        return
      }
      case 'content_block_start':
        if (open || event.index !== blocks.length) unknown('block index')
        blocks.push({ start: objectOf(event.content_block, 'block'), text: '', signature: undefined })
        open = true
        return
      case 'content_block_delta':
        return takeDelta(objectOf(event.delta, 'delta'), event.index)
      case 'content_block_stop':
        if (!open || event.index !== blocks.length - 1) unknown('block index')
        open = false
        return
      case 'message_delta':
        if (open || delta) unknown('an end before its time')
        delta = objectOf(event.delta, 'delta')
        usage = { ...usage, ...objectOf(event.usage, 'usage') }
        return
      case 'message_stop':
        if (!head || !delta) unknown('an end before its time')
        ended = true
        return
      default:
        unknown('another event')
    }
  }

  function takeDelta(told: JsonObject, index: unknown): void {
    const block = blocks.at(-1)
    if (!block || !open || index !== blocks.length - 1) unknown('block index')
    const name = DELTA_OF_BLOCK[String(told.type)]
    if (told.type === 'signature_delta') block.signature = (block.signature ?? '') + textOf(told.signature, 'signature')
    else if (!name || block.start.type !== name.block) unknown('delta')
    else {
      const piece = textOf(told[name.member], name.member)
      block.text += piece
      chars += piece.length
    }
  }

  function fold(): KeptAnswer {
    const { role, model } = head ?? unknown('no start')
    const { stop_reason, stop_sequence } = delta ?? unknown('no end')
    const message = {
      type: 'message',
      role,
      content: blocks.map(wholeBlock),
      model,
      stop_reason,
      ...(isSaid(stop_sequence) && { stop_sequence }),
      usage,
    }
    return { callsTools: readMessage(message), json: JSON.stringify(message) }
  }

  return {
    push(data) {
      if (failed) return
      failed = ifKnown(() => take(parseObject(data)) ?? true) === undefined || chars > FOLDED_CHARS_MAX
      if (failed) blocks.length = 0
    },
    end() {
      const kept = failed || !ended ? undefined : ifKnown(fold)
      return kept && kept.json.length <= FOLDED_CHARS_MAX ? kept : undefined
    },
  }
}

const DELTA_OF_BLOCK: Readonly<Record<string, { readonly block: string; readonly member: string }>> = {
  text_delta: { block: 'text', member: 'text' },
  thinking_delta: { block: 'thinking', member: 'thinking' },
  input_json_delta: { block: 'tool_use', member: 'partial_json' },
}

function wholeBlock({ start, text, signature }: GrowingBlock): JsonObject {
  switch (start.type) {
    case 'text':
      return { ...start, text: textOf(start.text ?? '', 'text') + text }
    case 'thinking':
      return {
        ...start,
        thinking: textOf(start.thinking ?? '', 'thinking') + text,
        ...(signature !== undefined && { signature }),
      }
    default:
      // Arguments that were cut are none: nobody can call with them.
      return { ...start, input: text === '' ? (start.input ?? {}) : parseObject(text) }
  }
}

/** Before anything is computed, vLLM counts the whole prompt and nothing else. */
function atStart(usage: unknown): JsonObject {
  const { input_tokens, cache_read_input_tokens, cache_creation_input_tokens } = usage as Record<string, number | null>
  const input = (input_tokens ?? 0) + (cache_read_input_tokens ?? 0) + (cache_creation_input_tokens ?? 0)
  return { input_tokens: input, output_tokens: 0 }
}

function blockEvents(block: JsonObject, index: number): string[] {
  const event = (type: string, more: JsonObject) => eventOf({ type, ...more, index })
  const deltas = (type: string, member: string, text: string) =>
    text === '' ? [] : [event('content_block_delta', { delta: { type, [member]: text } })]
  const around = (start: JsonObject, between: readonly string[]) => [
    event('content_block_start', { content_block: start }),
    ...between,
    event('content_block_stop', {}),
  ]
  switch (block.type) {
    case 'text':
      return around({ ...block, text: '' }, deltas('text_delta', 'text', block.text as string))
    case 'thinking': {
      const { signature, ...rest } = block
      const signed = isSaid(signature) ? deltas('signature_delta', 'signature', signature as string) : []
      const thought = deltas('thinking_delta', 'thinking', block.thinking as string)
      return around({ ...rest, thinking: '' }, [...thought, ...signed])
    }
    default: {
      const input = JSON.stringify(block.input)
      return around({ ...block, input: {} }, deltas('input_json_delta', 'partial_json', input === '{}' ? '' : input))
    }
  }
}

function eventOf(data: JsonObject): string {
  return `event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`
}
