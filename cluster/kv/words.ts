// The texts that a message is mostly made of.

const WORD_BYTES = 4

type Known = {
  readonly text: string
  /** Its bytes by fours, big-endian, and those that are left over. */
  readonly words: Uint32Array
  readonly rest: Uint8Array
}

/** Texts that are expected, found by their bytes: reading one of them makes no new string. */
export class Words {
  readonly #byLength: Known[][] = []

  constructor(texts: readonly string[]) {
    for (const text of texts) {
      const bytes = new TextEncoder().encode(text)
      const view = new DataView(bytes.buffer, 0, bytes.length)
      const words = Uint32Array.from({ length: bytes.length >>> 2 }, (_, at) => view.getUint32(WORD_BYTES * at))
      this.#byLength[bytes.length] ??= []
      this.#byLength[bytes.length]?.push({ text, words, rest: bytes.subarray(WORD_BYTES * words.length) })
    }
  }

  find(from: DataView, start: number, length: number): string | undefined {
    const candidates = this.#byLength[length]
    if (candidates === undefined) return undefined
    for (let index = 0; index < candidates.length; index++) {
      const known = candidates[index] as Known
      if (isAt(from, start, known)) return known.text
    }
    return undefined
  }
}

function isAt(from: DataView, start: number, { words, rest }: Known): boolean {
  let at = start
  for (let index = 0; index < words.length; index++, at += WORD_BYTES) {
    if (from.getUint32(at) !== words[index]) return false
  }
  for (let index = 0; index < rest.length; index++, at++) if (from.getUint8(at) !== rest[index]) return false
  return true
}
