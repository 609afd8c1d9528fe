// Answers as vLLM 0.32 writes them without a stream, made at random as JSON texts: numbers as Python spells them, and names
// with all that a token may hold.
import fc from 'fast-check'
import type { StreamedDialect } from './events.ts'

type Text = fc.Arbitrary<string>

const said = fc.string({ unit: 'grapheme', maxLength: 12 })
const spoken = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 })
const token = fc.oneof(said, fc.constantFrom('1', '10', '\\', '"', '\n', '\\n', '__proto__', '\u0001'))
const id = fc.stringMatching(/^[a-f0-9]{1,8}$/)
const json = (value: fc.Arbitrary<unknown>): Text => value.map((one) => JSON.stringify(one))
const text = json(said)
const float: Text = fc.constantFrom(
  '0.0',
  '-0.0',
  '-9999.0',
  '1e-07',
  '-7.56448221206665',
  '-0.1234567890123456789',
  '1',
)
const nothing: Text = fc.constant('null')
const or = (value: Text): Text => fc.oneof(nothing, value)
const list = (value: Text, maxLength = 3): Text => fc.array(value, { maxLength }).map((all) => `[${all.join(',')}]`)
const some = (value: Text, maxLength = 3): Text =>
  fc.array(value, { minLength: 1, maxLength }).map((all) => `[${all.join(',')}]`)
const ids = some(json(fc.nat(151_936)))
const object = (members: Readonly<Record<string, Text>>): Text =>
  fc.record(members).map(
    (told) =>
      `{${Object.entries(told)
        .map(([name, value]) => `"${name}":${value}`)
        .join(',')}}`,
  )
/** An object whose names are anybody's. */
const named = (value: Text): Text =>
  fc
    .uniqueArray(fc.tuple(token, value), { maxLength: 4, selector: ([name]) => name })
    .map((all) => `{${all.map(([name, one]) => `${JSON.stringify(name)}:${one}`).join(',')}}`)

const count = json(fc.nat(9999))
const chatUsage = object({
  prompt_tokens: count,
  total_tokens: count,
  completion_tokens: count,
  prompt_tokens_details: or(
    object({ cached_tokens: count, created_cache_tokens: or(count), multimodal_tokens: nothing }),
  ),
  completion_tokens_details: nothing,
})
const choices = (choice: Text): Text =>
  fc
    .array(choice, { minLength: 1, maxLength: 3 })
    .map((all) => `[${all.map((one, index) => `{"index":${index},${one.slice(1)}`).join(',')}]`)
const word = (...words: string[]): Text => json(fc.constantFrom(...words))
const finish = word('stop', 'length', 'tool_calls')
const stopReason = or(fc.oneof(json(spoken), json(fc.nat(99))))

const argumentsText = json(said)
const call = object({
  id: json(id.map((one) => `chatcmpl-tool-${one}`)),
  type: word('function'),
  function: object({ name: json(id), arguments: argumentsText }),
})
const probability = { token: json(token), logprob: float, bytes: or(list(json(fc.nat(255)))) }
const message = fc.record({
  role: word('assistant'),
  content: or(text),
  calls: fc.option(some(call)),
  reasoning: or(json(spoken)),
})
const chatMessage: Text = message.map(
  ({ role, content, calls, reasoning }) =>
    // What only thought has no text, not an empty one.
    `{"role":${role},"content":${reasoning !== 'null' && content === '""' ? 'null' : content},"refusal":null,"annotations":null,"audio":null,"function_call":null` +
    `${calls === null ? '' : `,"tool_calls":${calls}`},"reasoning":${reasoning}}`,
)

const chat = object({
  id: json(id),
  object: word('chat.completion'),
  created: count,
  model: text.filter((model) => model !== '""'),
  choices: choices(
    object({
      message: chatMessage,
      logprobs: or(object({ content: some(object({ ...probability, top_logprobs: list(object(probability)) })) })),
      finish_reason: finish,
      stop_reason: stopReason,
      token_ids: or(ids),
      routed_experts: nothing,
    }),
  ),
  service_tier: nothing,
  system_fingerprint: or(json(id)),
  usage: chatUsage,
  prompt_logprobs: nothing,
  prompt_token_ids: or(ids),
  prompt_text: or(json(spoken)),
  kv_transfer_params: nothing,
  ec_transfer_params: nothing,
  metrics: nothing,
})

const completionTokens = fc
  .record({ token_ids: or(ids), prompt_token_ids: ids })
  // Nobody is told the prompt's without the answer's.
  .map(({ token_ids, prompt_token_ids }) => ({ token_ids, prompt: token_ids === 'null' ? 'null' : prompt_token_ids }))
const completionChoice: Text = fc
  .record({
    text,
    logprobs: or(
      object({
        text_offset: some(count),
        token_logprobs: some(float),
        tokens: some(json(token)),
        top_logprobs: some(or(named(float))),
      }),
    ),
    finish_reason: word('stop', 'length'),
    stop_reason: stopReason,
    tokens: completionTokens,
  })
  .map(
    ({ text: told, logprobs, finish_reason, stop_reason, tokens }) =>
      `{"text":${told},"logprobs":${logprobs},"finish_reason":${finish_reason},"stop_reason":${stop_reason},` +
      `"token_ids":${tokens.token_ids},"prompt_logprobs":null,"prompt_token_ids":${tokens.prompt},"routed_experts":null}`,
  )
const completions = object({
  id: json(id),
  object: word('text_completion'),
  created: count,
  model: json(spoken),
  choices: choices(completionChoice),
  service_tier: nothing,
  system_fingerprint: or(json(id)),
  usage: chatUsage,
  kv_transfer_params: nothing,
  ec_transfer_params: nothing,
  metrics: nothing,
})

const itemId = json(id)
const part = object({
  annotations: fc.constant('[]'),
  text,
  type: word('output_text'),
  logprobs: or(some(object({ ...probability, top_logprobs: list(object(probability)) }))),
})
const item = fc.oneof(
  object({
    id: itemId,
    content: some(part, 2),
    role: word('assistant'),
    status: word('completed'),
    type: word('message'),
    phase: nothing,
  }),
  object({
    arguments: argumentsText,
    call_id: itemId,
    name: itemId,
    type: word('function_call'),
    id: itemId,
    status: word('completed'),
  }),
  object({
    id: itemId,
    summary: fc.constant('[]'),
    type: word('reasoning'),
    content: some(object({ text: json(spoken), type: word('reasoning_text') }), 1),
    encrypted_content: nothing,
    status: or(word('completed')),
  }),
)
const schema = object({
  type: word('object'),
  properties: named(object({ type: word('string') })),
  patternProperties: named(float),
})
const responses = object({
  id: json(id),
  created_at: count,
  incomplete_details: nothing,
  instructions: or(text),
  metadata: or(named(text)),
  model: json(spoken),
  object: word('response'),
  output: list(item),
  temperature: float,
  tools: list(object({ name: itemId, parameters: schema, type: word('function') })),
  status: word('completed'),
  usage: object({ input_tokens: count, output_tokens: count, total_tokens: count }),
  input_messages: nothing,
  output_messages: nothing,
})

const block = fc.oneof(
  object({ type: word('text'), text }),
  object({ type: word('thinking'), thinking: text, signature: json(spoken) }),
  object({ type: word('tool_use'), id: itemId, name: itemId, input: named(fc.oneof(float, text, named(text))) }),
)
const messages = fc
  .record({
    content: some(block),
    stop: fc.constantFrom('end_turn', 'max_tokens', 'tool_use', 'stop_sequence'),
    sequence: spoken,
    usage: object({
      input_tokens: count,
      output_tokens: count,
      cache_creation_input_tokens: or(count),
      cache_read_input_tokens: or(count),
    }),
  })
  .map(
    ({ content, stop, sequence, usage }) =>
      `{"id":"chatcmpl-1","type":"message","role":"assistant","content":${content},"model":"m","stop_reason":"${stop}",` +
      `${stop === 'stop_sequence' ? `"stop_sequence":${JSON.stringify(sequence)},` : ''}"usage":${usage}}`,
  )

export const answers: Readonly<Record<StreamedDialect, Text>> = { chat, completions, responses, messages }
