// Token ids of prompts from the model's own tokenizer and chat template, in one thread. What was there in an earlier turn is
// neither parsed nor tokenised again: long texts are known by their digest, stood in for while the template renders, and the
// pieces between special tokens remember their ids.
import { createHash } from 'node:crypto'
import { createLru } from '../lru.ts'
import type { TextTokenizer } from './bpe/bpe.ts'
import type { ChatTemplate } from './chat-template.ts'
import type { Encoder } from './encoder.ts'
import type { PieceParts } from './encoder-work.ts'
import type { ChatTemplates } from './model-directory.ts'
import { cutAtStandIns, type KnownText, standInFor } from './stand-ins.ts'
import type { DigestTexts } from './text-digests.ts'
import type { PromptReading, PromptWords, Tokens } from './tokenizer.ts'

/** Of token ids remembered: 16 million tokens. */
const PIECES_BYTES = 64 * 1024 * 1024
/** What a remembered piece costs beside its ids and its key. */
const PIECE_BYTES = 200
/** Digest, map entry, and what is known of a text. */
const TEXT_BYTES = 400
const TEXTS_BYTES = 32 * 1024 * 1024
/** A piece that is longer is known by its digest. */
const KEY_CHARS_MAX = 512

export type ThreadTokenizerDeps = {
  readonly tokenizer: TextTokenizer
  readonly templates: ChatTemplates
  readonly encoder: Pick<Encoder, 'perform'>
  readonly digestTexts: DigestTexts
}

export type ThreadTokenizer = {
  /**
   * Never rejects. Not ok where only the engine can tell; `'too-long'` where more than so many bytes of long strings have
   * to be read.
   *
   * @param standsIn whether something may stand in for long texts.
   */
  readonly tokenize: (reading: PromptReading, standsIn: boolean, readBytesMax: number) => Promise<Tokens | 'too-long'>
  readonly stats: () => { readonly pieces: number; readonly bytes: number }
}

type Piece = { readonly ids: Uint32Array; readonly keyChars: number }
type Failed = { readonly ok: false; readonly because: string }

export const BEHIND: Failed = { ok: false, because: 'the tokenizer of this router is behind with its work' }

export function createThreadTokenizer(deps: ThreadTokenizerDeps): ThreadTokenizer {
  const { tokenizer, templates, encoder, digestTexts } = deps
  const texts = createLru<KnownText>(TEXTS_BYTES, () => TEXT_BYTES)
  const pieces = createLru<Piece>(PIECES_BYTES, ({ ids, keyChars }) => ids.byteLength + 2 * keyChars + PIECE_BYTES)
  /** Pieces that are being encoded, by their keys. */
  const pending = new Map<string, Promise<Uint32Array | undefined>>()
  const specials = specialsOf(tokenizer)
  let serials = 0

  async function tokenize(reading: PromptReading, standsIn: boolean, readBytesMax: number) {
    if (standsIn && reading.longStrings.length > 0) {
      const known = await examineAll(reading.longStrings)
      if (known === undefined) return BEHIND
      const tokens = await tokenizeWith(reading, known, readBytesMax)
      if (tokens !== undefined) return tokens
    }
    return (await tokenizeWith(reading, [], readBytesMax)) ?? BEHIND
  }

  /** What is known of each long string; undefined when it cannot be found out now. */
  async function examineAll(longStrings: readonly Buffer[]): Promise<readonly KnownText[] | undefined> {
    const digests = await digestTexts(longStrings)
    const known = digests.map((digest) => texts.get(digest))
    const missing = known.flatMap((text, index) => (text === undefined ? [index] : []))
    if (missing.length > 0) {
      const strings = missing.map((index) => longStrings[index] as Buffer)
      const result = await encoder.perform({ kind: 'examine', strings })
      if (result?.kind !== 'examined') return undefined
      missing.forEach((index, at) => {
        const { leading = '', trailing = '', replaceable = false } = result.strings[at] ?? {}
        const digest = digests[index] as string
        // Another prompt may have brought the same text meanwhile: it has one serial.
        const text = texts.get(digest) ?? { leading, trailing, serial: replaceable ? serials++ : undefined }
        texts.set(digest, text)
        known[index] = text
      })
    }
    return known as KnownText[]
  }

  /** @param known of each long string; without it none is stood in for. Undefined when a stand-in did not come through. */
  async function tokenizeWith(reading: PromptReading, known: readonly KnownText[], readBytesMax: number) {
    const { longStrings } = reading
    const readBytes = longStrings.reduce(
      (sum, raw, at) => (known[at]?.serial === undefined ? sum + raw.length : sum),
      0,
    )
    if (readBytes > readBytesMax) return 'too-long'
    const words = reading.read(known.map(standInFor))
    if (!words.ok) return words
    const rendered = render(words, templates)
    if (!rendered.ok) return rendered
    const stringOf = new Map<number, Buffer>()
    known.forEach(({ serial }, index) => {
      if (serial !== undefined) stringOf.set(serial, longStrings[index] as Buffer)
    })
    // Without any, what looks like one is a caller's own text.
    if (known.length > 0 && cutAtStandIns(rendered.text, new Set(stringOf.keys())) === undefined) return undefined
    const partsOf = (piece: string): PieceParts => {
      const cut = known.length === 0 ? undefined : cutAtStandIns(piece, new Set(stringOf.keys()))
      return cut?.map((part) => (typeof part === 'string' ? part : (stringOf.get(part) as Buffer))) ?? [piece]
    }
    const ids = await encodePieces(rendered.text, partsOf)
    if (ids === undefined) return BEHIND
    return {
      ok: true as const,
      ids: words.addSpecialTokens ? joined([specials.before, ...ids, specials.after]) : joined(ids),
    }
  }

  async function encodePieces(text: string, partsOf: (piece: string) => PieceParts) {
    const found: (Uint32Array | Promise<Uint32Array | undefined>)[] = []
    const missing: { readonly key: string; readonly parts: PieceParts; readonly at: number }[] = []
    for (const { text: piece, id } of tokenizer.pieces(text)) {
      if (id !== undefined) {
        found.push(Uint32Array.of(id))
        continue
      }
      const key = piece.length > KEY_CHARS_MAX ? createHash('sha256').update(piece, 'utf16le').digest('base64') : piece
      const remembered = pieces.get(key)?.ids ?? pending.get(key)
      if (remembered === undefined) missing.push({ key, parts: partsOf(piece), at: found.length })
      found.push(remembered ?? NOTHING)
    }
    if (missing.length > 0) {
      const encoding = encoder.perform({ kind: 'encode', pieces: missing.map(({ parts }) => parts) })
      missing.forEach(({ key, at }, index) => {
        const ids = encoding.then((result) => {
          pending.delete(key)
          const encoded = result?.kind === 'encoded' ? result.pieces[index] : undefined
          if (encoded !== undefined) pieces.set(key, { ids: encoded, keyChars: key.length })
          return encoded
        })
        pending.set(key, ids)
        found[at] = ids
      })
    }
    const all = found.some((ids) => ids instanceof Promise) ? await Promise.all(found) : (found as Uint32Array[])
    return all.every((ids) => ids !== undefined) ? (all as Uint32Array[]) : undefined
  }

  return {
    tokenize,
    stats: () => ({
      pieces: pieces.entries(),
      bytes: pieces.size() + texts.size(),
    }),
  }
}

const NOTHING = new Uint32Array(0)

function render(
  words: Exclude<PromptWords, { readonly ok: false }>,
  { plain, withTools }: ChatTemplates,
): ReturnType<ChatTemplate['render']> {
  if ('text' in words) return words
  const template = (words.chat.tools === undefined ? undefined : withTools) ?? plain
  return template?.render(words.chat) ?? { ok: false, because: 'the model has no chat template here' }
}

/** What the tokenizer puts around a text. */
function specialsOf(tokenizer: TextTokenizer): { readonly before: Uint32Array; readonly after: Uint32Array } {
  const [bare, whole] = [tokenizer.encode('a'), tokenizer.encodeWithSpecials('a')]
  for (let at = 0; at + bare.length <= whole.length; at++) {
    if (bare.every((id, index) => whole[at + index] === id)) {
      return { before: whole.slice(0, at), after: whole.slice(at + bare.length) }
    }
  }
  return { before: NOTHING, after: NOTHING }
}

function joined(parts: readonly Uint32Array[]): Uint32Array {
  const ids = new Uint32Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    ids.set(part, at)
    at += part.length
  }
  return ids
}
