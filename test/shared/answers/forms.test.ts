// What must hold for any answer, and for any nonsense that comes in place of one.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { FOLDED_CHARS_MAX } from '../../../shared/answers/answer-form.ts'
import { ANSWER_FORMS } from '../../../shared/answers/forms.ts'
import { heldBytes } from '../../held-bytes.ts'
import { parseJson } from '../../parse-json.ts'
import { answers } from './answers.ts'
import { eventsOf, FRESH, foldOf, foldStream, type StreamedDialect } from './events.ts'

const DIALECTS = ['chat', 'completions', 'responses', 'messages'] as const satisfies readonly StreamedDialect[]

/** The order of names below the top level means nothing; how a number is written does. */
function sorted(text: string): unknown {
  const marked = text.replace(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g, (token) =>
    token[0] === '"' ? token : `"#${token}"`,
  )
  return parseJson(marked)
}

describe('a stream made of any answer folds to that answer again', () => {
  it.each(DIALECTS)('%s', (dialect) => {
    const form = ANSWER_FORMS[dialect]
    fc.assert(
      fc.property(answers[dialect], (answer) => {
        const kept = form.read(answer)
        expect(kept, answer).toBeDefined()
        const again = foldStream(dialect, form.toEvents(kept?.json ?? '', FRESH, true))
        expect(again?.callsTools).toBe(kept?.callsTools)
        expect(sorted(again?.json ?? 'null')).toEqual(sorted(kept?.json ?? 'null'))
      }),
    )
  })
})

describe('a stream that was cut anywhere is not kept', () => {
  it.each(DIALECTS)('%s', (dialect) => {
    const form = ANSWER_FORMS[dialect]
    fc.assert(
      fc.property(answers[dialect], fc.nat(), (answer, at) => {
        const data = eventsOf(form.toEvents(form.read(answer)?.json ?? '', FRESH, true)).map((event) => event.data)
        expect(foldOf(dialect, data)).toBeDefined()
        expect(foldOf(dialect, data.slice(0, at % data.length))).toBeUndefined()
        expect(foldOf(dialect, [...data, data[at % data.length] as string])).toBeUndefined()
      }),
    )
  })
})

describe('a stream with anything unknown in it is not kept', () => {
  const says = (json: string, more: string) => `${json.slice(0, -1)},${more}}`
  it.each(DIALECTS.filter((dialect) => dialect !== 'responses'))('%s', (dialect) => {
    const form = ANSWER_FORMS[dialect]
    fc.assert(
      fc.property(answers[dialect], fc.nat(), (answer, at) => {
        const data = eventsOf(form.toEvents(form.read(answer)?.json ?? '', FRESH, true)).map((event) => event.data)
        const index = at % data.filter((one) => one !== '[DONE]').length
        const withMore = (more: string) => data.map((one, place) => (place === index ? says(one, more) : one))
        expect(foldOf(dialect, withMore('"new":{"a":1}'))).toBeUndefined()
        expect(foldOf(dialect, withMore('"error":{"message":"lost"}'))).toBeUndefined()
        expect(foldOf(dialect, withMore('"new":null'))).toBeDefined()
      }),
    )
  })
})

/** JSON that looks like parts of answers, put together without sense. */
const nonsense = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.constantFrom(null, 0, 1, -1, 1.5, true, '', 'a', '{}', '{', 'text', 'tool_use', 'constructor', 'output_text'),
    fc.constantFrom('message', 'message_start', 'content_block_start', 'content_block_delta', 'message_delta', 'stop'),
    fc.constantFrom('chat.completion', 'chat.completion.chunk', 'text_completion', 'response', 'completed'),
    fc.array(tie('value'), { maxLength: 3 }),
    fc.dictionary(
      fc.constantFrom(
        ...['object', 'type', 'choices', 'index', 'delta', 'message', 'content', 'tool_calls', 'function', 'arguments'],
        ...['logprobs', 'token_ids', 'usage', 'text', 'finish_reason', 'content_block', 'output', 'status', 'item'],
        ...['response', 'data', 'id', 'name', 'input', 'role', 'prompt_token_ids', '__proto__', 'partial_json'],
      ),
      tie('value'),
      { maxKeys: 8 },
    ),
  ),
})).value

describe('what is no answer does no harm', () => {
  it('neither whole nor as a stream, whatever its members are', () => {
    fc.assert(
      fc.property(fc.array(nonsense, { maxLength: 6 }), (values) => {
        const texts = values.map((value) => JSON.stringify(value))
        for (const dialect of DIALECTS) {
          expect(foldOf(dialect, texts)).toBeUndefined()
          for (const text of texts) ANSWER_FORMS[dialect].read(text)
        }
        for (const text of texts) ANSWER_FORMS.embeddings.read(text)
      }),
      { numRuns: 500 },
    )
  })

  it('neither with one value of a real answer replaced', () => {
    fc.assert(
      fc.property(fc.constantFrom(...DIALECTS), fc.nat(), nonsense, (dialect, seed, value) => {
        const [answer] = fc.sample(answers[dialect], { numRuns: 1, seed }) as [string]
        const form = ANSWER_FORMS[dialect]
        const data = eventsOf(form.toEvents(form.read(answer)?.json ?? '', FRESH, true)).map((event) => event.data)
        const broken = [answer, ...data].map((text) => replaceOne(text, seed, JSON.stringify(value)))
        const kept = form.read(broken[0] as string)
        if (kept) form.toEvents(kept.json, FRESH, true)
        data.forEach((_, at) => {
          const folded = foldOf(
            dialect,
            data.map((one, place) => (place === at ? (broken[at + 1] as string) : one)),
          )
          if (folded) form.toEvents(folded.json, FRESH, true)
        })
      }),
      { numRuns: 500 },
    )
  })

  it.each(['', '{', '[]', 'null', '"a"', '1', '[DONE]', '{}', '{"type":"error","error":{}}'])('%s', (text) => {
    for (const dialect of DIALECTS) expect(foldOf(dialect, [text])).toBeUndefined()
    for (const form of Object.values(ANSWER_FORMS)) expect(form.read(text)).toBeUndefined()
  })

  it('nor nested deeper than any stack', () => {
    const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`
    for (const text of [
      `{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"a"},"logprobs":{"content":${deep}}}]}`,
      `{"object":"text_completion","choices":[{"index":0,"text":"","token_ids":${deep},"finish_reason":"stop"}],"usage":${deep}}`,
      `{"type":"message_start","message":{"type":"message","content":[],"usage":{"a":${deep}}}}`,
      `{"type":"response.completed","response":{"output":${deep}}}`,
    ]) {
      for (const dialect of DIALECTS) expect(foldOf(dialect, [text, '[DONE]'])).toBeUndefined()
      for (const form of Object.values(ANSWER_FORMS)) expect(form.read(text)).toBeUndefined()
    }
  })
})

describe('an answer that is too long is not kept, one that is not is', () => {
  const piece = 'x'.repeat(1000)
  const streams: Readonly<Record<'chat' | 'completions' | 'messages', (pieces: number) => string[]>> = {
    chat: (pieces) => chunks('chat.completion.chunk', pieces, { delta: { role: 'assistant', content: piece } }),
    completions: (pieces) => chunks('text_completion', pieces, { text: piece }),
    messages: (pieces) =>
      [
        { type: 'message_start', message: { type: 'message', role: 'assistant', content: [], model: 'm' } },
        { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } },
        ...Array.from({ length: pieces }, () => ({
          type: 'content_block_delta',
          index: 0,
          delta: { type: 'text_delta', text: piece },
        })),
        { type: 'content_block_stop', index: 0 },
        { type: 'message_delta', delta: { stop_reason: 'end_turn' }, usage: { output_tokens: 1 } },
        { type: 'message_stop' },
      ].map((event) => JSON.stringify(event)),
  }
  function chunks(object: string, pieces: number, choice: object): string[] {
    const told = (more: object, usage: object) =>
      JSON.stringify({ object, model: 'm', choices: [{ index: 0, ...choice, ...more }], ...usage })
    const end = told({ finish_reason: 'stop' }, { usage: { total_tokens: 1 } })
    return [...Array.from({ length: pieces }, () => told({}, {})), end, '[DONE]']
  }

  it.each(['chat', 'completions', 'messages'] as const)('%s', (dialect) => {
    const limit = FOLDED_CHARS_MAX / piece.length
    expect(foldOf(dialect, streams[dialect](Math.floor(limit * 0.99)))).toBeDefined()
    expect(foldOf(dialect, streams[dialect](Math.ceil(limit)))).toBeUndefined()
  })

  it('counts probabilities by what they hold, so that 3000 tokens of them are kept', () => {
    const token = { token: 'a', logprob: -1.5, bytes: [97], top_logprobs: [] }
    const events = chunks('chat.completion.chunk', 3000, {
      delta: { role: 'assistant', content: 'a' },
      logprobs: { content: [token] },
    })
    expect(foldOf('chat', events)).toBeDefined()
    const tokens = { text_offset: [0], token_logprobs: [-1.5], tokens: ['a'], top_logprobs: [{ a: -1.5 }] }
    expect(foldOf('completions', chunks('text_completion', 3000, { text: 'a', logprobs: tokens }))).toBeDefined()
  })
})

it('choices may come in any order, and none may be missing', () => {
  const told = (index: number) =>
    JSON.stringify({
      object: 'text_completion',
      model: 'm',
      choices: [{ index, text: `${index}`, finish_reason: 'stop' }],
      usage: { total_tokens: 1 },
    })
  const { choices } = JSON.parse(foldOf('completions', [told(1), told(0), '[DONE]'])?.json ?? '{}')
  expect(choices.map(({ text }: { text: string }) => text)).toEqual(['0', '1'])
  expect(foldOf('completions', [told(0), told(2), '[DONE]'])).toBeUndefined()
})

it.each(['content_filter', 'error', 'abort', 'new', null])(
  'an answer that ended by %s is not kept',
  (finish_reason) => {
    const [answer] = fc.sample(answers.chat, 1) as [string]
    const ended = answer.replace(/"finish_reason":"\w+"/, `"finish_reason":${JSON.stringify(finish_reason)}`)
    expect(ANSWER_FORMS.chat.read(answer)).toBeDefined()
    expect(ANSWER_FORMS.chat.read(ended)).toBeUndefined()
  },
)

/** The text with one of its values replaced. */
function replaceOne(text: string, seed: number, by: string): string {
  const values = [...text.matchAll(/(?<=[:,[])(?:"(?:[^"\\]|\\.)*"(?!:)|-?\d[\d.]*|true|false|null|\[\]|\{\})/g)]
  const found = values[seed % Math.max(values.length, 1)]
  return found ? text.slice(0, found.index) + by + text.slice(found.index + found[0].length) : text
}

it('a chat tells its thoughts before what it says, as engines stream them', () => {
  const message = { role: 'assistant', content: 'yes', reasoning: 'hm', reasoning_content: 'hm' }
  const whole = {
    ...{ id: 'chatcmpl-1', object: 'chat.completion', created: 1, model: 'm' },
    choices: [{ index: 0, message, logprobs: null, finish_reason: 'stop', stop_reason: null }],
    usage: { prompt_tokens: 1, total_tokens: 2, completion_tokens: 1 },
  }
  const kept = ANSWER_FORMS.chat.read(JSON.stringify(whole))
  const told = [...ANSWER_FORMS.chat.toEvents(kept?.json ?? '', FRESH, false).matchAll(/"delta":(\{[^}]*\})/g)]
  const names = told.flatMap(([, delta]) => Object.keys(JSON.parse(delta ?? '')))
  expect(names.filter((name) => name !== 'role')).toEqual(['content', 'reasoning', 'reasoning_content', 'content'])
})

it('what was told of a call is not taken for another when its arguments are no JSON', () => {
  const events = (pieces: readonly string[]) =>
    [
      { type: 'message_start', message: { type: 'message', role: 'assistant', content: [], model: 'm' } },
      { type: 'content_block_start', index: 0, content_block: { type: 'tool_use', id: 't', name: 'w', input: {} } },
      ...pieces.map((partial_json) => ({
        type: 'content_block_delta',
        index: 0,
        delta: { type: 'input_json_delta', partial_json },
      })),
      { type: 'content_block_stop', index: 0 },
      { type: 'message_delta', delta: { stop_reason: 'tool_use' }, usage: { output_tokens: 1 } },
      { type: 'message_stop' },
    ].map((event) => JSON.stringify(event))
  expect(foldOf('messages', events(['{"city":', '"Oslo"}']))?.json).toContain('"input":{"city":"Oslo"}')
  expect(foldOf('messages', events(['{"city":"Oslo"}', ', "unit":"C"']))).toBeUndefined()
  expect(foldOf('messages', events(['{"city":"Oslo"}', ', "":1']))).toBeUndefined()
  expect(foldOf('messages', events(['{"city":"Oslo"']))).toBeUndefined()
})

it('a message without a block is told with an empty one, as vLLM does without a stream', () => {
  const events = [
    { type: 'message_start', message: { type: 'message', role: 'assistant', content: [], model: 'm' } },
    { type: 'message_delta', delta: { stop_reason: 'end_turn' }, usage: { output_tokens: 0 } },
    { type: 'message_stop' },
  ]
  const folded = foldOf(
    'messages',
    events.map((event) => JSON.stringify(event)),
  )
  expect(JSON.parse(folded?.json ?? '').content).toEqual([{ type: 'text', text: '' }])
})

it('a thought that was cut has no text, as vLLM says without a stream', () => {
  const told = (delta: object, more: object = {}) =>
    JSON.stringify({ object: 'chat.completion.chunk', model: 'm', choices: [{ index: 0, delta, ...more }] })
  const usage = JSON.stringify({ object: 'chat.completion.chunk', model: 'm', choices: [], usage: { total_tokens: 1 } })
  const events = [
    told({ role: 'assistant', content: '' }),
    told({ reasoning: 'hm' }),
    told({}, { finish_reason: 'length' }),
    usage,
    '[DONE]',
  ]
  expect(JSON.parse(foldOf('chat', events)?.json ?? '').choices[0].message).toMatchObject({
    content: null,
    reasoning: 'hm',
  })
})

it('a response that says it is cut and has no output is not kept: so do those that were aborted', () => {
  const response = {
    ...{ id: 'resp_1', object: 'response', created_at: 1, model: 'm', usage: { total_tokens: 1 } },
    ...{ status: 'incomplete', incomplete_details: { reason: 'max_output_tokens' } },
  }
  expect(ANSWER_FORMS.responses.read(JSON.stringify({ ...response, output: [] }))).toBeUndefined()
  const content = [{ type: 'output_text', text: 'cut', annotations: [] }]
  const output = [{ id: 'msg_1', type: 'message', role: 'assistant', status: 'completed', content }]
  expect(ANSWER_FORMS.responses.read(JSON.stringify({ ...response, output }))).toBeDefined()
})

describe('whatever an engine tells, a fold holds little more than an answer may have', () => {
  const long = 'x'.repeat(FOLDED_CHARS_MAX / 4)
  const chat = (choice: (index: number) => object) =>
    Array.from({ length: 8 }, (_, index) =>
      JSON.stringify({ object: 'chat.completion.chunk', choices: [choice(index)] }),
    )
  const streams: readonly [string, StreamedDialect, readonly string[]][] = [
    ['roles', 'chat', chat((index) => ({ index, delta: { role: `${long}${index}` } }))],
    ['ids of calls', 'chat', chat((index) => ({ index: 0, delta: { tool_calls: [{ index, id: long }] } }))],
    [
      'names of calls',
      'chat',
      chat((index) => ({ index: 0, delta: { tool_calls: [{ index, function: { name: long } }] } })),
    ],
    ['names of functions', 'chat', chat((index) => ({ index, delta: { function_call: { name: long } } }))],
    ['stop reasons', 'chat', chat((index) => ({ index, delta: {}, finish_reason: 'stop', stop_reason: long }))],
    [
      'blocks',
      'messages',
      [
        JSON.stringify({ type: 'message_start', message: { type: 'message', role: 'a', content: [], model: 'm' } }),
        ...Array.from({ length: 8 }, (_, index) => [
          JSON.stringify({ type: 'content_block_start', index, content_block: { type: 'text', text: long } }),
          JSON.stringify({ type: 'content_block_stop', index }),
        ]).flat(),
      ],
    ],
  ]
  it.each(streams)('%s', (_, dialect, events) => {
    const fold = ANSWER_FORMS[dialect].createFold?.()
    // What is given up is let go of at once, and not held until the end.
    const { bytes } = heldBytes(() => {
      for (const event of events) fold?.push(event)
    })
    expect(bytes).toBeLessThan(FOLDED_CHARS_MAX / 2)
    expect(fold?.end()).toBeUndefined()
  })
})
