// The body scan against literals that try to hide a member, and against JSON.parse over arbitrary and damaged bodies.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  BODY_DEPTH_MAX,
  BODY_MEMBERS_MAX,
  type BodyMember,
  findMember,
  memberText,
  rewriteBody,
  scanBody,
  stringMember,
} from '../../../cluster/prompts/body.ts'
import { parseJson } from '../../parse-json.ts'

function membersOf(body: Buffer): readonly BodyMember[] {
  const scan = scanBody(body)
  if (!scan.ok) throw new Error(`${scan.message} at ${scan.offset}`)
  return scan.members
}

/** Name and value text of each member, or why there are none. */
function seen(body: string | Buffer): string | Record<string, string> {
  const bytes = Buffer.from(body)
  const scan = scanBody(bytes)
  if (!scan.ok) return scan.message
  return Object.fromEntries(scan.members.map((member) => [member.name, memberText(bytes, member)]))
}

function rewrite(body: string, drop: readonly string[], set: Record<string, string> = {}): string {
  const bytes = Buffer.from(body)
  const rewritten = rewriteBody(bytes, membersOf(bytes), (name) => drop.includes(name), new Map(Object.entries(set)))
  return rewritten.toString()
}

describe('scanBody', () => {
  it('shows each member where it stands, with the text of its value untouched', () => {
    const body = Buffer.from(' {"model" : "m" ,\r\n"messages":[{"role":"user"}],"n":-1.50e+2, "stream":true}\n')
    expect(seen(body)).toEqual({ model: '"m"', messages: '[{"role":"user"}]', n: '-1.50e+2', stream: 'true' })
    const spans = membersOf(body).map((member) => body.toString('utf8', member.start, member.end))
    expect(spans).toEqual(['"model" : "m"', '"messages":[{"role":"user"}]', '"n":-1.50e+2', '"stream":true'])
    expect(seen('{ }')).toEqual({})
  })

  it('a member cannot hide behind an escaped spelling of its name', () => {
    expect(seen(String.raw`{"\u006bv_transfer_params":1}`)).toEqual({ kv_transfer_params: '1' })
    expect(seen(String.raw`{"kv\u005ftransfer\u005Fparams":{}}`)).toEqual({ kv_transfer_params: '{}' })
  })

  it('a member cannot hide behind another of the same name', () => {
    expect(seen('{"model":"a","model":"b"}')).toBe('a second member "model"')
    expect(seen(String.raw`{"model":"a","\u006dodel":"b"}`)).toBe('a second member "model"')
  })

  it.each([
    ['UTF-16, which Python detects and reads', Buffer.from('{"a":1}', 'utf16le')],
    ['UTF-16 with a byte order mark', Buffer.from('\ufeff{"a":1}', 'utf16le')],
    ['UTF-8 with a byte order mark', '\ufeff{"a":1}'],
    ['a NUL inside a string', '{"a":"\0"}'],
    ['a NUL after the object', '{"a":1}\0'],
    ['a control character as white space', '{\v"a":1}'],
    ['a no-break space as white space', '{\u00a0"a":1}'],
    ['a control character in a name', '{"a\nb":1}'],
    ['a broken escape in a name', String.raw`{"\u006":1}`],
    ['a literal only Python knows', '{"a":NaN}'],
    ['a literal only Python knows, negative', '{"a":-Infinity}'],
    ['such a literal further down', '{"a":[NaN]}'],
    ['a number with a leading zero', '{"a":01}'],
    ['a number without its fraction', '{"a":1.}'],
    ['a word', '{"a":nul}'],
    ['a comment', '{"a":1 /* " */,"b":2}'],
    ['a comment further down', '{"a":[1 /* "]} */]}'],
    ['single quotes', "{'a':1}"],
    ['single quotes further down', `{"a":['"']}`],
    ['a name without quotes', '{a:1}'],
    ['a comma too many', '{"a":1,}'],
    ['a comma in front', '{,"a":1}'],
    ['a comma missing', '{"a":1 "b":2}'],
    ['a colon missing', '{"a" 1}'],
    ['a value missing', '{"a":}'],
    ['brackets that cross', '{"a":[{]},"b":1}'],
    ['a bracket closed twice', '{"a":[]]}'],
    ['a second object', '{"a":1}{"b":2}'],
    ['an array', '[{"a":1}]'],
    ['a string', '"a"'],
    ['nothing', ''],
    ['white space', ' \n'],
    ['a body cut off in a name', '{"a'],
    ['a body cut off before a value', '{"a":'],
    ['a body cut off in a string', String.raw`{"a":"b\"`],
    ['a body cut off in a nested value', '{"a":[1,'],
    ['a body cut off before its end', '{"a":1'],
  ])('refuses %s', (_, body) => {
    expect(scanBody(Buffer.from(body))).toMatchObject({ ok: false, offset: expect.any(Number) })
  })

  it('strings end where JSON ends them, however many backslashes and quotes they hold, near and far', () => {
    for (const padding of [0, 1, 12, 13, 14, 15, 16, 17, 31, 32, 33, 500]) {
      for (let backslashes = 0; backslashes < 6; backslashes++) {
        const text = 'x'.repeat(padding) + '\\'.repeat(backslashes)
        const value = JSON.stringify(`${text}","kv_transfer_params":{}, "${text}`)
        expect(seen(`{"a":${value},"b":[${value},{"c":${value}}]}`)).toEqual({
          a: value,
          b: `[${value},{"c":${value}}]`,
        })
      }
    }
  })

  it('depth and number of members are bounded, so a hostile body costs no more than its length', () => {
    const nested = (levels: number) => `{"a":${'['.repeat(levels - 1)}${']'.repeat(levels - 1)}}`
    expect(scanBody(Buffer.from(nested(BODY_DEPTH_MAX))).ok).toBe(true)
    expect(scanBody(Buffer.from(nested(BODY_DEPTH_MAX + 1))).ok).toBe(false)
    const wide = (members: number) => `{${Array.from({ length: members }, (_, index) => `"${index}":0`).join()}}`
    expect(scanBody(Buffer.from(wide(BODY_MEMBERS_MAX))).ok).toBe(true)
    expect(scanBody(Buffer.from(wide(BODY_MEMBERS_MAX + 1))).ok).toBe(false)
  })

  it('a refusal says where, and shows no more of the body than a piece of a name', () => {
    expect(scanBody(Buffer.from('{"a":1,"b":oops}'))).toEqual({ ok: false, message: 'expected a value', offset: 11 })
    const name = 'x'.repeat(1000)
    expect(seen(`{"${name}":1,"${name}":2}`)).toBe(`a second member "${'x'.repeat(64)}"`)
  })

  it('agrees with JSON.parse on every object, in every spelling', () => {
    fc.assert(
      fc.property(objectText(), (text) => {
        agree(Buffer.from(text), true)
      }),
      { numRuns: 1000 },
    )
  })

  it('a damaged body is refused, or read as JSON.parse reads it, or JSON.parse refuses it', () => {
    fc.assert(
      fc.property(
        objectText(),
        fc.array(fc.tuple(fc.nat(), fc.constantFrom(0, 0, 1, 2, 5), fragment()), { minLength: 1, maxLength: 4 }),
        (text, edits) => {
          let body = Buffer.from(text)
          for (const [where, removed, inserted] of edits) {
            const at = where % (body.length + 1)
            body = Buffer.concat([body.subarray(0, at), inserted, body.subarray(at + removed)])
          }
          agree(body, false)
        },
      ),
      { numRuns: 3000 },
    )
  })
})

describe('rewriteBody', () => {
  const body = '{ "model":"m" , "messages" : [1,  2],"user":"u","stream":true }'

  it('what is not touched stays byte for byte, white space, escapes and digits included', () => {
    expect(rewrite(body, ['user'])).toBe('{"model":"m" , "messages" : [1,  2],"stream":true}')
    expect(rewrite(String.raw`{"a":"\u00e9\/", "b":1.0,"c":1e400}`, ['c'])).toBe(String.raw`{"a":"\u00e9\/", "b":1.0}`)
  })

  it('drops first, last, neighbouring and all members without leaving a stray comma', () => {
    expect(rewrite(body, ['model'])).toBe('{"messages" : [1,  2],"user":"u","stream":true}')
    expect(rewrite(body, ['stream'])).toBe('{"model":"m" , "messages" : [1,  2],"user":"u"}')
    expect(rewrite(body, ['messages', 'user'])).toBe('{"model":"m","stream":true}')
    expect(rewrite(body, ['model', 'messages', 'user', 'stream'])).toBe('{}')
  })

  it('replaces in place and adds at the end, in any alphabet', () => {
    expect(rewrite(body, [], { user: '"é😀"', priority: '1' })).toBe(
      '{"model":"m" , "messages" : [1,  2],"user":"é😀","stream":true,"priority":1}',
    )
    expect(rewrite('{}', [], { 'a"b': '{}', é: 'null' })).toBe(String.raw`{"a\"b":{},"é":null}`)
  })

  it('the router’s own value stands even for a name that callers may not use', () => {
    expect(rewrite('{"priority":9}', ['priority'], { priority: '0' })).toBe('{"priority":0}')
    expect(rewrite('{"priority":0}', ['priority'], { priority: '0' })).toBe('{"priority":0}')
  })

  it('a body that needs no change is passed on as the same buffer, not copied', () => {
    const bytes = Buffer.from(body)
    const members = membersOf(bytes)
    expect(rewriteBody(bytes, members, () => false, new Map())).toBe(bytes)
    expect(rewriteBody(bytes, members, (name) => name === 'absent', new Map([['stream', 'true']]))).toBe(bytes)
  })

  it('the result reads as the object with those members gone and set', () => {
    fc.assert(
      fc.property(
        objectText(),
        fc.uniqueArray(fc.nat({ max: 5 })),
        fc.dictionary(fc.string(), fc.json()),
        (text, gone, set) => {
          const bytes = Buffer.from(text)
          const members = membersOf(bytes)
          const dropped = new Set(members.filter((_, index) => gone.includes(index)).map((member) => member.name))
          const rewritten = rewriteBody(bytes, members, (name) => dropped.has(name), new Map(Object.entries(set)))
          const expected = new Map(Object.entries(parseJson(text) as object))
          for (const name of dropped) expected.delete(name)
          for (const [name, json] of Object.entries(set)) expected.set(name, JSON.parse(json))
          expect(new Map(Object.entries(parseJson(rewritten.toString()) as object))).toEqual(expected)
        },
      ),
      { numRuns: 500 },
    )
  })
})

describe('values', () => {
  const body = Buffer.from('{"model":"llama\\/3 \\u00e9","n":1,"raw":"a\n"}')
  const members = membersOf(body)

  it('a model’s name is decoded; what is no string is none', () => {
    expect(stringMember(body, findMember(members, 'model'))).toBe('llama/3 é')
    expect(stringMember(body, findMember(members, 'n'))).toBeUndefined()
    expect(stringMember(body, findMember(members, 'absent'))).toBeUndefined()
  })

  it('a string that engines refuse is not read here either', () => {
    expect(stringMember(body, findMember(members, 'raw'))).toBeUndefined()
  })
})

/** Asserts that a scan of `body` and JSON.parse see the same object, unless either refuses it. */
function agree(body: Buffer, mustAccept: boolean): void {
  const scan = scanBody(body)
  let parsed: unknown
  try {
    parsed = parseJson(body.toString())
  } catch {
    expect(mustAccept).toBe(false)
    return
  }
  if (!scan.ok) {
    expect(mustAccept, JSON.stringify(scan)).toBe(false)
    return
  }
  expect(parsed).toBeTypeOf('object')
  expect(Array.isArray(parsed)).toBe(false)
  const values = new Map(scan.members.map((member) => [member.name, parseJson(memberText(body, member))]))
  expect(values.size).toBe(scan.members.length)
  expect(values).toEqual(new Map(Object.entries(parsed as object)))
}

it('the oracle itself reads escaped names right, which JSON.parse alone does not in every V8', () => {
  for (let round = 0; round < 5; round++) JSON.parse(String.raw`{"a":1,"\\":2}`)
  agree(Buffer.from(String.raw`{"a":1,"\u0071":2}`), true)
})

/** JSON text of an object without duplicate names: odd white space, every escape, values of all kinds. */
function objectText(): fc.Arbitrary<string> {
  const space = fc.constantFrom('', '', '', ' ', '\n', '\t', '\r\n  ')
  const { value } = fc.letrec<{ value: string }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      fc.string({ unit: 'grapheme' }).chain(spelled),
      fc.constantFrom('true', 'false', 'null', '0', '-0', '12.50', '-1e+30', '1E400', '{}', '[]', '[ ]', '""'),
      fc.constantFrom(JSON.stringify('x'.repeat(100)), JSON.stringify('\\'.repeat(99)), JSON.stringify('"'.repeat(70))),
      fc.array(fc.tuple(space, tie('value'), space).map((parts) => parts.join(''))).map((items) => `[${items}]`),
      fc
        .array(fc.tuple(space, fc.string().chain(spelled), space, tie('value')))
        .map((items) => `{${items.map(([before, name, after, item]) => `${before}${name}${after}:${item}`)}}`),
    ),
  }))
  const names = fc.uniqueArray(fc.oneof(fc.string(), fc.constantFrom('model', 'kv_transfer_params', '__proto__', 'é')))
  return fc
    .tuple(names, space, space)
    .chain(([unique, before, after]) =>
      fc
        .tuple(...unique.map((name) => fc.tuple(space, spelled(name), space, space, value, space)))
        .map(
          (members) =>
            `${before}{${members.map(([a, name, b, c, item, d]) => `${a}${name}${b}:${c}${item}${d}`)}}${after}`,
        ),
    )
}

/** The text as a JSON string, some of its characters escaped that need not be. */
function spelled(text: string): fc.Arbitrary<string> {
  return fc.array(fc.nat({ max: 3 }), { minLength: text.length, maxLength: text.length }).map((ways) => {
    const units = text.split('').map((unit, index) => {
      const hex = unit.charCodeAt(0).toString(16).padStart(4, '0')
      const isPair = /[\ud800-\udfff]/.test(unit)
      if (ways[index] === 0) return `\\u${hex}`
      // One half of a surrogate pair escaped and one plain would be another text.
      if (isPair) return `\\u${hex.toUpperCase()}`
      if (unit === '/' && ways[index] === 1) return '\\/'
      return JSON.stringify(unit).slice(1, -1)
    })
    return `"${units.join('')}"`
  })
}

function fragment(): fc.Arbitrary<Buffer> {
  const texts = [
    '"',
    '\\',
    '\\"',
    '\\\\',
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    'NaN',
    '-Infinity',
    '1',
    '0',
    '-',
    '.',
    'e',
    'true',
  ]
  const tricks = [
    '"a":1,',
    '"kv_transfer_params":{},',
    '\\u006b',
    "'",
    '/*',
    '*/',
    '\n',
    '\0',
    '\v',
    '\ufeff',
    '\u00a0',
    'é',
  ]
  return fc.oneof(
    fc.constantFrom(...texts, ...tricks).map((text) => Buffer.from(text)),
    fc.uint8Array({ max: 255, maxLength: 3 }).map((bytes) => Buffer.from(bytes)),
  )
}
