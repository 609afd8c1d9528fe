// Reads lists of token ids from JSON straight into typed arrays: a long prompt's ids are a megabyte of it.

const TOKENS_START = Buffer.from('"tokens":[')
const ZERO = 0x30
const NINE = 0x39
const COMMA = 0x2c
const CLOSE_BRACKET = 0x5d
const ID_MAX = 2 ** 32 - 1
/** Longer than any model's context: not worth reading. */
const IDS_MAX = 2 * 1024 * 1024

/**
 * The token ids in vLLM's answer to `POST /tokenize`; undefined when it is none. The member cannot be faked from inside a
 * string: quotes are escaped there.
 */
export function readTokenIds(answer: Buffer): Uint32Array | undefined {
  const start = answer.indexOf(TOKENS_START)
  return start === -1 ? undefined : readIdList(answer, start + TOKENS_START.length)?.ids
}

/** A list of ids whose first byte after the bracket is at `start`, and where it ended; undefined when it is anything else. */
export function readIdList(
  bytes: Buffer,
  start: number,
): { readonly ids: Uint32Array; readonly end: number } | undefined {
  let at = skipSpace(bytes, start)
  if (bytes[at] === CLOSE_BRACKET) return { ids: new Uint32Array(0), end: at + 1 }
  // At most one id in two bytes.
  const ids = new Uint32Array(Math.min(IDS_MAX, (bytes.length - at + 1) >> 1))
  let count = 0
  for (;;) {
    at = skipSpace(bytes, at)
    let id = 0
    const first = at
    for (let byte = bytes[at]; byte !== undefined && byte >= ZERO && byte <= NINE; byte = bytes[++at]) {
      id = id * 10 + (byte - ZERO)
      if (id > ID_MAX) return undefined
    }
    if (at === first || count === IDS_MAX) return undefined
    ids[count++] = id
    at = skipSpace(bytes, at)
    if (bytes[at] === CLOSE_BRACKET) return { ids: ids.slice(0, count), end: at + 1 }
    if (bytes[at] !== COMMA) return undefined
    at++
  }
}

/** Where the next byte is that is no white space of JSON. */
export function skipSpace(bytes: Buffer, start: number): number {
  let at = start
  for (let byte = bytes[at]; byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09; byte = bytes[++at]);
  return at
}
