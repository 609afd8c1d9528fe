import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { PARSED_VALUES_MAX, parseExactly } from '../../../cluster/prompts/parse-exactly.ts'
import { parseJson } from '../../parse-json.ts'

function parse(text: string) {
  const body = Buffer.from(text)
  return parseExactly(body, 0, body.length)
}

describe('a part of a prompt that would be written otherwise than it was read is not parsed', () => {
  it.each([
    ['{"a":1.0}', 'a number in the prompt can be written in several ways'],
    ['[1e5]', 'a number in the prompt can be written in several ways'],
    ['[-0.0]', 'a number in the prompt can be written in several ways'],
    ['[1e999]', 'a number in the prompt can be written in several ways'],
    ['9007199254740993', 'a number in the prompt can be written in several ways'],
    [`[0.${'1'.repeat(40)}]`, 'a number in the prompt can be written in several ways'],
    ['{"b":1,"2":2}', 'a member name in the prompt is a number'],
    ['[{"\\u0071":2}]', 'a member name in the prompt has escapes'],
    ['[{"a\\\\" : 2}]', 'a member name in the prompt has escapes'],
    ['["x" "y"]', 'a part of the prompt is no JSON'],
    ['["x', 'a part of the prompt is no JSON'],
    ['', 'a part of the prompt is no JSON'],
  ])('%s', (text, because) => expect(parse(text)).toEqual({ ok: false, because }))

  it.each(['{"a":[0.5,-1,0,2.25e-1]}', '["\\"x\\": 1.0", "7"]', '{"1st":null,"a ":"\\n"}'])('but %s is', (text) =>
    expect(parse(text)).toEqual({ ok: true, value: JSON.parse(text) }),
  )
})

it('gives the same value as a parser that can be trusted, for all that it parses', () => {
  // Names that V8 takes for one another once it has seen both.
  const name = fc.constantFrom('"a"', '"\\\\"', '"\\u0071"', '"q"', '"10"', '"__proto__"')
  const json = fc.letrec<{ value: string }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 3 },
      fc.constantFrom('1', '1.0', '-2.5', '"x\\"y"', '"\\\\"', 'true', 'null', '12345678901234567890'),
      fc.array(tie('value'), { maxLength: 3 }).map((items) => `[${items.join(' , ')}]`),
      fc
        .uniqueArray(fc.tuple(name, tie('value')), { maxLength: 3, selector: ([each]) => each })
        .map((items) => `{${items.map(([each, value]) => `${each} :${value}`).join()}}`),
    ),
  })).value
  fc.assert(
    fc.property(json, (text) => {
      const parsed = parse(text)
      if (!parsed.ok) return
      expect(parsed.value).toEqual(parseJson(text))
      // Written again, Python reads what it would have read: an int stays one, and members keep their order.
      expect(JSON.stringify(parsed.value)).toBe(JSON.stringify(parseJson(text)))
      expect(text).not.toMatch(/1\.0|1234567890/)
    }),
  )
})

describe('what it costs', () => {
  it('is bounded for a body of nothing but structure: nobody else is served meanwhile', () => {
    const startedAtMs = performance.now()
    expect(parse(`[${Array(2_000_000).fill('[]').join()}]`)).toEqual({
      ok: false,
      because: `the prompt has more than ${PARSED_VALUES_MAX} parts`,
    })
    expect(parse(`["${'\\\\'.repeat(2_000_000)}"]`).ok).toBe(true)
    expect(performance.now() - startedAtMs).toBeLessThan(500)
  })
})
