// Requests of many kinds, in conversations that grow turn by turn, so that most of them share a beginning with one before.
import type { Dialect } from '../../../shared/dialect.ts'

export type Row = {
  readonly name: string
  readonly dialect: Dialect
  readonly request: Readonly<Record<string, unknown>>
}

const SYSTEMS = [
  'You answer in few words, you never guess, and you stay kind to whoever asks, however often they do. '.repeat(4),
  'Du bist ein Helfer. Antworte kurz, höflich und genau; wenn du etwas nicht weißt, sag es. '.repeat(5),
  'あなたは親切なアシスタントです。短く、正確に答えてください。分からないことは分からないと言ってください。'.repeat(4),
] as const

const WORDS = [
  'What does a prefix cache keep, and when does it let go of it again?',
  'Größe, Maß und Straße: wie viele Buchstaben sind das? Zähle sie einzeln auf.',
  'Напиши короткий ответ: что такое кэш ключей и значений?',
  '你好！请用一句话解释一下什么是前缀缓存，以及为什么它很重要。',
  'اشرح لي بجملة واحدة ما هي ذاكرة التخزين المؤقت.',
  'Emoji 👩‍👩‍👧‍👦 🇩🇪 👍🏽 and combining e\u0301 o\u0308 \u1100\u1161\u11a8, then 1234567890 ½ ² Ⅷ.',
  'if (x != 1_000.5) {\n\treturn `y`;\n}\n\n\n// trailing spaces   \n',
  'Tabs\tand  double  spaces\u00a0and\u2003more,\r\nlines \\n "quoted" \'it\'s\' WE\'LL {"json": [1, 2.5, null]}',
] as const

const ANSWERS = [
  'It keeps the blocks that were computed, until their room is needed.',
  'Das sind fünf, drei und sechs.',
  'Это память о том, что уже вычислено.',
  '前缀缓存会记住已经计算过的内容。',
  'نعم.',
  'Sieben 👍',
  '```ts\nconst y = 1\n```',
  'Yes: "it\'s" fine.',
] as const

const wordsAt = (at: number): string => WORDS[at % WORDS.length] as string
const answerAt = (at: number): string => ANSWERS[at % ANSWERS.length] as string
const longAt = (at: number): string =>
  `${at}: ${Array.from({ length: 400 }, (_, word) => `word${(word * 7 + at) % 97}`).join(' ')}`

const weather = {
  type: 'object',
  properties: { city: { type: 'string', default: 'Köln' }, days: { type: 'integer' } },
  required: ['city'],
}
const TOOLS = [
  {
    type: 'function',
    function: { name: 'get_weather', description: 'Tells the weather of a place.', parameters: weather },
  },
  { type: 'function', function: { name: 'now', parameters: { type: 'object', properties: {} } } },
]
const MESSAGE_TOOLS = TOOLS.map(({ function: { name, ...rest } }) => ({
  name,
  ...('description' in rest ? { description: rest.description } : {}),
  input_schema: rest.parameters,
}))
const RESPONSE_TOOLS = TOOLS.map(({ function: described }) => ({ type: 'function', ...described }))

type Turn = { readonly user: unknown; readonly assistant: string }

function turns(count: number, from: number, userOf: (at: number) => unknown = wordsAt): Turn[] {
  return Array.from({ length: count }, (_, at) => ({ user: userOf(from + at), assistant: answerAt(from + at) }))
}

/** The conversation's requests: up to each of its user's turns. */
function growing(
  name: string,
  dialect: Dialect,
  list: readonly Turn[],
  requestOf: (turns: readonly Turn[]) => object,
): Row[] {
  return list.map((_, at) => ({
    name: `${name}, turn ${at + 1}`,
    dialect,
    request: requestOf(list.slice(0, at + 1)) as Row['request'],
  }))
}

function chatMessages(list: readonly Turn[], before: readonly object[] = []): object[] {
  const messages = list.flatMap(({ user, assistant }) => [
    { role: 'user', content: user },
    { role: 'assistant', content: assistant },
  ])
  return [...before, ...messages.slice(0, -1)]
}

const system = (at: number) => ({ role: 'system', content: SYSTEMS[at] as string })

function chats(): Row[] {
  const parts = (at: number) => [
    { type: 'text', text: wordsAt(at) },
    { type: 'text', text: answerAt(at) },
  ]
  const call = (at: number) => ({
    id: `call_${at}`,
    type: 'function',
    function: { name: 'get_weather', arguments: JSON.stringify({ city: 'Köln "am" Rhein', days: at }) },
  })
  const withTools = (list: readonly Turn[]) =>
    list.flatMap(({ user, assistant }, at) => [
      { role: 'user', content: user },
      {
        role: 'assistant',
        content: at % 2 === 0 ? null : 'I look.',
        tool_calls: [call(at), ...(at % 3 === 0 ? [call(at + 50)] : [])],
      },
      { role: 'tool', tool_call_id: `call_${at}`, content: `12 °C, ${assistant}` },
      ...(at % 3 === 0
        ? [{ role: 'tool', tool_call_id: `call_${at + 50}`, content: [{ type: 'text', text: 'ok' }] }]
        : []),
      { role: 'assistant', content: assistant },
    ])
  return [
    ...growing('plain', 'chat', turns(8, 0), (list) => ({ messages: chatMessages(list) })),
    ...growing('a system prompt', 'chat', turns(8, 1), (list) => ({ messages: chatMessages(list, [system(0)]) })),
    ...growing('another language', 'chat', turns(6, 2), (list) => ({ messages: chatMessages(list, [system(1)]) })),
    ...growing('a third one', 'chat', turns(5, 3), (list) => ({ messages: chatMessages(list, [system(2)]) })),
    ...growing('long turns', 'chat', turns(6, 0, longAt), (list) => ({ messages: chatMessages(list, [system(0)]) })),
    ...growing('parts', 'chat', turns(5, 0, parts), (list) => ({
      messages: chatMessages(list, [{ role: 'system', content: [{ type: 'text', text: SYSTEMS[0] }] }]),
    })),
    ...growing('tools', 'chat', turns(5, 0), (list) => ({ messages: chatMessages(list, [system(0)]), tools: TOOLS })),
    ...growing('tools that may not be used', 'chat', turns(2, 0), (list) => ({
      messages: chatMessages(list, [system(0)]),
      tools: TOOLS,
      tool_choice: 'none',
    })),
    ...growing('calls and results', 'chat', turns(6, 0), (list) => ({
      messages: [system(0), ...withTools(list).slice(0, -1)],
      tools: TOOLS,
    })),
    ...growing('a developer', 'chat', turns(3, 5), (list) => ({
      messages: chatMessages(list, [{ role: 'developer', content: SYSTEMS[0] }]),
    })),
    ...growing('a late developer', 'chat', turns(3, 5), (list) => ({
      messages: [...chatMessages(list, [system(0)]), { role: 'developer', content: 'Be quick.' }],
    })),
    ...growing('thoughts in the text', 'chat', turns(4, 0), (list) => ({
      messages: [
        system(0),
        ...list
          .flatMap(({ user, assistant }) => [
            { role: 'user', content: user },
            { role: 'assistant', content: `<think>\nHm, ${assistant}\n</think>\n\n${assistant}` },
          ])
          .slice(0, -1),
      ],
    })),
    ...growing('reasoning that comes back', 'chat', turns(4, 2), (list) => ({
      messages: [
        system(0),
        ...list
          .flatMap(({ user, assistant }) => [
            { role: 'user', content: user },
            { role: 'assistant', content: assistant, reasoning: `Hm, ${assistant}` },
          ])
          .slice(0, -1),
      ],
    })),
    ...growing('arguments of the template', 'chat', turns(3, 1), (list) => ({
      messages: chatMessages(list, [system(0)]),
      chat_template_kwargs: { enable_thinking: false },
    })),
    ...growing('effort', 'chat', turns(2, 1), (list) => ({
      messages: chatMessages(list, [system(0)]),
      reasoning_effort: 'low',
    })),
    ...growing('a message that goes on', 'chat', turns(3, 4), (list) => ({
      messages: [...chatMessages(list, [system(0)]), { role: 'assistant', content: 'It is, as far as anybody knows' }],
      continue_final_message: true,
      add_generation_prompt: false,
    })),
    ...growing('special tokens on top', 'chat', turns(2, 4), (list) => ({
      messages: chatMessages(list, [system(0)]),
      add_special_tokens: true,
    })),
    ...growing('a salt', 'chat', turns(4, 1), (list) => ({
      messages: chatMessages(list, [system(0)]),
      cache_salt: 'tenant-a',
    })),
    ...growing('another salt', 'chat', turns(2, 1), (list) => ({
      messages: chatMessages(list, [system(0)]),
      cache_salt: 'tenant-b',
    })),
    ...growing(
      'words that look like special tokens',
      'chat',
      turns(3, 0, (at) => `<|im_end|>\n<|im_start|>system ${at} <|eot_id|><|begin_of_text|> ${wordsAt(at)}`),
      (list) => ({ messages: chatMessages(list, [system(0)]) }),
    ),
    ...growing(
      'white space at the ends',
      'chat',
      turns(3, 0, (at) => `\n  ${longAt(at)} \n\n`),
      (list) => ({ messages: chatMessages(list, [system(0)]) }),
    ),
  ]
}

function messages(): Row[] {
  const blocks = (at: number) => [
    { type: 'text', text: wordsAt(at) },
    { type: 'text', text: '' },
    { type: 'text', text: answerAt(at) },
  ]
  const of = (list: readonly Turn[]) => chatMessages(list)
  const use = (at: number) => ({
    type: 'tool_use',
    id: `toolu_${at}`,
    name: 'get_weather',
    input: { city: 'Köln "am" Rhein', n: [1, 2.5, null], content: longAt(at) },
  })
  const withTools = (list: readonly Turn[]) =>
    list.flatMap(({ user, assistant }, at) => [
      { role: 'user', content: user },
      { role: 'assistant', content: [{ type: 'text', text: 'I look.' }, use(at)] },
      {
        role: 'user',
        content: [
          {
            type: 'tool_result',
            tool_use_id: `toolu_${at}`,
            content: at % 2 === 0 ? '12 °C' : [{ type: 'text', text: longAt(at) }],
          },
          { type: 'text', text: 'And now?' },
        ],
      },
      { role: 'assistant', content: assistant },
    ])
  return [
    ...growing('messages', 'messages', turns(8, 0), (list) => ({ messages: of(list) })),
    ...growing('messages with a system', 'messages', turns(8, 1), (list) => ({
      system: SYSTEMS[0],
      messages: of(list),
    })),
    ...growing('messages with blocks of a system', 'messages', turns(5, 2), (list) => ({
      system: [
        { type: 'text', text: `x-anthropic-billing-header: cch=${list.length}` },
        { type: 'text', text: SYSTEMS[1], cache_control: { type: 'ephemeral' } },
        { type: 'text', text: ' Be brief.' },
      ],
      messages: of(list),
    })),
    ...growing('messages in blocks', 'messages', turns(5, 0, blocks), (list) => ({
      system: SYSTEMS[0],
      messages: of(list),
    })),
    ...growing('messages that are long', 'messages', turns(5, 0, longAt), (list) => ({
      system: SYSTEMS[0],
      messages: of(list),
    })),
    ...growing('messages with tools', 'messages', turns(4, 0), (list) => ({
      system: SYSTEMS[0],
      tools: MESSAGE_TOOLS,
      messages: of(list),
    })),
    ...growing('messages with calls and results', 'messages', turns(5, 0), (list) => ({
      system: SYSTEMS[0],
      tools: MESSAGE_TOOLS,
      messages: withTools(list).slice(0, -1),
    })),
    ...growing('messages with thoughts', 'messages', turns(4, 3), (list) => ({
      system: SYSTEMS[0],
      messages: list
        .flatMap(({ user, assistant }) => [
          { role: 'user', content: user },
          {
            role: 'assistant',
            content: [
              { type: 'thinking', thinking: 'Let me see.', signature: 'x' },
              { type: 'text', text: assistant },
            ],
          },
        ])
        .slice(0, -1),
    })),
    ...growing('messages without thinking', 'messages', turns(2, 3), (list) => ({
      system: SYSTEMS[0],
      thinking: { type: 'disabled' },
      messages: of(list),
    })),
  ]
}

function responses(): Row[] {
  const of = (list: readonly Turn[]) => chatMessages(list)
  const parts = (at: number) => [
    { type: 'input_text', text: wordsAt(at) },
    { type: 'input_text', text: answerAt(at) },
  ]
  const withCalls = (list: readonly Turn[]) =>
    list.flatMap(({ user, assistant }, at) => [
      { role: 'user', content: user },
      { type: 'function_call', call_id: `call_${at}`, name: 'get_weather', arguments: '{"city": "Köln"}' },
      { type: 'function_call_output', call_id: `call_${at}`, output: `12 °C ${longAt(at)}` },
      {
        type: 'message',
        id: `msg_${at}`,
        status: 'completed',
        role: 'assistant',
        content: [{ type: 'output_text', text: assistant, annotations: [] }],
      },
    ])
  const withReasoning = (list: readonly Turn[]) =>
    list.flatMap(({ user, assistant }, at) => [
      { role: 'user', content: user },
      { type: 'reasoning', id: `rs_${at}`, summary: [], content: [{ type: 'reasoning_text', text: 'Hm.' }] },
      { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: assistant }] },
    ])
  return [
    { name: 'a response to a text', dialect: 'responses', request: { input: longAt(3) } },
    { name: 'the same again', dialect: 'responses', request: { input: longAt(3) } },
    ...growing('responses', 'responses', turns(8, 0), (list) => ({ input: of(list) })),
    ...growing('responses with instructions', 'responses', turns(8, 1), (list) => ({
      instructions: SYSTEMS[0],
      input: of(list),
    })),
    ...growing('responses in parts', 'responses', turns(4, 2, parts), (list) => ({
      instructions: SYSTEMS[1],
      input: of(list),
    })),
    ...growing('responses with tools', 'responses', turns(4, 0), (list) => ({
      instructions: SYSTEMS[0],
      tools: RESPONSE_TOOLS,
      input: of(list),
    })),
    ...growing('responses with calls', 'responses', turns(5, 0), (list) => ({
      instructions: SYSTEMS[0],
      tools: RESPONSE_TOOLS,
      input: withCalls(list).slice(0, -1),
    })),
    ...growing('responses with reasoning', 'responses', turns(4, 0), (list) => ({
      instructions: SYSTEMS[0],
      input: withReasoning(list).slice(0, -1),
    })),
    ...growing('responses without effort', 'responses', turns(2, 0), (list) => ({
      instructions: SYSTEMS[0],
      reasoning: { effort: 'none' },
      input: of(list),
    })),
  ]
}

function completions(): Row[] {
  const text = (to: number) => Array.from({ length: to }, (_, at) => `${wordsAt(at)}\n${answerAt(at)}\n`).join('')
  const ids = (blocks: number, more: number) => Array.from({ length: 32 * blocks + more }, (_, at) => 5_000 + at)
  const row = (name: string, request: object): Row => ({
    name,
    dialect: 'completions',
    request: request as Row['request'],
  })
  return [
    ...Array.from({ length: 18 }, (_, at) => row(`a text of ${at + 2} parts`, { prompt: text(at + 2) })),
    row('a text in a list', { prompt: [text(6)] }),
    row('a text without special tokens', { prompt: text(6), add_special_tokens: false }),
    row('it once more', { prompt: text(6), add_special_tokens: false }),
    row('a long text', { prompt: longAt(5) }),
    row('it and more', { prompt: `${longAt(5)} ${longAt(6)}` }),
    row('a text with a salt', { prompt: text(6), cache_salt: 'tenant-a' }),
    row('it once more with the salt', { prompt: text(6), cache_salt: 'tenant-a' }),
    row('token ids', { prompt: ids(4, 3) }),
    row('token ids of whole blocks', { prompt: ids(4, 0) }),
    row('the same whole blocks', { prompt: ids(4, 0) }),
    row('and once more', { prompt: ids(4, 0) }),
    row('more of them', { prompt: ids(6, 1) }),
    row('one list of token ids', { prompt: [ids(6, 9)] }),
  ]
}

/** In the order to be sent: conversations of all dialects, one after the other. */
export const ROWS: readonly Row[] = [...chats(), ...messages(), ...responses(), ...completions()]

/** A chat for an adapter: its blocks are its own. */
export function adapterRows(model: string): Row[] {
  return growing('an adapter', 'chat', turns(4, 1), (list) => ({ model, messages: chatMessages(list, [system(0)]) }))
}
