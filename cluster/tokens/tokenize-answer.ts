// Reads vLLM's answer to `POST /tokenize` straight into a typed array: a long prompt's ids are a megabyte of JSON.

const TOKENS_START = Buffer.from('"tokens":[')
const ZERO = 0x30
const NINE = 0x39
const COMMA = 0x2c
const SPACE = 0x20
const CLOSE_BRACKET = 0x5d
const ID_MAX = 2 ** 32 - 1

/**
 * The token ids in the answer; undefined when it is none. The member cannot be faked from inside a string: quotes are
 * escaped there.
 */
export function readTokenIds(answer: Buffer): Uint32Array | undefined {
  const start = answer.indexOf(TOKENS_START)
  if (start === -1) return undefined
  let at = start + TOKENS_START.length
  // At most one id in two bytes.
  const ids = new Uint32Array((answer.length - at + 1) >> 1)
  let count = 0
  if (answer[at] === CLOSE_BRACKET) return ids.slice(0, 0)
  for (;;) {
    while (answer[at] === SPACE) at++
    let id = 0
    const first = at
    for (let byte = answer[at]; byte !== undefined && byte >= ZERO && byte <= NINE; byte = answer[++at]) {
      id = id * 10 + (byte - ZERO)
      if (id > ID_MAX) return undefined
    }
    if (at === first) return undefined
    ids[count++] = id
    while (answer[at] === SPACE) at++
    if (answer[at] === CLOSE_BRACKET) return ids.slice(0, count)
    if (answer[at] !== COMMA) return undefined
    at++
  }
}
