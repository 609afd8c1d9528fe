// What vLLM makes of the same requests stands in test/real/prompts.test.ts.
import { describe, expect, it } from 'vitest'
import { scanBody } from '../../../cluster/prompts/body.ts'
import { responsesPrompt } from '../../../cluster/prompts/responses-prompt.ts'

function prompt(members: object) {
  const body = Buffer.from(JSON.stringify({ model: 'm', ...members }))
  const scan = scanBody(body)
  if (!scan.ok) throw new Error(scan.message)
  const found = responsesPrompt({ dialect: 'responses', body, members: scan.members })
  const made = found.forEngine()
  if (!made.ok) return made.because
  const { add_special_tokens, ...chat } = JSON.parse(made.body.toString())
  expect(add_special_tokens).toBe(true)
  return chat
}

const user = { role: 'user', content: 'hi' }
const call = { type: 'function_call', call_id: 'c1', name: 'f', arguments: '{}' }
const called = { id: 'c1', type: 'function', function: { name: 'f', arguments: '{}' } }
const said = { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'ok' }] }

describe('the chat that an engine makes of a response’s input', () => {
  it('holds the prompt alone, with the instructions first', () => {
    const how = { max_output_tokens: 5, stream: true, store: true, metadata: {}, temperature: 0, cache_salt: 's' }
    expect(prompt({ ...how, instructions: 'Be kind.', input: 'hi' })).toEqual({
      model: 'm',
      messages: [{ role: 'system', content: 'Be kind.' }, user],
    })
  })

  it.each<[string, object[], object[]]>([
    [
      'one turn of reasoning, words and calls',
      [{ type: 'reasoning', summary: [], content: [{ text: 'r' }] }, said, call, call],
      [{ role: 'assistant', reasoning: 'r', content: 'ok', tool_calls: [called, called] }],
    ],
    [
      'a turn for each answer',
      [said, said],
      [
        { role: 'assistant', content: 'ok' },
        { role: 'assistant', content: 'ok' },
      ],
    ],
    [
      'a new turn after a result',
      [call, { type: 'function_call_output', call_id: 'c1', output: '1' }, call],
      [
        { role: 'assistant', tool_calls: [called] },
        { role: 'tool', content: '1', tool_call_id: 'c1' },
        { role: 'assistant', tool_calls: [called] },
      ],
    ],
  ])('has %s', (_, input, messages) => expect(prompt({ input }).messages).toEqual(messages))
})

describe('a prompt is unknown rather than wrong', () => {
  const goesOn = 'the prompt goes on from what only an engine knows'
  it.each<[string, object]>([
    [goesOn, { input: 'x', previous_response_id: 'resp_1' }],
    [goesOn, { input: 'x', previous_input_messages: [] }],
    [goesOn, { input: 'x', prompt: { id: 'p' } }],
    ['an engine may truncate the prompt', { input: 'x', truncation: 'auto' }],
    ['`input` is not a list', {}],
    ['an item of `input` is not an object', { input: ['x'] }],
    [
      'an item of `input` is neither a message, nor reasoning, nor of a tool',
      { input: [{ type: 'item_reference', id: 'x' }] },
    ],
    [
      'an item of `input` is neither a message, nor reasoning, nor of a tool',
      { input: [{ role: 'tool', content: 'x' }] },
    ],
    ['the last item of `input` goes on', { input: [{ ...said, status: 'incomplete' }] }],
    ['a part of a message is not text', { input: [{ role: 'user', content: [{ type: 'input_image' }] }] }],
    ['a part of a message is not an object', { input: [{ ...said, content: [] }] }],
    ['the output of a tool is not text', { input: [{ type: 'function_call_output', call_id: 'c', output: [] }] }],
    ['a call names a namespace', { input: [{ ...call, namespace: 'n' }] }],
    ['reasoning is encrypted', { input: [{ type: 'reasoning', summary: [], encrypted_content: 'x' }] }],
    ['a tool is no function', { input: 'x', tools: [{ type: 'web_search' }] }],
  ])('%s', (because, members) => expect(prompt(members)).toBe(because))
})
