// The one spelling of a request body: same object, same bytes. Made in a single pass over the text, without JSON.parse
// of the whole, because numbers must survive as written and the order below the top level is part of the prompt.
import type { Rejection } from './rejection.ts'

export const BODY_BYTES_MAX = 8 * 1024 * 1024
/** Levels of objects and arrays; the body itself is the first. Low enough that the scanner may recurse. */
export const BODY_DEPTH_MAX = 64

/** The members of a body: name → canonical JSON text of the value, in the order of the names' UTF-16 code units. */
export type CanonicalBody = { ok: true; members: Map<string, string> }
export type RefusedBody = { ok: false; rejection: Rejection }

/** Reads the bytes of a body: JSON in UTF-8 without a byte order mark, at most BODY_BYTES_MAX. */
export function readBody(bytes: Uint8Array): CanonicalBody | RefusedBody {
  if (bytes.byteLength > BODY_BYTES_MAX) return bodyTooLarge()
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    return invalidBody('the body is not valid UTF-8')
  }
  if (text.startsWith('\ufeff')) return invalidBody('the body begins with a byte order mark: send UTF-8 without one')
  return canonicaliseBody(text)
}

/**
 * Canonicalises a JSON object: members sorted by name at the top level, everything below in the order given, numbers
 * as written, strings as JSON.stringify spells them, no insignificant white space. Duplicate names are refused at any
 * depth: parsers disagree about which one counts, and a guard must not read another body than the engine.
 */
export function canonicaliseBody(text: string): CanonicalBody | RefusedBody {
  if (text.length > BODY_BYTES_MAX) return bodyTooLarge()
  if (!text.isWellFormed()) return invalidBody(`lone surrogate at offset ${text.search(/\p{Surrogate}/u)}`)
  try {
    return { ok: true, members: new Scanner(text).body() }
  } catch (error) {
    if (error instanceof Fault) return invalidBody(error.message)
    throw error
  }
}

/** Writes the members as one JSON object, sorted by name whatever the order of the map. */
export function serialiseBody(members: ReadonlyMap<string, string>): string {
  return bodyPieces(members).join('')
}

/** What serialiseBody writes, in pieces: who makes a digest of a large body needs no copy of it. */
export function bodyPieces(members: ReadonlyMap<string, string>): string[] {
  const names = [...members.keys()].sort()
  const pieces = names.flatMap((name, index) => [
    `${index === 0 ? '{' : ','}${JSON.stringify(name)}:`,
    members.get(name) as string,
  ])
  return [...(names.length === 0 ? ['{'] : pieces), '}']
}

/** The refusal of a body over the limit; also for who refuses by content-length, before reading. */
export function bodyTooLarge(): RefusedBody {
  return { ok: false, rejection: { reason: 'body-too-large', message: `the body is over ${BODY_BYTES_MAX} bytes` } }
}

function invalidBody(message: string): RefusedBody {
  return { ok: false, rejection: { reason: 'invalid-body', message } }
}

/** Unwinds the scanner; never leaves this file. */
class Fault extends Error {}

const TAB = 0x09
const LINE_FEED = 0x0a
const CARRIAGE_RETURN = 0x0d
const SPACE = 0x20
const QUOTE = 0x22
const COMMA = 0x2c
const COLON = 0x3a
const BACKSLASH = 0x5c
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d

// None of these can backtrack: a class repeated, or optional tails that nothing follows.
// biome-ignore lint/suspicious/noControlCharactersInRegex: JSON forbids exactly these in strings
const PLAIN_RUN = /[^"\\\u0000-\u001f]*/y
/** Spelled as JSON.stringify spells it. In stretches: what a repetition remembers of each turn is bounded. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: as above
const CANONICAL_RUN = /[^"\\\u0000-\u001f]*(?:\\["\\bfnrt][^"\\\u0000-\u001f]*){0,64}/y
// biome-ignore lint/suspicious/noControlCharactersInRegex: as above
const STRING_PIECE = /[^"\\\u0000-\u001f]+|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})/y
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y

/** Pieces of output are joined in blocks: eight megabytes of white space must not become millions of live strings. */
const PIECES_PER_BLOCK = 4096
const NAME_CHARS_SHOWN = 64
const PATH_STEPS_SHOWN = 8

/**
 * Reads `#text` from `#at` on. Everything from `#runStart` to `#at` is canonical as it stands and not yet written:
 * output is made of slices, and only where the caller's spelling differs is a run cut.
 */
class Scanner {
  readonly #text: string
  #at = 0
  #runStart = 0
  #pieces: string[] = []
  #blocks: string[] = []
  /** The way to `#at`, an entry per open level once its first member is reached: a name in its quotes, or an index. */
  readonly #path: (string | number)[] = []

  constructor(text: string) {
    this.#text = text
  }

  body(): Map<string, string> {
    const members = new Map<string, string>()
    this.#skipSpace()
    if (this.#code() !== OPEN_BRACE) this.#fail('the body must be a JSON object')
    this.#object((name) => {
      this.#startOutput()
      this.#value()
      members.set(JSON.parse(name), this.#takeOutput())
    })
    this.#skipSpace()
    if (this.#at < this.#text.length) this.#fail('nothing may follow the body')
    return new Map([...members.keys()].sort().map((name) => [name, members.get(name) as string]))
  }

  #value(): void {
    switch (this.#code()) {
      case QUOTE:
        this.#string()
        return
      case OPEN_BRACE:
        this.#object(() => this.#value())
        return
      case OPEN_BRACKET:
        this.#array()
        return
      case 0x74: // t
        this.#literal('true')
        return
      case 0x66: // f
        this.#literal('false')
        return
      case 0x6e: // n
        this.#literal('null')
        return
      default:
        this.#number()
    }
  }

  #object(readValue: (name: string) => void): void {
    const level = this.#enter()
    // Names are kept in their quotes: without them an integer-like name has a hash that a caller can foresee.
    const names = new Set<string>()
    this.#skipSpace()
    if (this.#code() === CLOSE_BRACE) {
      this.#leave(level)
      return
    }
    while (true) {
      if (this.#code() !== QUOTE) this.#fail('expected a member name in quotes')
      const nameStart = this.#at
      const name = this.#string()
      if (names.has(name)) this.#fail(`duplicate member ${shortened(name)}`, nameStart)
      names.add(name)
      this.#path[level] = name
      this.#skipSpace()
      if (this.#code() !== COLON) this.#fail('expected ":" after a member name')
      this.#at++
      this.#skipSpace()
      readValue(name)
      this.#skipSpace()
      const code = this.#code()
      if (code === CLOSE_BRACE) break
      if (code !== COMMA) this.#fail('expected "," or "}"')
      this.#at++
      this.#skipSpace()
    }
    this.#leave(level)
  }

  #array(): void {
    const level = this.#enter()
    this.#skipSpace()
    if (this.#code() === CLOSE_BRACKET) {
      this.#leave(level)
      return
    }
    for (let index = 0; ; index++) {
      this.#path[level] = index
      this.#value()
      this.#skipSpace()
      const code = this.#code()
      if (code === CLOSE_BRACKET) break
      if (code !== COMMA) this.#fail('expected "," or "]"')
      this.#at++
      this.#skipSpace()
    }
    this.#leave(level)
  }

  /** Passes an opening bracket; answers the level that it opens, counted from 0. */
  #enter(): number {
    const level = this.#path.length
    if (level >= BODY_DEPTH_MAX) this.#fail(`nested deeper than ${BODY_DEPTH_MAX} levels`)
    this.#at++
    return level
  }

  #leave(level: number): void {
    this.#path.length = level
    this.#at++
  }

  /** Passes a string and answers its canonical spelling, quotes included. */
  #string(): string {
    const text = this.#text
    const start = this.#at
    PLAIN_RUN.lastIndex = start + 1
    PLAIN_RUN.test(text)
    let end = PLAIN_RUN.lastIndex
    for (let from = -1; text.charCodeAt(end) === BACKSLASH && end > from; ) {
      from = end
      CANONICAL_RUN.lastIndex = from
      CANONICAL_RUN.test(text)
      end = CANONICAL_RUN.lastIndex
    }
    if (text.charCodeAt(end) === QUOTE) {
      this.#at = end + 1
      return text.slice(start, this.#at)
    }
    end = this.#closingQuote(end)
    this.#at = end + 1
    const given = text.slice(start, this.#at)
    const decoded = this.#decode(given, start)
    if (!decoded.isWellFormed()) this.#fail('lone surrogate in a string', start)
    const canonical = JSON.stringify(decoded)
    if (canonical !== given) {
      this.#writeRun(start)
      this.#write(canonical)
      this.#runStart = this.#at
    }
    return canonical
  }

  /** The first quote from `from` on before which an even number of backslashes stands. */
  #closingQuote(from: number): number {
    const text = this.#text
    for (let searched = from; ; ) {
      const quote = text.indexOf('"', searched)
      if (quote === -1) this.#fail('unterminated string', this.#at)
      // Counting back stops at the last quote, so that each backslash is counted once.
      let backslashes = 0
      while (quote - backslashes > searched && text.charCodeAt(quote - backslashes - 1) === BACKSLASH) backslashes++
      if (backslashes % 2 === 0) return quote
      searched = quote + 1
    }
  }

  #decode(given: string, start: number): string {
    try {
      return JSON.parse(given)
    } catch {
      STRING_PIECE.lastIndex = 1
      let valid = 1
      while (STRING_PIECE.test(given)) valid = STRING_PIECE.lastIndex
      return this.#fail('control character or invalid escape in a string', start + valid)
    }
  }

  #number(): void {
    NUMBER.lastIndex = this.#at
    if (!NUMBER.test(this.#text)) this.#fail('expected a value')
    this.#at = NUMBER.lastIndex
  }

  #literal(word: string): void {
    if (!this.#text.startsWith(word, this.#at)) this.#fail('expected a value')
    this.#at += word.length
  }

  #skipSpace(): void {
    const start = this.#at
    let code = this.#code()
    while (code === SPACE || code === LINE_FEED || code === CARRIAGE_RETURN || code === TAB) {
      this.#at++
      code = this.#code()
    }
    if (this.#at === start) return
    this.#writeRun(start)
    this.#runStart = this.#at
  }

  /** The code unit at hand; NaN at the end, which equals nothing. */
  #code(): number {
    return this.#text.charCodeAt(this.#at)
  }

  #writeRun(end: number): void {
    if (end > this.#runStart) this.#write(this.#text.slice(this.#runStart, end))
  }

  #write(piece: string): void {
    this.#pieces.push(piece)
    if (this.#pieces.length < PIECES_PER_BLOCK) return
    this.#blocks.push(this.#pieces.join(''))
    this.#pieces = []
  }

  #startOutput(): void {
    this.#blocks = []
    this.#pieces = []
    this.#runStart = this.#at
  }

  #takeOutput(): string {
    this.#writeRun(this.#at)
    return this.#blocks.join('') + this.#pieces.join('')
  }

  #fail(what: string, offset = this.#at): never {
    const place = offset < this.#text.length ? `at offset ${offset}` : 'at the end of the body'
    const path = pathOf(this.#path)
    throw new Fault(path === '' ? `${what} (${place})` : `${what} (${place}, in ${path})`)
  }
}

/** Writes a path as `messages[3].content`, cut to what fits a message: a caller chooses its names and its depth. */
function pathOf(steps: readonly (string | number)[]): string {
  const shown = steps.slice(0, PATH_STEPS_SHOWN).map((step, depth) => {
    if (typeof step === 'number') return `[${step}]`
    return `${depth > 0 ? '.' : ''}${shortened(step.slice(1, -1))}`
  })
  return shown.join('') + (steps.length > PATH_STEPS_SHOWN ? '…' : '')
}

function shortened(name: string): string {
  return name.length > NAME_CHARS_SHOWN ? `${name.slice(0, NAME_CHARS_SHOWN)}…` : name
}
