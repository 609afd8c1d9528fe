// The long strings of a request's conversation, by where they stand in its body: texts of messages, nothing of a tool's
// schema or of a call. The rest of the body is small, and can be parsed with something short in their place.
import { type BodyMember, QUOTE, scanBody, skipSpace, stringEnd, valueEndOf } from './body.ts'

/** A shorter string is parsed sooner than it is looked for. */
const LONG_BYTES = 512
/** Far more than a conversation has; those behind are read as they are. */
const LONG_STRINGS_MAX = 4_096

/** From the opening quote to behind the closing one, in bytes. */
export type StringSpan = { readonly start: number; readonly end: number }

/** Members of a request that hold its conversation, in any dialect. */
const CONVERSATIONS = new Set(['messages', 'system', 'instructions', 'input', 'prompt'])
/** Members of a message, of its parts and of a tool's result that hold text. */
const TEXT_NAMES = ['"content"', '"text"', '"output"'].map((name) => Uint8Array.from(Buffer.from(name)))

const COMMA = 0x2c
const OPEN_BRACKET = 0x5b
const OPEN_BRACE = 0x7b

export type LongStrings = {
  /** In their order. */
  readonly spans: readonly StringSpan[]
  /** Messages, and parts of them: each costs a template its time, however short. */
  readonly parts: number
}

/** The body has passed `scanBody`. */
export function findLongStrings(body: Buffer, members: readonly BodyMember[]): LongStrings {
  const found: Found = { spans: [], parts: 0 }
  for (const { name, valueStart } of members) if (CONVERSATIONS.has(name)) walk(body, valueStart, found)
  return found
}

type Found = { readonly spans: StringSpan[]; parts: number }

/** The place behind the value at `start`. */
function walk(body: Buffer, start: number, found: Found): number {
  const first = body[start]
  if (first === QUOTE) {
    const end = stringEnd(body, start)
    if (end - start >= LONG_BYTES && found.spans.length < LONG_STRINGS_MAX) found.spans.push({ start, end })
    return end
  }
  if (first !== OPEN_BRACKET && first !== OPEN_BRACE) return valueEndOf(body, start)
  if (first === OPEN_BRACE) found.parts++
  let at = skipSpace(body, start + 1)
  if (body[at] === first + 2) return at + 1
  for (;;) {
    let holdsText = true
    if (first === OPEN_BRACE) {
      const nameEnd = stringEnd(body, at)
      if (nameEnd === -1) return body.length
      holdsText = isTextName(body, at, nameEnd)
      // Behind the colon.
      at = skipSpace(body, skipSpace(body, nameEnd) + 1)
    }
    at = skipSpace(body, holdsText ? walk(body, at, found) : valueEndOf(body, at))
    if (body[at] !== COMMA) return at + 1
    at = skipSpace(body, at + 1)
  }
}

function isTextName(body: Buffer, start: number, end: number): boolean {
  for (const name of TEXT_NAMES) {
    let at = 0
    while (at < name.length && name[at] === body[start + at]) at++
    if (at === name.length && start + at === end) return true
  }
  return false
}

export type ShortBody = { readonly body: Buffer; readonly members: readonly BodyMember[] }

/** The body with texts in the place of some of its strings: a span stays where its text is undefined. */
export function withStandIns(
  { body, members }: ShortBody,
  spans: readonly StringSpan[],
  standIns: readonly (string | undefined)[],
): ShortBody | undefined {
  if (standIns.every((standIn) => standIn === undefined)) return { body, members }
  const pieces: Buffer[] = []
  let at = 0
  spans.forEach(({ start, end }, index) => {
    const standIn = standIns[index]
    if (standIn === undefined) return
    pieces.push(body.subarray(at, start), Buffer.from(JSON.stringify(standIn)))
    at = end
  })
  pieces.push(body.subarray(at))
  const short = Buffer.concat(pieces)
  const scan = scanBody(short)
  return scan.ok ? { body: short, members: scan.members } : undefined
}
