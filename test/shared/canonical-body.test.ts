// The canonical spelling of bodies, held against JSON.parse: by examples, by generated bodies and by mutated ones.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  BODY_BYTES_MAX,
  BODY_DEPTH_MAX,
  canonicaliseBody,
  readBody,
  serialiseBody,
} from '../../shared/canonical-body.ts'
import { parseJson } from '../parse-json.ts'

function canonicalOf(text: string): string | undefined {
  const body = canonicaliseBody(text)
  return body.ok ? serialiseBody(body.members) : undefined
}

function refusalOf(text: string): string {
  const body = canonicaliseBody(text)
  if (body.ok) throw new Error(`not refused: ${text}`)
  return `${body.rejection.reason}: ${body.rejection.message}`
}

describe('examples', () => {
  it.each([
    ['{}', '{}'],
    [' { } \n', '{}'],
    ['{"b":1,"a":2}', '{"a":2,"b":1}'],
    ['{"a":{"z":1,"y":[ 2 , 3 ]}}', '{"a":{"z":1,"y":[2,3]}}'],
    ['{"b":[],"a":{ }}', '{"a":{},"b":[]}'],
    ['{"seed":9007199254740993,"x":1.0,"y":1E5,"z":-0}', '{"seed":9007199254740993,"x":1.0,"y":1E5,"z":-0}'],
    ['{"a":"\\u0041\\/\\u000A\\u00e9\u2028"}', '{"a":"A/\\né\u2028"}'],
    ['{"a":"\\ud83d\\ude00"}', '{"a":"😀"}'],
    ['{"\\u0062":true,"a":null}', '{"a":null,"b":true}'],
    ['{"10":1,"9":2,"__proto__":{"a":3}}', '{"10":1,"9":2,"__proto__":{"a":3}}'],
    ['{"a" : "x" , "b" : [ "\\/" , false ] }', '{"a":"x","b":["/",false]}'],
    ['{"\u{1f600}":1,"\uffff":2}', '{"\u{1f600}":1,"\uffff":2}'],
  ])('%s', (text, expected) => {
    expect(canonicalOf(text)).toBe(expected)
  })

  it.each([
    ['', 'must be a JSON object (at the end of the body)'],
    ['[]', 'must be a JSON object (at offset 0)'],
    ['"{}"', 'must be a JSON object'],
    ['{', 'expected a member name in quotes (at the end'],
    ['{"a"}', 'expected ":" after a member name (at offset 4, in a)'],
    ['{"a":}', 'expected a value (at offset 5, in a)'],
    ['{"a":1,}', 'expected a member name in quotes (at offset 7'],
    ['{"a":[1,]}', 'expected a value (at offset 8, in a[1])'],
    ['{"a":[1 2]}', 'expected "," or "]" (at offset 8, in a[0])'],
    ['{"a":1 "b":2}', 'expected "," or "}" (at offset 7'],
    ['{"a":01}', 'expected "," or "}"'],
    ['{"a":1.}', 'expected "," or "}"'],
    ['{"a":.5}', 'expected a value'],
    ['{"a":+1}', 'expected a value'],
    ['{"a":-}', 'expected a value'],
    ['{"a":1e}', 'expected "," or "}"'],
    ['{"a":NaN}', 'expected a value'],
    ['{"a":nul}', 'expected a value'],
    ['{"a":truer}', 'expected "," or "}"'],
    ["{'a':1}", 'expected a member name in quotes'],
    ['{"a":"\n"}', 'control character or invalid escape in a string (at offset 6, in a)'],
    ['{"a":"xy\\q"}', 'control character or invalid escape in a string (at offset 8, in a)'],
    ['{"a":"\\u00g0"}', 'control character or invalid escape'],
    ['{"a":"\\"}', 'unterminated string (at offset 5, in a)'],
    ['{"a":"\\ud800"}', 'lone surrogate in a string (at offset 5, in a)'],
    ['{"a":"\ud800"}', 'lone surrogate at offset 6'],
    ['{"\\udfff":1}', 'lone surrogate'],
    ['{"a":1,"a":2}', 'duplicate member "a" (at offset 7'],
    ['{"a":1,"\\u0061":2}', 'duplicate member "a"'],
    ['{"tools":[{"x":{"c":1,"\\u0063":2}}]}', 'duplicate member "c" (at offset 22, in tools[0].x.c)'],
    ['{"a":1}{}', 'nothing may follow the body (at offset 7)'],
    ['{"a":1}\u00a0', 'nothing may follow the body'],
    ['\ufeff{}', 'must be a JSON object'],
  ])('refuses %j', (text, message) => {
    expect(refusalOf(text)).toContain('invalid-body: ')
    expect(refusalOf(text)).toContain(message)
  })

  it('counts levels from the body itself', () => {
    const nested = (levels: number) => `{"a":${'['.repeat(levels - 1)}${']'.repeat(levels - 1)}}`
    expect(canonicalOf(nested(BODY_DEPTH_MAX))).toBe(nested(BODY_DEPTH_MAX))
    expect(refusalOf(nested(BODY_DEPTH_MAX + 1))).toContain(`nested deeper than ${BODY_DEPTH_MAX} levels`)
  })

  it('keeps messages short, whatever the names', () => {
    const name = 'n'.repeat(100_000)
    expect(refusalOf(`{"${name}":{"${name}":1,"${name}":2}}`).length).toBeLessThan(500)
    expect(refusalOf(`{"a":${'{"b":'.repeat(60)}`).length).toBeLessThan(200)
  })

  it('lets callers edit the members', () => {
    const body = canonicaliseBody('{"model":"m","priority":1}')
    if (!body.ok) throw new Error(body.rejection.message)
    body.members.delete('priority')
    body.members.set('cache_salt', '"s"')
    expect(serialiseBody(body.members)).toBe('{"cache_salt":"s","model":"m"}')
  })
})

describe('bytes', () => {
  const encoder = new TextEncoder()

  it('reads UTF-8', () => {
    const body = readBody(encoder.encode('{"a":"é😀"}'))
    expect(body.ok && serialiseBody(body.members)).toBe('{"a":"é😀"}')
  })

  it.each([
    ['bytes that are not UTF-8', new Uint8Array([0x7b, 0xff, 0x7d]), 'not valid UTF-8'],
    ['a surrogate in UTF-8', new Uint8Array([0x7b, 0x22, 0xed, 0xa0, 0x80, 0x22, 0x3a, 0x31, 0x7d]), 'not valid UTF-8'],
    ['a byte order mark', encoder.encode('\ufeff{}'), 'byte order mark'],
  ])('refuses %s', (_, bytes, message) => {
    expect(readBody(bytes)).toMatchObject({
      ok: false,
      rejection: { reason: 'invalid-body', message: expect.stringContaining(message) },
    })
  })

  it('refuses more than the limit, and takes the limit itself', () => {
    const full = `{"a":"${'x'.repeat(BODY_BYTES_MAX - 8)}"}`
    expect(readBody(encoder.encode(full)).ok).toBe(true)
    const over = { ok: false, rejection: { reason: 'body-too-large' } }
    expect(readBody(encoder.encode(`${full} `))).toMatchObject(over)
    expect(canonicaliseBody(`${full} `)).toMatchObject(over)
  })
})

describe('generated bodies', () => {
  const anyJson = fc.jsonValue({ maxDepth: 6, stringUnit: 'binary' })
  const anyBody = fc.dictionary(fc.string({ unit: 'binary' }), anyJson, { maxKeys: 8 })
  const space = fc.constantFrom('', '', ' ', '\n', '\t\r\n ')

  /** Spells a value in one of its many ways: `draw` decides about white space, escapes and the order at the top. */
  function spelled(value: unknown, draw: () => number, top = true): string {
    const gap = () => ['', ' ', '\n\t', '\r\n'][draw() % 4] ?? ''
    if (typeof value === 'string') return spelledString(value, draw)
    if (Array.isArray(value)) {
      return `[${gap()}${value.map((item) => spelled(item, draw, false)).join(`${gap()},${gap()}`)}${gap()}]`
    }
    if (typeof value === 'object' && value !== null) {
      const entries = Object.entries(value)
      if (top && draw() % 2 === 0) entries.reverse()
      const members = entries.map(
        ([name, item]) => `${spelledString(name, draw)}${gap()}:${gap()}${spelled(item, draw, false)}`,
      )
      return `{${gap()}${members.join(`${gap()},${gap()}`)}${gap()}}`
    }
    return JSON.stringify(value)
  }

  function spelledString(value: string, draw: () => number): string {
    const characters = Array.from(value, (character) => {
      if (draw() % 3 === 0) return escaped(character, draw() % 2 === 0)
      return character === '/' ? '\\/' : JSON.stringify(character).slice(1, -1)
    })
    return `"${characters.join('')}"`
  }

  function escaped(character: string, upperCase: boolean): string {
    const units = character.split('').map((unit) => unit.charCodeAt(0).toString(16).padStart(4, '0'))
    return units.map((hex) => `\\u${upperCase ? hex.toUpperCase() : hex}`).join('')
  }

  function drawsFrom(seed: number): () => number {
    let state = seed >>> 0
    return () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return state >>> 16
    }
  }

  it('mean what JSON.parse reads, and their canonical form is a fixed point', () => {
    fc.assert(
      fc.property(anyBody, space, (body, gap) => {
        const canonical = canonicalOf(gap + JSON.stringify(body, null, 2) + gap)
        if (canonical === undefined) throw new Error('refused')
        expect(parseJson(canonical)).toEqual(parseJson(JSON.stringify(body)))
        expect(canonicalOf(canonical)).toBe(canonical)
        const names = Object.keys(body).sort()
        const raw = canonicaliseBody(canonical)
        expect(raw.ok && [...raw.members.keys()]).toEqual(names)
      }),
      { numRuns: 300 },
    )
  })

  it('have one form, however they are spelled', () => {
    fc.assert(
      fc.property(anyBody, fc.nat(), fc.nat(), (body, one, other) => {
        const first = canonicalOf(spelled(body, drawsFrom(one)))
        expect(first).toBeDefined()
        expect(canonicalOf(spelled(body, drawsFrom(other)))).toBe(first)
      }),
      { numRuns: 300 },
    )
  })

  it('strings are spelled as JSON.stringify spells them, however many escapes they have', () => {
    const piece = fc.constantFrom('a', 'é', '"', '\\', '\n', '\t', '\u0001', '/', '\u2028', '😀')
    const wordy = fc.array(piece, { maxLength: 400 }).map((pieces) => pieces.join(''))
    fc.assert(
      fc.property(wordy, fc.boolean(), (text, slashes) => {
        const spelled = JSON.stringify(text)
        const given = slashes ? spelled.replaceAll('/', '\\/') : spelled
        expect(canonicalOf(`{"a":${given},"b":[${given}]}`)).toBe(`{"a":${spelled},"b":[${spelled}]}`)
      }),
    )
  })

  it('keep every number as written', () => {
    const digits = fc.string({ unit: fc.constantFrom(...'0123456789'), minLength: 1, maxLength: 30 })
    const number = fc
      .tuple(
        fc.constantFrom('', '-'),
        digits,
        fc.option(digits),
        fc.option(fc.tuple(fc.constantFrom('e', 'E', 'e-', 'E+'), digits)),
      )
      .map(([sign, whole, fraction, exponent]) => {
        const head = sign + whole.replace(/^0+(?=.)/, '')
        return head + (fraction === null ? '' : `.${fraction}`) + (exponent ?? []).join('')
      })
    fc.assert(
      fc.property(fc.array(number, { minLength: 1 }), (numbers) => {
        expect(canonicalOf(`{"n": [ ${numbers.join(' , ')} ]}`)).toBe(`{"n":[${numbers.join(',')}]}`)
      }),
    )
  })

  it('are refused only where JSON.parse refuses or a rule of ours says so, when they are damaged', () => {
    const ours = /duplicate member|nested deeper|must be a JSON object|lone surrogate/
    const edit = fc.tuple(fc.nat(), fc.nat(3), fc.constantFrom(...'{}[]",:\\/u0123456789eE+-.tfn \n\u0000\ud83dé'))
    let accepted = 0
    fc.assert(
      fc.property(anyBody, fc.array(edit, { minLength: 1, maxLength: 3 }), (body, edits) => {
        let text = JSON.stringify(body)
        for (const [at, removed, inserted] of edits) {
          const cut = at % (text.length + 1)
          text = text.slice(0, cut) + inserted + text.slice(cut + removed)
        }
        const parsed = parse(text)
        const canonical = canonicalOf(text)
        if (canonical === undefined) {
          if (parsed !== undefined) expect(refusalOf(text)).toMatch(ours)
          return
        }
        accepted++
        expect(parsed).toBeDefined()
        expect(parseJson(canonical)).toEqual(parsed)
        expect(canonicalOf(canonical)).toBe(canonical)
      }),
      { numRuns: 2_000 },
    )
    expect(accepted).toBeGreaterThan(0)
  })

  function parse(text: string): unknown {
    try {
      return parseJson(text)
    } catch {
      return undefined
    }
  }
})

describe('hostile bodies are read in one pass', () => {
  // A pass that went back over the text would take hours here; one pass takes a fraction of a second.
  const LIMIT_MS = 15_000
  const full = (before: string, unit: string, after: string) =>
    before + unit.repeat(Math.floor((BODY_BYTES_MAX - before.length - after.length) / unit.length)) + after
  const manyNames = Array.from({ length: 300_000 }, (_, i) => `"${i}":0`).join(',')

  it.each([
    ['backslashes', full('{"a":"', '\\\\', '"}'), true],
    ['backslashes without an end', full('{"a":"', '\\', ''), false],
    ['escaped quotes', full('{"a":"', '\\"', '"}'), true],
    ['escapes', full('{"a":"', '\\u0041', '"}'), true],
    ['a bad escape at the end', full('{"a":"', '\\n', '\\x"}'), false],
    ['a control character at the end', full('{"a":"', 'x', '\u0001"}'), false],
    ['opening brackets', full('{"a":', '[', ''), false],
    ['opening braces', full('', '{"a":', ''), false],
    ['quotes', full('{"a":', '"', ''), false],
    ['short strings', full('{"a":[', '"\\/",', '""]}'), true],
    ['white space', full('', ' ', '{}'), true],
    ['white space between numbers', full('{"a":[', '1 , ', '1]}'), true],
    ['one number', full('{"a":', '1', '}'), true],
    ['small objects', full('{"a":[', '{"a":1},', '1]}'), true],
    ['names at the top', `{${manyNames}}`, true],
    ['names below', `{"a":{${manyNames}}}`, true],
  ])('%s', (_, text, accepted) => {
    const start = performance.now()
    expect(canonicaliseBody(text).ok).toBe(accepted)
    expect(performance.now() - start).toBeLessThan(LIMIT_MS)
  })
})
