// Responses: /v1/responses, as vLLM 0.32 answers it (vllm/entrypoints/openai/responses/streaming_events.py). The last event of
// a stream holds the whole answer.
import { serialiseBody } from '../canonical-body.ts'
import { type AnswerForm, FOLDED_CHARS_MAX, type Fold, type Fresh, type KeptAnswer } from './answer-form.ts'
import {
  elementsOf,
  ifKnown,
  isObject,
  isSaid,
  type JsonObject,
  listOf,
  membersOf,
  objectOf,
  parseExactly,
  refuseOthers,
  textOf,
  unknown,
  withMembers,
} from './json.ts'

const COMPLETED = 'response.completed'
/** What may end a stream, or say that it failed; the names of a caller's tools may look like it. */
const MAY_END = /"type"\s*:\s*"(?:response\.(?:completed|incomplete|failed|cancelled)|error)"|"error"\s*:\s*[^\sn]/

export const responseForm: AnswerForm = {
  createFold: createResponseFold,
  read: (json) => ifKnown(() => readResponse(json)),
  toJson: (kept, fresh) => withMembers(idOf(fresh), serialiseBody(withFreshItems(kept, fresh))),
  toEvents(kept, fresh) {
    const whole = withFreshItems(kept, fresh)
    const begun = new Map([...whole, ...BEGUN])
    const toldAs = (members: ReadonlyMap<string, string>, type: string) => ({
      text: `{"response":${withMembers(idOf(fresh), serialiseBody(members))},`,
      type,
    })
    const items = (parseExactly(whole.get('output') as string) as readonly JsonObject[]).flatMap(itemEvents)
    const events = [
      toldAs(begun, 'response.created'),
      toldAs(begun, 'response.in_progress'),
      ...items.map(({ type, ...more }) => ({ text: `${JSON.stringify(more).slice(0, -1)},`, type })),
      toldAs(whole, COMPLETED),
    ]
    return events
      .map(({ text, type }, number) => `event: ${type}\ndata: ${text}"sequence_number":${number},"type":"${type}"}\n\n`)
      .join('')
  },
}

/** What a response has not yet while it begins. */
const BEGUN: readonly (readonly [name: string, text: string])[] = [
  ['status', '"in_progress"'],
  ['output', '[]'],
  ['usage', 'null'],
  ['incomplete_details', 'null'],
]

function idOf({ id, createdSeconds }: Fresh): JsonObject {
  return { id: `resp_${id}`, created_at: createdSeconds }
}

/** As vLLM begins them. */
const ITEM_ID: Readonly<Record<string, string>> = { message: 'msg', function_call: 'fc', reasoning: 'rs' }

/** Ids of items are an answer's own as its id is; those of calls are what results are told for, and stay. */
function withFreshItems(kept: string, { id }: Fresh): Map<string, string> {
  return withItems(membersOf(kept), (item, index) => {
    const type = JSON.parse(item.get('type') as string) as string
    item.set('id', JSON.stringify(`${ITEM_ID[type]}_${id}${index}`))
  })
}

function withItems(
  members: Map<string, string>,
  change: (item: Map<string, string>, index: number) => void,
): Map<string, string> {
  const items = elementsOf(members.get('output')).map((text, index) => {
    const item = membersOf(text)
    change(item, index)
    return serialiseBody(item)
  })
  return members.set('output', `[${items.join(',')}]`)
}

function createResponseFold(): Fold {
  let kept: KeptAnswer | undefined
  let over = false

  function take(data: string): void {
    if (!MAY_END.test(data)) return
    const event = membersOf(data)
    const type = event.get('type')
    if ((event.get('error') ?? 'null') === 'null' && !ENDS.has(type)) return
    over = true
    if (type !== `"${COMPLETED}"`) return
    for (const [name, text] of event) if (!EVENT_KNOWN.has(name) && isSaid(parseExactly(text))) unknown(name)
    kept = readResponse(event.get('response') ?? unknown('no response'))
  }

  return {
    push(data) {
      // What comes after the end was not to come.
      if (over) kept = undefined
      else if (ifKnown(() => take(data) ?? true) === undefined) over = true
    },
    end: () => kept,
  }
}

const EVENT_KNOWN = new Set(['type', 'response', 'sequence_number'])
const ENDS: ReadonlySet<string | undefined> = new Set(
  [COMPLETED, 'response.incomplete', 'response.failed', 'response.cancelled', 'error'].map((type) => `"${type}"`),
)

/**
 * None of these is in an answer that is kept: they are of other places of a stream, say that it is not whole, or measure
 * how it was computed.
 */
const REFUSED = [
  ...['error', 'input_messages', 'output_messages'],
  ...['kv_transfer_params', 'ec_transfer_params', 'metrics'],
]

function readResponse(json: string): KeptAnswer {
  if (json.length > FOLDED_CHARS_MAX) unknown('too long')
  const members = membersOf(json)
  const memberOf = (name: string) => parseExactly(members.get(name) ?? 'null')
  if (memberOf('object') !== 'response') unknown('another object')
  if (!isWhole(memberOf('status'), memberOf('incomplete_details'))) unknown('no whole response')
  objectOf(memberOf('usage'), 'usage')
  for (const name of REFUSED) if (isSaid(memberOf(name))) unknown(name)
  const items = listOf(memberOf('output'), 'output').map((item) => objectOf(item, 'item'))
  // vLLM says so too of what was aborted.
  if (items.length === 0 && memberOf('status') !== 'completed') unknown('no output')
  for (const item of items) readItem(item)
  for (const name of ['id', 'created_at']) members.delete(name)
  withItems(members, (item) => item.delete('id'))
  return { json: serialiseBody(members), callsTools: items.some(({ type }) => type === 'function_call') }
}

/** One that was cut at the length that was asked for is whole: asked again, it would be cut again. vLLM ends its stream as any. */
function isWhole(status: unknown, details: unknown): boolean {
  if (status === 'completed') return !isSaid(details)
  return status === 'incomplete' && isObject(details) && details.reason === 'max_output_tokens'
}

const ITEM_KNOWN: ReadonlyMap<unknown, ReadonlySet<string>> = new Map([
  ['message', new Set(['id', 'content', 'role', 'status', 'type', 'phase'])],
  ['function_call', new Set(['id', 'arguments', 'call_id', 'name', 'type', 'status'])],
  ['reasoning', new Set(['id', 'summary', 'content', 'type', 'status'])],
])
const PART_KNOWN = new Set(['annotations', 'text', 'type', 'logprobs'])

/** Throws for an item that could not be told as events. */
function readItem(item: JsonObject): void {
  refuseOthers(item, ITEM_KNOWN.get(item.type) ?? unknown('item'))
  textOf(item.id, 'item id')
  if (isSaid(item.status) && item.status !== 'completed') unknown('status')
  if (item.type === 'function_call') {
    for (const name of ['arguments', 'call_id', 'name']) textOf(item[name], name)
    return
  }
  if (isSaid(item.summary)) unknown('summary')
  const wanted = item.type === 'message' ? 'output_text' : 'reasoning_text'
  for (const one of listOf(item.content ?? [], 'content')) {
    const part = objectOf(one, 'part')
    refuseOthers(part, PART_KNOWN)
    textOf(part.text, 'text')
    if (isSaid(part.logprobs)) for (const one of listOf(part.logprobs, 'logprobs')) objectOf(one, 'probability')
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
    const logprobs = text ? { logprobs: deltaLogprobs(part.logprobs) } : {}
    const done = text ? { logprobs: [] } : {}
    return [
      { content_index, part: empty, type: 'response.content_part.added' },
      ...(part.text === '' ? [] : [{ content_index, delta: part.text, ...logprobs, type: `${kind}.delta` }]),
      { content_index, text: part.text, ...done, type: `${kind}.done` },
      { content_index, part, type: 'response.content_part.done' },
    ]
  })
}

/** Deltas tell probabilities without the bytes of tokens. */
function deltaLogprobs(logprobs: unknown): readonly JsonObject[] {
  return ((logprobs ?? []) as readonly JsonObject[]).map(({ bytes: _, top_logprobs, ...rest }) => ({
    ...rest,
    ...(Array.isArray(top_logprobs) && { top_logprobs: deltaLogprobs(top_logprobs.filter(isObject)) }),
  }))
}
