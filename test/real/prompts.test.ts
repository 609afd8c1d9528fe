// What the router takes for a prompt of messages and of responses, beside what a real vLLM makes of the same request: as
// many tokens, and all of those in whole blocks found in its prefix cache under their ids.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { scanBody } from '../../cluster/prompts/body.ts'
import { promptOf } from '../../cluster/prompts/prompt.ts'
import { readTokenIds } from '../../cluster/tokens/token-ids.ts'
import { DIALECTS, type Dialect } from '../../shared/dialect.ts'
import { readUsage } from '../../shared/usage.ts'
import { BLOCK_SIZE_TOKENS, MODEL, startVllm, type Vllm } from './vllm.ts'

let engine: Vllm

beforeAll(async () => {
  engine = await startVllm()
})
afterAll(() => engine?.stop())

const LONG = 'The prefix cache keeps blocks of tokens that were computed before. '.repeat(12)
const weather = { type: 'object', properties: { city: { type: 'string', default: 'Köln' }, days: { minimum: 0.5 } } }
const call = {
  type: 'tool_use',
  id: 'toolu_1',
  name: 'get_weather',
  input: { city: 'Köln "am" Rhein', n: [1, 2.5, null] },
}
const anthropicTools = [
  { name: 'get_weather', description: 'Tells the weather.', input_schema: weather },
  { name: 'now', input_schema: { properties: {} }, strict: true },
]
const functionTools = [
  { type: 'function', name: 'get_weather', description: 'Tells the weather.', parameters: weather, strict: true },
  { type: 'function', name: 'now', parameters: { type: 'object', properties: {} } },
]
const user = { role: 'user', content: LONG }

const MESSAGES: readonly (readonly [string, object])[] = [
  ['text', { messages: [user] }],
  ['a system prompt', { system: 'Be kind.', messages: [user] }],
  [
    'a system prompt in blocks, one of them a billing header',
    {
      system: [
        { type: 'text', text: 'x-anthropic-billing-header: cch=1' },
        { type: 'text', text: 'Be kind.', cache_control: { type: 'ephemeral' } },
        { type: 'text', text: ' Be brief.' },
      ],
      messages: [user],
    },
  ],
  ['an empty system prompt', { system: '', messages: [user] }],
  ['one block of text', { messages: [{ role: 'user', content: [{ type: 'text', text: LONG }] }] }],
  [
    'several blocks of text, one of them empty',
    { messages: [{ role: 'user', content: ['a', '', LONG].map((text) => ({ type: 'text', text })) }] },
  ],
  [
    'several turns, the last the assistant’s',
    { messages: [user, { role: 'assistant', content: 'Yes?' }, user, { role: 'assistant', content: 'It is' }] },
  ],
  ['tools', { tools: anthropicTools, messages: [user] }],
  ['tools that may not be used', { tools: anthropicTools, tool_choice: { type: 'none' }, messages: [user] }],
  ['no tools in a list', { tools: [], messages: [user] }],
  [
    'a call of a tool and its result',
    {
      tools: anthropicTools,
      messages: [
        user,
        { role: 'assistant', content: [{ type: 'text', text: 'I look.' }, call] },
        { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'toolu_1', content: '12 °C' }] },
      ],
    },
  ],
  [
    'results in blocks, an empty one, and words behind them',
    {
      messages: [
        user,
        { role: 'assistant', content: [call, { ...call, id: 'toolu_2', input: {} }] },
        {
          role: 'user',
          content: [
            {
              type: 'tool_result',
              tool_use_id: 'toolu_1',
              content: ['a', 'b'].map((text) => ({ type: 'text', text })),
            },
            { type: 'tool_result', tool_use_id: 'toolu_2', is_error: true },
            { type: 'text', text: 'And now?' },
          ],
        },
      ],
    },
  ],
  [
    'thinking that comes back',
    {
      messages: [
        user,
        {
          role: 'assistant',
          content: [
            { type: 'thinking', thinking: 'Let me see.', signature: 'x' },
            { type: 'redacted_thinking', data: 'AAAA' },
            call,
          ],
        },
        { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'toolu_1', content: 'ok' }] },
      ],
    },
  ],
  ['thinking switched off', { thinking: { type: 'disabled' }, messages: [user] }],
  ['effort', { output_config: { effort: 'high' }, messages: [user] }],
  ['arguments of the template', { chat_template_kwargs: { enable_thinking: false }, messages: [user] }],
  [
    'effort and arguments of the template',
    {
      output_config: { effort: 'low' },
      chat_template_kwargs: { enable_thinking: false, reasoning_effort: 'high' },
      messages: [user],
    },
  ],
]

const input = [{ role: 'user', content: LONG }]
const functionCall = { type: 'function_call', call_id: 'call_1', name: 'get_weather', arguments: '{"city": "Köln"}' }
const output = { type: 'function_call_output', call_id: 'call_1', output: '12 °C' }
const reasoning = { type: 'reasoning', id: 'rs_1', summary: [], content: [{ type: 'reasoning_text', text: 'Hm.' }] }
const said = {
  type: 'message',
  id: 'msg_1',
  status: 'completed',
  role: 'assistant',
  content: [{ type: 'output_text', text: 'I look.', annotations: [] }],
}

const RESPONSES: readonly (readonly [string, object])[] = [
  ['text', { input: LONG }],
  ['instructions', { instructions: 'Be kind.', input: LONG }],
  ['empty instructions', { instructions: '', input: LONG }],
  ['a message', { input }],
  [
    'a message in parts',
    { input: [{ role: 'user', content: ['a', LONG].map((text) => ({ type: 'input_text', text })) }] },
  ],
  [
    'messages of several roles',
    {
      input: [{ role: 'system', content: 'Be kind.' }, ...input, { role: 'assistant', content: 'Yes?' }, ...input],
    },
  ],
  ['a developer’s message', { input: [{ type: 'message', role: 'developer', content: 'Be kind.' }, ...input] }],
  ['an answer that comes back', { input: [...input, said, ...input] }],
  [
    'an answer without id and status',
    {
      input: [
        ...input,
        { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'Yes?' }] },
        ...input,
      ],
    },
  ],
  ['tools', { tools: functionTools, input }],
  ['tools that may not be used', { tools: functionTools, tool_choice: 'none', input }],
  ['no tools in a list', { tools: [], input }],
  ['a call of a tool and its result', { tools: functionTools, input: [...input, functionCall, output] }],
  [
    'reasoning, words and two calls: one turn of the assistant',
    {
      tools: functionTools,
      input: [
        ...input,
        reasoning,
        said,
        functionCall,
        { ...functionCall, call_id: 'call_2' },
        output,
        { ...output, call_id: 'call_2' },
      ],
    },
  ],
  ['a call before the words', { input: [...input, functionCall, said, output] }],
  ['two answers in a row', { input: [...input, said, said, ...input] }],
  [
    'reasoning in a summary',
    {
      input: [
        ...input,
        { type: 'reasoning', id: 'rs_1', summary: [{ type: 'summary_text', text: 'Hm.' }] },
        said,
        ...input,
      ],
    },
  ],
  ['effort', { reasoning: { effort: 'low' }, input }],
  ['no effort', { reasoning: { effort: 'none' }, input }],
]

describe.each([
  ['messages', MESSAGES, { max_tokens: 1 }],
  ['responses', RESPONSES, { max_output_tokens: 1, store: false }],
] as const)('a prompt of %s has the tokens that the engine sees', (dialect, rows, limits) => {
  it.each(rows)('%s', async (_, members) => {
    const body = Buffer.from(JSON.stringify({ model: MODEL, ...limits, ...members }))
    const ids = await tokenize(dialect, body)

    const answer = await post(DIALECTS[dialect].path, body)
    const said = JSON.parse(answer.toString()) as { usage?: unknown }
    expect(readUsage(said.usage), answer.toString()).toMatchObject({ promptTokens: ids.length })

    // Equal in number may differ in kind: the engine finds these very ids in its cache.
    const completion = { model: MODEL, prompt: [...ids], max_tokens: 1 }
    const again = JSON.parse((await post('/v1/completions', Buffer.from(JSON.stringify(completion)))).toString())
    const whole = Math.floor((ids.length - 1) / BLOCK_SIZE_TOKENS) * BLOCK_SIZE_TOKENS
    expect(readUsage(again.usage)).toMatchObject({ cachedTokens: whole })
  })
})

async function tokenize(dialect: Dialect, body: Buffer): Promise<Uint32Array> {
  const scan = scanBody(body)
  if (!scan.ok) throw new Error(scan.message)
  const prompt = promptOf(dialect, body, scan.members)
  const made = prompt.kind === 'text' ? prompt.forEngine() : undefined
  if (!made?.ok) throw new Error(JSON.stringify(prompt))
  const answer = await post('/tokenize', made.body)
  const ids = readTokenIds(answer)
  if (!ids) throw new Error(answer.toString())
  return ids
}

async function post(path: string, body: Buffer): Promise<Buffer> {
  const answer = await fetch(engine.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: new Uint8Array(body),
  })
  return Buffer.from(await answer.arrayBuffer())
}
