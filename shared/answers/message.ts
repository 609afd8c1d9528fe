// Messages: Anthropic's /v1/messages, as vLLM 0.32 answers it (vllm/entrypoints/anthropic/serving.py). The input of tools is
// held as text: its names are anybody's.
import { type AnswerForm, FOLDED_CHARS_MAX, type Fold, type Fresh, type KeptAnswer } from './answer-form.ts'
import { withoutFresh } from './choices.ts'
import { GrowingText } from './growing-text.ts'
import {
  canonicalText,
  elementsOf,
  ifKnown,
  isSaid,
  type JsonObject,
  listOf,
  membersOf,
  objectOf,
  parseObject,
  refuseOthers,
  textOf,
  unknown,
  withMembers,
} from './json.ts'

const STOP_REASONS: readonly unknown[] = ['end_turn', 'max_tokens', 'stop_sequence', 'tool_use']
const KNOWN = new Set(['id', 'type', 'role', 'content', 'model', 'stop_reason', 'stop_sequence', 'usage'])
const BLOCK_KNOWN: ReadonlyMap<unknown, ReadonlySet<string>> = new Map([
  ['text', new Set(['type', 'text'])],
  ['thinking', new Set(['type', 'thinking', 'signature'])],
  ['tool_use', new Set(['type', 'id', 'name', 'input'])],
])
const EVENT_KNOWN = new Set(['type', 'message', 'index', 'content_block', 'delta', 'usage'])
const END_KNOWN = new Set(['stop_reason', 'stop_sequence'])
/** What a block costs besides its text. */
const BLOCK_CHARS = 64

export const messageForm: AnswerForm = {
  createFold: createMessageFold,
  read: (json) => ifKnown(() => readMessage(json)),
  toJson: (kept, fresh) => withMembers(idOf(fresh), kept),
  toEvents(kept, fresh) {
    const { content: _, stop_reason, stop_sequence = null, usage, ...rest } = parseObject(kept)
    const start = {
      ...idOf(fresh),
      ...rest,
      content: [],
      stop_reason: null,
      stop_sequence: null,
      usage: atStart(usage as JsonObject),
    }
    return [
      eventOf({ type: 'message_start', message: start }),
      ...elementsOf(membersOf(kept).get('content')).flatMap(blockEvents),
      eventOf({ type: 'message_delta', delta: { stop_reason, stop_sequence }, usage }),
      eventOf({ type: 'message_stop' }),
    ].join('')
  },
}

function idOf({ id }: Fresh): JsonObject {
  return { id: `chatcmpl-${id}` }
}

/** Throws for a message that is not whole, or holds what is not known. */
function readMessage(json: string): KeptAnswer {
  if (json.length > FOLDED_CHARS_MAX) unknown('too long')
  const message = parseObject(json)
  refuseOthers(message, KNOWN)
  if (message.type !== 'message' || !STOP_REASONS.includes(message.stop_reason)) unknown('no whole message')
  objectOf(message.usage, 'usage')
  const blocks = listOf(message.content, 'content').map((block) => objectOf(block, 'block'))
  for (const block of blocks) {
    refuseOthers(block, BLOCK_KNOWN.get(block.type) ?? unknown('block'))
    if (block.type === 'text') textOf(block.text, 'text')
    if (block.type === 'thinking') textOf(block.thinking, 'thinking')
    if (isSaid(block.signature)) textOf(block.signature, 'signature')
    if (block.type === 'tool_use') objectOf(block.input, 'input')
  }
  return { json: withoutFresh(json, ['id']), callsTools: blocks.some(({ type }) => type === 'tool_use') }
}

type GrowingBlock = { readonly start: JsonObject; readonly text: GrowingText; signature: string | undefined }

function createMessageFold(): Fold {
  let head: JsonObject | undefined
  let blocks: GrowingBlock[] = []
  /** The last one is being told. */
  let open = false
  let delta: JsonObject | undefined
  let usage: JsonObject = {}
  let ended = false
  let failed = false
  let chars = 0

  function take(data: string): void {
    if (data.length > FOLDED_CHARS_MAX) unknown('too long')
    takeEvent(data)
    if (chars > FOLDED_CHARS_MAX) unknown('too long')
  }

  function takeEvent(data: string): void {
    const event = parseObject(data)
    refuseOthers(event, EVENT_KNOWN)
    if (ended) unknown('something after the end')
    if (event.type === 'ping') return
    if (!head !== (event.type === 'message_start')) unknown('another start')
    switch (event.type) {
      case 'message_start':
        head = objectOf(event.message, 'message')
        refuseOthers(head, KNOWN)
        if (isSaid(head.content)) unknown('content at the start')
        usage = objectOf(head.usage ?? {}, 'usage')
        return
      case 'content_block_start':
        if (open || delta || event.index !== blocks.length) unknown('block index')
        blocks.push({ start: objectOf(event.content_block, 'block'), text: new GrowingText(), signature: undefined })
        chars += BLOCK_CHARS + data.length
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
        refuseOthers(delta, END_KNOWN)
        usage = { ...usage, ...objectOf(event.usage, 'usage') }
        return
      case 'message_stop':
        if (!delta) unknown('an end before its time')
        ended = true
        return
      default:
        unknown('another event')
    }
  }

  function takeDelta(told: JsonObject, index: unknown): void {
    const block = blocks.at(-1)
    if (!block || !open || index !== blocks.length - 1) unknown('block index')
    const { ofBlock, member } = DELTAS.get(told.type) ?? unknown('delta')
    if (block.start.type !== ofBlock) unknown('delta')
    for (const name in told) if (name !== 'type' && name !== member && isSaid(told[name])) unknown(name)
    const piece = textOf(told[member], member)
    if (member === 'signature') block.signature = (block.signature ?? '') + piece
    else block.text.add(piece)
    chars += piece.length
  }

  function whole(): KeptAnswer {
    const { role, model } = head ?? unknown('no start')
    const { stop_reason, stop_sequence } = delta ?? unknown('no end')
    const end = { model, stop_reason, ...(isSaid(stop_sequence) && { stop_sequence }), usage }
    // vLLM never answers without a block.
    const content = blocks.length > 0 ? blocks.map(wholeBlock).join(',') : '{"type":"text","text":""}'
    const begin = JSON.stringify({ type: 'message', role }).slice(0, -1)
    return readMessage(`${begin},"content":[${content}],${JSON.stringify(end).slice(1)}`)
  }

  return {
    push(data) {
      if (failed) return
      failed = ifKnown(() => take(data) ?? true) === undefined
      if (!failed) return
      head = undefined
      blocks = []
    },
    end: () => (failed || !ended ? undefined : ifKnown(whole)),
  }
}

const DELTAS: ReadonlyMap<unknown, { readonly ofBlock: string; readonly member: string }> = new Map([
  ['text_delta', { ofBlock: 'text', member: 'text' }],
  ['thinking_delta', { ofBlock: 'thinking', member: 'thinking' }],
  ['signature_delta', { ofBlock: 'thinking', member: 'signature' }],
  ['input_json_delta', { ofBlock: 'tool_use', member: 'partial_json' }],
])

function wholeBlock({ start, text: grown, signature }: GrowingBlock): string {
  const text = grown.text()
  switch (start.type) {
    case 'text':
      return JSON.stringify({ ...start, text: textOf(start.text ?? '', 'text') + text })
    case 'thinking': {
      const signed =
        signature === undefined ? {} : { signature: textOf(start.signature ?? '', 'signature') + signature }
      return JSON.stringify({ ...start, thinking: textOf(start.thinking ?? '', 'thinking') + text, ...signed })
    }
    default: {
      const { input, ...rest } = start
      if (text !== '' && Object.keys(objectOf(input ?? {}, 'input')).length > 0) unknown('two inputs')
      // Arguments that were cut are none: nobody can call with them.
      return `${JSON.stringify(rest).slice(0, -1)},"input":${text === '' ? JSON.stringify(input ?? {}) : canonicalText(text)}}`
    }
  }
}

/** Before anything is computed, vLLM counts the whole prompt and nothing else. */
function atStart(usage: JsonObject): JsonObject {
  const counts = [usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens]
  const input = counts.reduce<number>((sum, count) => sum + (typeof count === 'number' ? count : 0), 0)
  return { input_tokens: input, output_tokens: 0 }
}

function blockEvents(json: string, index: number): string[] {
  const block = parseObject(json)
  const event = (type: string, more: JsonObject) => eventOf({ type, ...more, index })
  const told = (type: string, member: string, text: unknown) =>
    isSaid(text) ? [event('content_block_delta', { delta: { type, [member]: text } })] : []
  const around = (start: JsonObject, between: readonly string[]) => [
    event('content_block_start', { content_block: start }),
    ...between,
    event('content_block_stop', {}),
  ]
  switch (block.type) {
    case 'text':
      return around({ ...block, text: '' }, told('text_delta', 'text', block.text))
    case 'thinking': {
      const { signature, ...rest } = block
      const signed = told('signature_delta', 'signature', signature)
      return around({ ...rest, thinking: '' }, [...told('thinking_delta', 'thinking', block.thinking), ...signed])
    }
    default:
      return around({ ...block, input: {} }, told('input_json_delta', 'partial_json', membersOf(json).get('input')))
  }
}

function eventOf(data: JsonObject): string {
  return `event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`
}
