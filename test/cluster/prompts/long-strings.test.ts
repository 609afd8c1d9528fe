// Which strings of a body are long texts of its conversation: whatever else is long stays where it is.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { scanBody } from '../../../cluster/prompts/body.ts'
import { findLongStrings, withStandIns } from '../../../cluster/prompts/long-strings.ts'

const LONG = 'word '.repeat(200)

function found(request: unknown): string[] {
  const body = Buffer.from(JSON.stringify(request))
  const scan = scanBody(body)
  if (!scan.ok) throw new Error(scan.message)
  return findLongStrings(body, scan.members).spans.map(({ start, end }) =>
    JSON.parse(body.toString('utf8', start, end)),
  )
}

describe('long texts of a conversation are found', () => {
  const rows: readonly (readonly [string, object, number])[] = [
    ['contents of messages', { messages: [{ role: 'user', content: LONG }, { content: 'short' }] }, 1],
    ['parts', { messages: [{ content: [{ type: 'text', text: LONG }, LONG] }] }, 2],
    ['the system, in text and in blocks', { system: LONG, messages: [] }, 1],
    ['blocks of the system', { system: [{ type: 'text', text: LONG }], messages: [] }, 1],
    ['results of tools', { messages: [{ content: [{ type: 'tool_result', content: [{ text: LONG }] }] }] }, 1],
    ['a response’s input', { instructions: LONG, input: [{ content: LONG }, { output: LONG }] }, 3],
    ['a prompt', { prompt: LONG }, 1],
    ['nothing of a call', { messages: [{ tool_calls: [{ function: { arguments: LONG } }] }] }, 0],
    [
      'nothing of a call’s input, whatever its members are named',
      { messages: [{ content: [{ input: { content: LONG } }] }] },
      0,
    ],
    ['nothing of a schema', { tools: [{ function: { description: LONG } }], messages: [] }, 0],
    ['nothing elsewhere', { metadata: { content: LONG }, user: LONG }, 0],
  ]
  it.each(rows)('%s', (_, request, count) => {
    expect(found(request)).toEqual(Array(count).fill(LONG))
  })
})

describe('a body with stand-ins', () => {
  it('says the same but for the strings that were stood in for', () => {
    const texts = fc.oneof(
      fc.string({ unit: 'binary' }).map((text) => text.toWellFormed()),
      fc.constant(LONG),
    )
    fc.assert(
      fc.property(fc.array(fc.record({ content: texts, name: texts })), fc.array(fc.boolean()), (messages, choices) => {
        const body = Buffer.from(JSON.stringify({ messages }))
        const scan = scanBody(body)
        if (!scan.ok) return
        const { spans } = findLongStrings(body, scan.members)
        const standIns = spans.map((_, index) => (choices[index] ? `<${index}>\n"` : undefined))
        const short = withStandIns({ body, members: scan.members }, spans, standIns)
        let index = 0
        const expected = messages.map(({ content, name }) => {
          const isLong = Buffer.byteLength(JSON.stringify(content)) >= 512
          return { content: isLong ? (standIns[index++] ?? content) : content, name }
        })
        expect(JSON.parse(short?.body.toString() ?? '')).toEqual({ messages: expected })
      }),
    )
  })
})
