// A byte-level BPE tokenizer from a `tokenizer.json`: the kind of Qwen, Llama 3, DeepSeek and GPT. It gives the very ids
// that the `tokenizers` library gives, or says why it cannot.
import { createAddedTokens, type Piece } from './added-tokens.ts'
import { createMerges, type Merges } from './merges.ts'
import { createPreTokenizer, type PreTokenizer } from './pre-tokenizer.ts'
import { isObject, NotExact, type Settings } from './settings.ts'
import { CACHED_IDS_MAX, WordCache } from './word-cache.ts'
import { WordEnds } from './word-ends.ts'

export type { Piece } from './added-tokens.ts'

export type TextTokenizer = {
  /** Token ids of a text; added tokens (special ones) that stand in it are recognised. */
  readonly encode: (text: string) => Uint32Array
  /** The same with what the post-processor puts around it (BOS, EOS). */
  readonly encodeWithSpecials: (text: string) => Uint32Array
  /**
   * The text, cut at its added tokens. Nothing on one side of a cut has a say in the ids of the other side, so that each
   * piece can be encoded, and remembered, alone.
   */
  readonly pieces: (text: string) => readonly Piece[]
  /** Token ids of a piece that lies between added tokens. */
  readonly encodePiece: (text: string) => Uint32Array
}

export type Bpe =
  | { readonly ok: true; readonly tokenizer: TextTokenizer }
  /** What it holds that is not known to be done exactly here. */
  | { readonly ok: false; readonly because: string }

const WORD_CACHE_BYTES = 16 * 1024 * 1024

/**
 * From the parsed `tokenizer.json`. Never throws.
 *
 * @param options.wordCacheBytes for the ids of words that were seen, roughly.
 */
export function createBpe(tokenizerJson: unknown, options: { readonly wordCacheBytes?: number } = {}): Bpe {
  try {
    return { ok: true, tokenizer: create(tokenizerJson, options.wordCacheBytes ?? WORD_CACHE_BYTES) }
  } catch (error) {
    if (error instanceof NotExact) return { ok: false, because: error.message }
    return { ok: false, because: `tokenizer.json cannot be read: ${(error as Error).message}` }
  }
}

function create(json: unknown, wordCacheBytes: number): TextTokenizer {
  if (!isObject(json)) throw new NotExact('tokenizer.json is no object')
  const { model, added_tokens, normalizer, pre_tokenizer, post_processor } = json
  if (!isObject(model)) throw new NotExact('tokenizer.json has no model')
  const normalize = normalizerOf(normalizer)
  const added = createAddedTokens(added_tokens, normalize)
  const encoder = new Encoder(createPreTokenizer(pre_tokenizer), createMerges(model), wordCacheBytes)
  const { before, after } = specialsOf(post_processor)
  const encodeTo = (text: string): void => {
    for (const { text: piece, id } of added.pieces(text)) {
      if (id === undefined) encoder.encode(normalize(piece))
      else encoder.put(id)
    }
  }
  return {
    pieces: added.pieces,
    encodePiece(text) {
      encoder.encode(normalize(text))
      return encoder.take()
    },
    encode(text) {
      encodeTo(text)
      return encoder.take()
    },
    encodeWithSpecials(text) {
      for (const id of before) encoder.put(id)
      encodeTo(text)
      for (const id of after) encoder.put(id)
      return encoder.take()
    },
  }
}

const IDS_FIRST = 16 * 1024
const UNITS_FIRST = 16 * 1024
/** Of a text that was longer, the array is not kept. */
const UNITS_KEPT_MAX = 4 * 1024 * 1024

/** Invariant: `#ids` holds the `#count` ids that were put since the last `take`. The rest is scratch space for one text. */
class Encoder {
  readonly #split: PreTokenizer
  readonly #merges: Merges
  readonly #words: WordCache
  readonly #ends = new WordEnds()
  #units = new Uint16Array(UNITS_FIRST)
  #ids = new Uint32Array(IDS_FIRST)
  #count = 0

  constructor(split: PreTokenizer, merges: Merges, wordCacheBytes: number) {
    this.#split = split
    this.#merges = merges
    this.#words = new WordCache(wordCacheBytes)
  }

  put(id: number): void {
    this.#room(1)
    this.#ids[this.#count++] = id
  }

  encode(text: string): void {
    if (text === '') return
    const units = this.#unitsOf(text)
    const ends = this.#ends
    this.#split(text, units, ends)
    const words = this.#words
    let start = 0
    for (let word = 0; word < ends.count; word++) {
      const end = ends.places[word] as number
      this.#room(CACHED_IDS_MAX)
      const count = words.copy(units, start, end, this.#ids, this.#count)
      if (count === -1) this.#merge(text, units, start, end)
      else this.#count = count
      start = end
    }
    ends.clear()
  }

  /** Read faster than the string itself, however that came about. */
  #unitsOf(text: string): Uint16Array {
    if (text.length > this.#units.length || this.#units.length > UNITS_KEPT_MAX) {
      this.#units = new Uint16Array(Math.max(UNITS_FIRST, text.length))
    }
    const units = this.#units
    Buffer.from(units.buffer).write(text, 'utf16le')
    return units
  }

  take(): Uint32Array {
    const taken = this.#ids.slice(0, this.#count)
    this.#count = 0
    if (this.#ids.length > IDS_KEPT_MAX) this.#ids = new Uint32Array(IDS_FIRST)
    return taken
  }

  #merge(text: string, units: Uint16Array, start: number, end: number): void {
    const ids = this.#merges(text.slice(start, end))
    this.#room(ids.length)
    this.#ids.set(ids, this.#count)
    this.#count += ids.length
    this.#words.put(units, start, end, ids)
  }

  #room(more: number): void {
    if (this.#count + more <= this.#ids.length) return
    const roomier = new Uint32Array(Math.max(2 * this.#ids.length, this.#count + more))
    roomier.set(this.#ids.subarray(0, this.#count))
    this.#ids = roomier
  }
}

/** Of a text that had more, the array is not kept. */
const IDS_KEPT_MAX = 2 * 1024 * 1024

function normalizerOf(settings: unknown): (text: string) => string {
  if (settings === null || settings === undefined) return (text) => text
  if (!isObject(settings)) throw new NotExact('the normalizer is no object')
  if (settings.type === 'NFC') return (text) => text.normalize('NFC')
  if (settings.type === 'Sequence' && Array.isArray(settings.normalizers)) {
    const each = settings.normalizers.map(normalizerOf)
    return (text) => each.reduce((normal, next) => next(normal), text)
  }
  throw new NotExact(`the normalizer ${String(settings.type)}`)
}

type Specials = { readonly before: readonly number[]; readonly after: readonly number[] }
const NONE: Specials = { before: [], after: [] }

function specialsOf(settings: unknown): Specials {
  if (settings === null || settings === undefined) return NONE
  if (!isObject(settings)) throw new NotExact('the post-processor is no object')
  switch (settings.type) {
    case 'ByteLevel':
      return NONE
    case 'TemplateProcessing':
      return specialsOfTemplate(settings)
    case 'Sequence': {
      if (!Array.isArray(settings.processors)) throw new NotExact('the post-processor has no list')
      return settings.processors.map(specialsOf).reduce(
        (inner, outer) => ({
          before: [...outer.before, ...inner.before],
          after: [...inner.after, ...outer.after],
        }),
        NONE,
      )
    }
    default:
      throw new NotExact(`the post-processor ${String(settings.type)}`)
  }
}

function specialsOfTemplate({ single, special_tokens: tokens }: Settings): Specials {
  const before: number[] = []
  const after: number[] = []
  let seen = 0
  if (!Array.isArray(single) || !isObject(tokens)) throw new NotExact('the post-processor has no template')
  for (const item of single) {
    if (isObject(item) && isObject(item.Sequence)) {
      if (item.Sequence.id !== 'A') throw new NotExact('the post-processor names another sequence')
      seen++
    } else if (isObject(item) && isObject(item.SpecialToken)) {
      const token = tokens[String(item.SpecialToken.id)]
      const ids = isObject(token) ? token.ids : undefined
      if (!Array.isArray(ids) || !ids.every(Number.isInteger)) throw new NotExact('the post-processor names no token')
      ;(seen === 0 ? before : after).push(...(ids as number[]))
    } else throw new NotExact('the post-processor has another item')
  }
  if (seen !== 1) throw new NotExact('the post-processor takes the text not once')
  return { before, after }
}
