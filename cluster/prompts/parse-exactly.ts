// JSON from a caller's body as values, where they are sure to be written again as an engine will read the original.
import { BACKSLASH, COLON, QUOTE, stringEnd } from './body.ts'

/** More values than any prompt has: parsing them would keep everyone waiting. */
export const PARSED_VALUES_MAX = 50_000

export type Parsed = { readonly ok: true; readonly value: unknown } | { readonly ok: false; readonly because: string }

/**
 * Parses the JSON between two offsets, unless a value of it could change by that: numbers beyond a double or written as
 * fractions without being any (Python keeps 1.0 apart from 1), names that are numbers (JavaScript sorts them), and names
 * with escapes, which V8 13.6 confuses with others that it has read before.
 */
export function parseExactly(body: Buffer, start: number, end: number): Parsed {
  const because = objectionTo(body, start, end)
  if (because !== undefined) return { ok: false, because }
  try {
    return { ok: true, value: JSON.parse(body.toString('utf8', start, end)) }
  } catch {
    return { ok: false, because: 'a part of the prompt is no JSON' }
  }
}

const COMMA = 0x2c
const MINUS = 0x2d
const SLASH = 0x2f
const ZERO = 0x30
const NINE = 0x39
const SPACE = 0x20
const DIGITS = /^\d+$/
const NUMBER = /^[-+.\deE]+/
/** No number that is kept exactly is longer. */
const NUMBER_BYTES_MAX = 32

/** The walk is over the bytes between the strings alone: they are few. */
function objectionTo(body: Buffer, start: number, end: number): string | undefined {
  let values = 1
  let at = start
  while (at < end) {
    const byte = body[at] as number
    if (byte === QUOTE) {
      const after = stringEnd(body, at)
      if (after === -1 || after > end) return 'a part of the prompt is no JSON'
      if (isName(body, after)) {
        const name = body.subarray(at + 1, after - 1)
        if (name.includes(BACKSLASH)) return 'a member name in the prompt has escapes'
        if (isDigit(name[0]) && DIGITS.test(name.toString('latin1'))) return 'a member name in the prompt is a number'
      }
      at = after
    } else if (byte === MINUS || isDigit(byte)) {
      const [number = ''] = NUMBER.exec(body.toString('latin1', at, at + NUMBER_BYTES_MAX)) ?? []
      if (!isKept(number)) return 'a number in the prompt can be written in several ways'
      at += number.length
    } else {
      if (byte === COMMA && ++values > PARSED_VALUES_MAX) return `the prompt has more than ${PARSED_VALUES_MAX} parts`
      at++
    }
  }
  return undefined
}

/** Whether the string that ended here is a member's name. */
function isName(body: Buffer, after: number): boolean {
  let at = after
  while ((body[at] ?? SLASH) <= SPACE) at++
  return body[at] === COLON
}

function isKept(number: string): boolean {
  if (number.length === NUMBER_BYTES_MAX) return false
  const value = Number(number)
  const isFraction = /[.eE]/.test(number)
  return isFraction ? Number.isFinite(value) && !Number.isInteger(value) : Number.isSafeInteger(value)
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= ZERO && byte <= NINE
}
