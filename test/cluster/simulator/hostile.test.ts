// A simulated pod often shares its process with other pods and the router: no request may end or stop it.
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Simulator, startSimulator } from '../../../cluster/simulator/server.ts'

let pod: Simulator

beforeAll(async () => {
  pod = await startSimulator({ speed: 0, models: ['m'], maxModelLen: 2_048, responsesStore: true })
})

afterAll(() => pod.close())

function post(path: string, body: unknown): Promise<Response> {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  return fetch(pod.url + path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: text })
}

const tool = (parameters: unknown) => ({ type: 'function', function: { name: 'f', parameters } })
const VALID = {
  '/v1/chat/completions': {
    model: 'm',
    messages: [{ role: 'user', content: [{ type: 'text', text: 'hi' }] }],
    tools: [tool({ type: 'object', properties: { a: { type: 'string' } }, required: ['a'] })],
    tool_choice: 'required',
    stream: true,
    stream_options: { include_usage: true },
    stop: ['x'],
    n: 1,
    max_tokens: 8,
    seed: 1,
    temperature: 0.5,
    logit_bias: {},
    response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { type: 'object', required: ['a'] } } },
    structured_outputs: { json: { type: 'array', items: { $ref: '#' } } },
    logprobs: true,
    top_logprobs: 2,
  },
  '/v1/completions': {
    model: 'm',
    prompt: ['hi', [1, 2]],
    max_tokens: 8,
    n: 1,
    echo: true,
    stop: 'x',
    stop_token_ids: [3],
    logprobs: 2,
    suffix: null,
  },
  '/v1/responses': {
    model: 'm',
    input: [
      { role: 'user', content: [{ type: 'input_text', text: 'hi' }] },
      { type: 'function_call', call_id: 'c', name: 'f', arguments: '{}' },
      { type: 'function_call_output', call_id: 'c', output: 'x' },
      { type: 'reasoning', summary: [{ text: 'y' }], content: null },
    ],
    instructions: 'be brief',
    max_output_tokens: 8,
    tools: [{ type: 'function', name: 'f', parameters: { type: 'object', properties: {} } }],
    tool_choice: 'auto',
    text: { format: { type: 'json_schema', name: 'x', schema: { type: 'object' } }, verbosity: 'low' },
    reasoning: { effort: 'low' },
    include: ['message.output_text.logprobs'],
    top_logprobs: 2,
    cache_salt: 's',
    vllm_xargs: { kv_cache_report_mode: 'full' },
    stream: true,
    store: true,
    background: false,
    previous_response_id: null,
    request_id: 'r',
  },
  '/v1/messages': {
    model: 'm',
    max_tokens: 8,
    system: [{ type: 'text', text: 'be brief' }],
    messages: [
      { role: 'user', content: [{ type: 'text', text: 'hi' }] },
      {
        role: 'assistant',
        content: [
          { type: 'thinking', thinking: 'hm' },
          { type: 'tool_use', id: 't', name: 'f', input: { a: 'b' } },
        ],
      },
      { role: 'user', content: [{ type: 'tool_result', tool_use_id: 't', content: [{ type: 'text', text: 'x' }] }] },
      {
        role: 'system',
        content: [
          { type: 'tool_addition', tool: { type: 'tool_definition', definition: { name: 'g', input_schema: {} } } },
          { type: 'tool_removal', tool: { type: 'tool_reference', name: 'g' } },
        ],
      },
    ],
    tools: [{ name: 'f', input_schema: { properties: { a: { type: 'string' } }, required: ['a'] } }],
    tool_choice: { type: 'any' },
    stop_sequences: ['x'],
    output_config: { effort: 'low', format: { type: 'json_schema', schema: { type: 'object' } } },
    thinking: { type: 'adaptive' },
    top_k: 3,
    cache_salt: 's',
    chat_template_kwargs: { a: 1 },
    stream: true,
  },
  '/v1/messages/count_tokens': {
    model: 'm',
    messages: [{ role: 'user', content: 'hi' }],
    thinking: { type: 'disabled' },
  },
  '/tokenize': { model: 'm', messages: [{ role: 'user', content: 'hi' }], add_special_tokens: true, tools: [tool({})] },
  '/detokenize': { model: 'm', tokens: [1] },
}

/** Replaces one value somewhere inside. */
function damaged(value: unknown): fc.Arbitrary<unknown> {
  const hostile = fc.oneof(
    fc.jsonValue({ maxDepth: 3 }),
    fc.constantFrom<unknown>(
      { toString: 1, valueOf: 1 },
      [[[]]],
      -1,
      1e308,
      2 ** 53,
      '',
      'constructor',
      '__proto__',
      null,
      [null],
      {},
    ),
  )
  if (typeof value !== 'object' || value === null) return hostile
  const entries = Object.entries(value)
  if (entries.length === 0) return hostile
  return fc.oneof(
    { weight: 1, arbitrary: hostile },
    {
      weight: 4,
      arbitrary: fc.constantFrom(...entries.keys()).chain((at) => {
        const [name, inner] = entries[at] as [string, unknown]
        return damaged(inner).map((replaced) => {
          if (Array.isArray(value)) return value.with(Number(name), replaced)
          return { ...value, [name]: replaced }
        })
      }),
    },
  )
}

describe('whatever a request says', () => {
  it.each(Object.entries(VALID))('%s answers it, and not with a fault of ours', async (path, valid) => {
    await fc.assert(
      fc.asyncProperty(damaged(valid), async (body) => {
        const answer = await post(path, body)
        const text = await answer.text()
        expect([answer.status < 500, JSON.stringify(body), text]).toEqual([true, JSON.stringify(body), text])
      }),
      { numRuns: 150 },
    )
    expect((await fetch(`${pod.url}/health`)).status).toBe(200)
  })

  it('a schema of arrays in arrays does not multiply', async () => {
    let schema: unknown = { type: 'string' }
    for (let depth = 0; depth < 8; depth++) schema = { type: 'array', minItems: 64, items: schema }
    const parameters = { type: 'object', properties: { a: schema }, required: ['a'] }
    const answer = await post('/v1/chat/completions', {
      ...VALID['/v1/chat/completions'],
      stream: false,
      stream_options: null,
      tools: [tool(parameters)],
      max_tokens: 2_000,
    })
    expect((await answer.text()).length).toBeLessThan(200_000)
  })

  it('many choices of many prompts are refused, not computed', async () => {
    const answer = await post('/v1/completions', {
      model: 'm',
      prompt: Array.from({ length: 100_000 }, () => 'a'),
      n: 128,
      max_tokens: 1,
    })
    expect(answer.status).toBe(400)
  })
})
