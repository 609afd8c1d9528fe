// A request body's top-level members by where they stand, so that a 400 KB prompt is neither parsed nor rebuilt to read
// `model` or to drop one member. A body comes from anyone: whatever an engine's parser might read otherwise is refused.

/** Deeper bodies are refused; the object itself is the first level. Tool schemas stay far below. */
export const BODY_DEPTH_MAX = 64
/** Far above what the API defines; keeps a hostile body from becoming a million objects. */
export const BODY_MEMBERS_MAX = 1024

/** Offsets are bytes. `start` to `end` is `"name":value`, `valueStart` to `valueEnd` the value alone. */
export type BodyMember = {
  /** With its escapes decoded: `"\u006bv"` is `kv`. */
  readonly name: string
  readonly start: number
  readonly end: number
  readonly valueStart: number
  readonly valueEnd: number
}

export type BodyScan = { readonly ok: true; readonly members: readonly BodyMember[] } | BodyFault

/** `message` may be shown to the caller: it quotes nothing but a member's name. */
export type BodyFault = { readonly ok: false; readonly message: string; readonly offset: number }

/**
 * Finds the members of the JSON object in `body`. It refuses some malformed bodies and passes others on (what stands
 * inside a string or a nested value is the engine's to judge), but what it passes has exactly these members for every
 * parser that accepts it.
 */
export function scanBody(body: Buffer): BodyScan {
  // No JSON in UTF-8 holds one, all JSON in UTF-16 and UTF-32 does, and Python detects and reads those.
  const nul = body.indexOf(0)
  if (nul !== -1) return fault('a NUL byte; a body is JSON in UTF-8', nul)
  let at = skipSpace(body, 0)
  if (body[at] !== OPEN_BRACE) return fault('expected a JSON object', at)
  at = skipSpace(body, at + 1)
  const members: BodyMember[] = []
  if (body[at] === CLOSE_BRACE) return atEnd(body, at + 1, members)
  // Parsers disagree on which of two members of one name counts.
  const names = new Set<string>()
  for (;;) {
    if (members.length === BODY_MEMBERS_MAX) return fault(`more than ${BODY_MEMBERS_MAX} members`, at)
    const start = at
    if (body[at] !== QUOTE) return fault('expected a member name in double quotes', at)
    const nameEnd = stringEnd(body, at)
    if (nameEnd === -1) return fault('a member name does not end', at)
    const name = decodeString(body, at, nameEnd)
    if (name === undefined) return fault('a member name is not a valid JSON string', at)
    if (names.has(name)) return fault(`a second member ${JSON.stringify(name.slice(0, SHOWN_NAME_CHARS))}`, at)
    names.add(name)
    at = skipSpace(body, nameEnd)
    if (body[at] !== COLON) return fault("expected ':' after a member name", at)
    const valueStart = skipSpace(body, at + 1)
    const valueEnd = findValueEnd(body, valueStart)
    if (typeof valueEnd !== 'number') return valueEnd
    members.push({ name, start, end: valueEnd, valueStart, valueEnd })
    at = skipSpace(body, valueEnd)
    if (body[at] === CLOSE_BRACE) return atEnd(body, at + 1, members)
    if (body[at] !== COMMA) return fault("expected ',' or '}' after a value", at)
    at = skipSpace(body, at + 1)
  }
}

/**
 * The body with the members that `drop` names left out and those of `set` (name to JSON text) replaced or, at the end,
 * added; `set` wins over `drop`. Everything else is copied as it stands. The same buffer when nothing changes.
 */
export function rewriteBody(
  body: Buffer,
  members: readonly BodyMember[],
  drop: (name: string) => boolean,
  set: ReadonlyMap<string, string>,
): Buffer {
  const pieces: (Span | string)[] = []
  const present = new Set<string>()
  let changed = false
  // Neighbours that stay are one span, with what stands between them.
  let run: Span | undefined
  for (const member of members) {
    const text = set.get(member.name)
    if (text !== undefined) present.add(member.name)
    if (text === undefined ? !drop(member.name) : hasText(body, member, text)) {
      if (run) {
        run.end = member.end
      } else {
        run = { start: member.start, end: member.end }
        pieces.push(run)
      }
      continue
    }
    changed = true
    run = undefined
    if (text !== undefined) pieces.push(memberJson(member.name, text))
  }
  for (const [name, text] of set) {
    if (present.has(name)) continue
    changed = true
    pieces.push(memberJson(name, text))
  }
  return changed ? joinObject(body, pieces) : body
}

export function findMember(members: readonly BodyMember[], name: string): BodyMember | undefined {
  return members.find((member) => member.name === name)
}

/** The value's JSON text. */
export function memberText(body: Buffer, member: BodyMember): string {
  return body.toString('utf8', member.valueStart, member.valueEnd)
}

/** The value if it is a string, decoded; else undefined. */
export function stringMember(body: Buffer, member: BodyMember | undefined): string | undefined {
  if (member === undefined || body[member.valueStart] !== QUOTE) return undefined
  return decodeString(body, member.valueStart, member.valueEnd)
}

const TAB = 0x09
const LF = 0x0a
const CR = 0x0d
const SPACE = 0x20
export const QUOTE = 0x22
const COMMA = 0x2c
export const COLON = 0x3a
export const BACKSLASH = 0x5c
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d

const SHOWN_NAME_CHARS = 64

/** As far a string is walked before it is searched: most strings and the gaps in dense escapes are shorter. */
const WALKED_BYTES = 16

type Span = { readonly start: number; end: number }

/** What a byte means inside a nested value. 0: no JSON has it there. */
const PLAIN = 1
const STRING = 2
const OPEN = 3
const CLOSE = 4
const KIND_OF_BYTE = new Uint8Array(256)
// The letters of true, false and null, and a number's; so not those of NaN, Infinity, comments and single quotes.
for (const byte of Buffer.from(' \t\n\r,:0123456789+-.eEtrufalsn')) KIND_OF_BYTE[byte] = PLAIN
KIND_OF_BYTE[QUOTE] = STRING
for (const byte of Buffer.from('{[')) KIND_OF_BYTE[byte] = OPEN
for (const byte of Buffer.from('}]')) KIND_OF_BYTE[byte] = CLOSE

const SCALAR = /^(?:true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)$/

function fault(message: string, offset: number): BodyFault {
  return { ok: false, message, offset }
}

function atEnd(body: Buffer, afterBrace: number, members: readonly BodyMember[]): BodyScan {
  const at = skipSpace(body, afterBrace)
  return at === body.length ? { ok: true, members } : fault('something follows the object', at)
}

function isSpace(byte: number | undefined): boolean {
  return byte === SPACE || byte === LF || byte === CR || byte === TAB
}

/** Where the next byte is that is no white space. */
export function skipSpace(body: Buffer, from: number): number {
  let at = from
  while (isSpace(body[at])) at++
  return at
}

/** The place behind the value at `start`; behind the body where none ends. */
export function valueEndOf(body: Buffer, start: number): number {
  const end = findValueEnd(body, start)
  return typeof end === 'number' ? end : body.length
}

function findValueEnd(body: Buffer, start: number): number | BodyFault {
  switch (KIND_OF_BYTE[body[start] ?? 0]) {
    case STRING: {
      const end = stringEnd(body, start)
      return end === -1 ? fault('a string does not end', start) : end
    }
    case OPEN:
      return nestedEnd(body, start)
    case PLAIN:
      return scalarEnd(body, start)
    default:
      return fault('expected a value', start)
  }
}

/** The position after the closing quote of the string at `start`, or -1. */
export function stringEnd(body: Buffer, start: number): number {
  let at = start + 1
  for (;;) {
    // `at` is never inside an escape here.
    const walkEnd = Math.min(at + WALKED_BYTES, body.length)
    while (at < walkEnd) {
      const byte = body[at]
      if (byte === QUOTE) return at + 1
      at += byte === BACKSLASH ? 2 : 1
    }
    const quote = body.indexOf(QUOTE, at)
    if (quote === -1) return -1
    let backslashes = 0
    while (quote - backslashes > at && body[quote - backslashes - 1] === BACKSLASH) backslashes++
    at = quote + 1
    if (backslashes % 2 === 0) return at
  }
}

function nestedEnd(body: Buffer, start: number): number | BodyFault {
  const closers: number[] = []
  let at = start
  while (at < body.length) {
    const byte = body[at] as number
    switch (KIND_OF_BYTE[byte]) {
      case PLAIN:
        at++
        break
      case STRING: {
        const end = stringEnd(body, at)
        if (end === -1) return fault('a string does not end', at)
        at = end
        break
      }
      case OPEN:
        if (closers.length + 2 > BODY_DEPTH_MAX) return fault(`nested deeper than ${BODY_DEPTH_MAX} levels`, at)
        // In ASCII both closing brackets stand two places after the opening ones.
        closers.push(byte + 2)
        at++
        break
      case CLOSE:
        if (closers.pop() !== byte) return fault('a bracket that closes nothing', at)
        at++
        if (closers.length === 0) return at
        break
      default:
        return fault('a character that JSON does not have outside of strings', at)
    }
  }
  return fault('a nested value does not end', start)
}

function scalarEnd(body: Buffer, start: number): number | BodyFault {
  let at = start
  while (KIND_OF_BYTE[body[at] ?? 0] === PLAIN && body[at] !== COMMA && !isSpace(body[at])) at++
  if (!SCALAR.test(body.toString('latin1', start, at))) return fault('expected a value', start)
  return at
}

/** The string whose quotes stand at `start` and before `end`; undefined when its escapes or characters are not JSON's. */
function decodeString(body: Buffer, start: number, end: number): string | undefined {
  try {
    return JSON.parse(body.toString('utf8', start, end)) as string
  } catch {
    return undefined
  }
}

function hasText(body: Buffer, member: BodyMember, text: string): boolean {
  return body.subarray(member.valueStart, member.valueEnd).equals(Buffer.from(text))
}

function memberJson(name: string, text: string): string {
  return `${JSON.stringify(name)}:${text}`
}

/** `{`, the pieces with commas between them, `}`, in one buffer. */
function joinObject(body: Buffer, pieces: readonly (Span | string)[]): Buffer {
  let size = 2 + Math.max(0, pieces.length - 1)
  for (const piece of pieces) size += typeof piece === 'string' ? Buffer.byteLength(piece) : piece.end - piece.start
  const joined = Buffer.allocUnsafe(size)
  let at = 0
  joined[at++] = OPEN_BRACE
  for (const piece of pieces) {
    if (at > 1) joined[at++] = COMMA
    at += typeof piece === 'string' ? joined.write(piece, at) : body.copy(joined, at, piece.start, piece.end)
  }
  joined[at] = CLOSE_BRACE
  return joined
}
