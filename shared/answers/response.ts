// Responses: /v1/responses, as vLLM 0.32 answers it (vllm/entrypoints/openai/responses/streaming_events.py). The last event of
// a stream holds the whole answer.
import { canonicaliseBody } from '../canonical-body.ts'
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

const COMPLETED = 'response.completed'
/** None of the others that a stream may hold ends it, or says that it failed. */
const ENDS = /"type":\s*"(?:response\.(?:completed|incomplete|failed|cancelled)|error)"|"error":\s*\{/

export const responseForm: AnswerForm = {
  createFold: createResponseFold,
  read: (json) => ifKnown(() => readResponse(json)),
  toJson: (kept, fresh) => withMembers(idOf(fresh), kept),
  toEvents(kept, fresh) {
    const whole = { ...idOf(fresh), ...parseObject(kept) }
    const begun = { ...whole, status: 'in_progress', output: [], usage: null, incomplete_details: null }
    const output = whole.output as readonly JsonObject[]
    const events: JsonObject[] = [
      { response: begun, type: 'response.created' },
      { response: begun, type: 'response.in_progress' },
      ...output.flatMap(itemEvents),
      { response: whole, type: COMPLETED },
    ]
    return events
      .map((event, number) => ({ ...event, sequence_number: number }))
      .map((event) => `event: ${(event as JsonObject).type}\ndata: ${JSON.stringify(event)}\n\n`)
      .join('')
  },
}

function idOf({ id, createdSeconds }: Fresh): JsonObject {
  return { id: `resp_${id}`, created_at: createdSeconds }
}

function createResponseFold(): Fold {
  let kept: KeptAnswer | undefined
  let over = false
  return {
    push(data) {
      // What comes after the end was not to come.
      if (over) kept = undefined
      else if (ENDS.test(data)) {
        over = true
        kept = ifKnown(() => readResponse(responseOf(data)))
      }
    },
    end: () => kept,
  }
}

/** The answer in a stream's last event, as it was written. */
function responseOf(data: string): string {
  const event = canonicaliseBody(data)
  if (!event.ok || event.members.get('type') !== `"${COMPLETED}"`) unknown('another end')
  return event.members.get('response') ?? unknown('no response')
}

function readResponse(json: string): KeptAnswer {
  if (json.length > FOLDED_CHARS_MAX) unknown('too long')
  const { object, status, error, incomplete_details, usage, output, ...others } = parseObject(json)
  const isWhole = status === 'completed' || (status === 'incomplete' && isCutByLength(incomplete_details))
  if (object !== 'response' || !isWhole || isSaid(error) || !isSaid(usage)) unknown('no whole response')
  // Raw token ids and what engines hand each other are told at other places of a stream.
  const { input_messages, output_messages, kv_transfer_params, ec_transfer_params } = others
  if ([input_messages, output_messages, kv_transfer_params, ec_transfer_params].some(isSaid)) unknown('raw messages')
  const items = listOf(output, 'output').map((item) => objectOf(item, 'item'))
  for (const item of items) readItem(item)
  const callsTools = items.some(({ type }) => type === 'function_call')
  return { json: withoutFresh(json, ['id', 'created_at']), callsTools }
}

/** The limit is in the request: asked again, the answer would be cut again. */
function isCutByLength(details: unknown): boolean {
  return (details as JsonObject | null | undefined)?.reason === 'max_output_tokens'
}

const ITEM_KNOWN: Readonly<Record<string, ReadonlySet<string>>> = {
  message: new Set(['id', 'content', 'role', 'status', 'type', 'phase']),
  function_call: new Set(['id', 'arguments', 'call_id', 'name', 'type', 'status']),
  reasoning: new Set(['id', 'summary', 'content', 'type', 'status']),
}
const PART_KNOWN = new Set(['annotations', 'text', 'type', 'logprobs'])

/** Throws for an item that could not be told as events. */
function readItem(item: JsonObject): void {
  refuseOthers(item, ITEM_KNOWN[String(item.type)] ?? unknown('item'))
  textOf(item.id, 'item id')
  if (item.type === 'function_call') return void textOf(item.arguments, 'arguments')
  if (isSaid(item.summary)) unknown('summary')
  const wanted = item.type === 'message' ? 'output_text' : 'reasoning_text'
  for (const one of listOf(item.content ?? [], 'content')) {
    const part = objectOf(one, 'part')
    refuseOthers(part, PART_KNOWN)
    textOf(part.text, 'text')
    if (part.type !== wanted || isSaid(part.annotations)) unknown('part')
  }
}

function itemEvents(item: JsonObject, output_index: number): JsonObject[] {
  const item_id = item.id
  const between = item.type === 'function_call' ? callEvents(item) : partEvents(item)
  const empty = item.type === 'function_call' ? { arguments: '' } : item.type === 'message' ? { content: [] } : {}
  const begun = { ...item, ...empty, status: 'in_progress' }
  if (item.type === 'reasoning') Object.assign(begun, { content: null })
  return [
    { item: begun, output_index, type: 'response.output_item.added' },
    ...between.map((event) => ({ ...event, item_id, output_index })),
    { item, output_index, type: 'response.output_item.done' },
  ]
}

function callEvents({ arguments: given, name }: JsonObject): JsonObject[] {
  return [
    ...(given === '' ? [] : [{ delta: given, type: 'response.function_call_arguments.delta' }]),
    { arguments: given, type: 'response.function_call_arguments.done', name },
  ]
}

function partEvents({ type, content }: JsonObject): JsonObject[] {
  const text = type === 'message'
  const kind = text ? 'response.output_text' : 'response.reasoning_text'
  return ((content ?? []) as readonly JsonObject[]).flatMap((part, content_index) => {
    const empty = text ? { annotations: [], text: '', type: part.type, logprobs: [] } : { text: '', type: part.type }
    const logprobs = text ? { logprobs: isSaid(part.logprobs) ? part.logprobs : [] } : {}
    const done = text ? { logprobs: [] } : {}
    return [
      { content_index, part: empty, type: 'response.content_part.added' },
      ...(part.text === '' ? [] : [{ content_index, delta: part.text, ...logprobs, type: `${kind}.delta` }]),
      { content_index, text: part.text, ...done, type: `${kind}.done` },
      { content_index, part, type: 'response.content_part.done' },
    ]
  })
}
