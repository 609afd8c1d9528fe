// What vLLM makes of the same requests stands in test/real/prompts.test.ts.
import { describe, expect, it } from 'vitest'
import { scanBody } from '../../../cluster/prompts/body.ts'
import { messagesPrompt } from '../../../cluster/prompts/messages-prompt.ts'

function prompt(members: object | string) {
  const body = Buffer.from(typeof members === 'string' ? members : JSON.stringify({ model: 'm', ...members }))
  const scan = scanBody(body)
  if (!scan.ok) throw new Error(scan.message)
  const found = messagesPrompt({ dialect: 'messages', body, members: scan.members })
  const made = found.forEngine()
  return made.ok ? JSON.parse(made.body.toString()) : made.because
}

const user = { role: 'user', content: 'hi' }
const ofUser = (...content: object[]) => ({ messages: [{ role: 'user', content }] })
const ofAssistant = (...content: object[]) => ({ messages: [{ role: 'assistant', content }] })
const ofSystem = (...system: object[]) => ({ system, messages: [user] })

describe('the chat that an engine makes of messages', () => {
  it('holds the prompt alone, not how it is answered', () => {
    const how = { max_tokens: 5, stream: true, temperature: 0, metadata: { user_id: 'u' }, cache_salt: 's' }
    expect(prompt({ ...how, messages: [user] })).toEqual({ model: 'm', messages: [user] })
  })

  it('has results of tools before what is said with them, and calls as Python writes them', () => {
    const { messages } = prompt({
      messages: [
        {
          role: 'assistant',
          content: [
            { type: 'thinking', thinking: 'a' },
            { type: 'thinking', thinking: 'b' },
            { type: 'tool_use', id: 't1', name: 'f', input: { city: 'Köln 🔥', n: [1, { x: null }], y: {} } },
          ],
        },
        {
          role: 'user',
          content: [
            { type: 'text', text: 'and?' },
            {
              type: 'tool_result',
              tool_use_id: 't1',
              content: [
                { type: 'text', text: '1' },
                { type: 'text', text: '2' },
              ],
            },
          ],
        },
      ],
    })
    const text = '{"city": "K\\u00f6ln \\ud83d\\udd25", "n": [1, {"x": null}], "y": {}}'
    expect(messages).toEqual([
      {
        role: 'assistant',
        reasoning: 'ab',
        tool_calls: [{ id: 't1', type: 'function', function: { name: 'f', arguments: text } }],
      },
      { role: 'tool', tool_call_id: 't1', content: '1\n2' },
      { role: 'user', content: 'and?' },
    ])
  })

  it('has the type of a schema at its end where the caller left it out', () => {
    const { tools } = prompt({ tools: [{ name: 'f', input_schema: { properties: {} } }], messages: [] })
    expect(JSON.stringify(tools)).toBe(
      '[{"type":"function","function":{"name":"f","parameters":{"properties":{},"type":"object"}}}]',
    )
  })
})

describe('a prompt is unknown rather than wrong', () => {
  it.each<[string, object]>([
    ['a system message stands among the others', { messages: [user, { role: 'system', content: 'x' }] }],
    ['the role of a message is not known', { messages: [{ role: 'tool', content: 'x' }] }],
    ['`messages` is not a list', {}],
    ['a message is not an object', { messages: ['hi'] }],
    ['the content of a message is not a list', { messages: [{ role: 'user', content: 7 }] }],
    ['a block of `system` is not text', ofSystem({ type: 'image' })],
    [
      'a block of a message is neither text, nor thinking, nor of a tool',
      ofUser({ type: 'image', source: { type: 'url', url: 'http://127.0.0.1/x.png' } }),
    ],
    [
      'a block of a message is neither text, nor thinking, nor of a tool',
      ofUser({ type: 'tool_addition', tool: { type: 'tool_reference', name: 'f' } }),
    ],
    ['a text block is not text', ofUser({ type: 'text', text: 7 })],
    ['the result of a tool is not text', ofUser({ type: 'tool_result', content: [{ type: 'image', source: {} }] })],
    ['the result of a tool is not text', ofUser({ type: 'tool_result', content: [{ type: 'tool_reference' }] })],
    ['the assistant has a result of a tool', ofAssistant({ type: 'tool_result', content: 'x' })],
    ['a call of a tool has no id', ofAssistant({ type: 'tool_use', name: 'f', input: {} })],
    ['the input of a call is not an object', ofAssistant({ type: 'tool_use', id: 't', name: 'f', input: [1] })],
    ['the schema of a tool is not an object', { messages: [user], tools: [{ type: 'web_search', name: 'w' }] }],
  ])('%s', (because, members) => expect(prompt(members)).toBe(because))

  it.each([
    ['{"model":"m","messages":[{"role":"user","\\u0063ontent":"x"}]}', 'a member name in the prompt has escapes'],
    [
      '{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use","id":"t","input":{"n":1.0}}]}]}',
      'a number in the prompt can be written in several ways',
    ],
  ])('%s', (body, because) => expect(prompt(body)).toBe(because))
})

it('of 400 KB takes milliseconds', () => {
  const turn = { role: 'user', content: [{ type: 'text', text: 'Say "warm",\nplease. '.repeat(100) }] }
  const members = { model: 'm', messages: Array(200).fill(turn), system: 'x' }
  const body = Buffer.from(JSON.stringify(members))
  const scan = scanBody(body)
  if (!scan.ok) throw new Error(scan.message)
  const timesMs = Array.from({ length: 9 }, () => {
    const startedAtMs = performance.now()
    expect(messagesPrompt({ dialect: 'messages', body, members: scan.members }).kind).toBe('text')
    return performance.now() - startedAtMs
  }).sort((a, b) => a - b)
  expect(body.length).toBeGreaterThan(400_000)
  expect(timesMs[4]).toBeLessThan(30)
})
