// Added tokens (special ones among them): where they cut a text. (`AddedVocabulary` of `tokenizers`, 0.23)
import { isObject, isTokenId, NotExact, type Settings } from './settings.ts'

/** Text between added tokens, or one of them and its id. */
export type Piece = { readonly text: string; readonly id: number | undefined }

export type AddedTokens = {
  readonly pieces: (text: string) => readonly Piece[]
}

type Token = {
  readonly id: number
  readonly content: string
  readonly singleWord: boolean
  readonly lstrip: boolean
  readonly rstrip: boolean
  readonly normalized: boolean
}

const TOKENS_MAX = 100_000
const CONTENT_CHARS_MAX = 1_024

/** Cuts a text at the tokens of one set; undefined when there is none to look for. */
type Cut = (text: string, into: Piece[]) => void

export function createAddedTokens(settings: unknown, normalize: (text: string) => string): AddedTokens {
  const list = settings === undefined || settings === null ? [] : settings
  if (!Array.isArray(list) || list.length > TOKENS_MAX) throw new NotExact('the added tokens are no list of them')
  const tokens = list.map(tokenOf).filter(({ content }) => content !== '')
  // Those that are not normalised are found in the text as it is, the others in what is left, once that is normal.
  const raw = cutterOf(
    tokens.filter(({ normalized }) => !normalized),
    (content) => content,
  )
  const normal = cutterOf(
    tokens.filter(({ normalized }) => normalized),
    normalize,
  )
  return {
    pieces(text) {
      if (text === '') return []
      const pieces: Piece[] = []
      if (raw === undefined) pieces.push({ text, id: undefined })
      else raw(text, pieces)
      if (normal === undefined) return pieces
      const finer: Piece[] = []
      for (const piece of pieces) {
        if (piece.id === undefined) normal(normalize(piece.text), finer)
        else finer.push(piece)
      }
      return finer
    },
  }
}

function tokenOf(settings: unknown): Token {
  if (!isObject(settings)) throw new NotExact('an added token is no object')
  const { id, content, single_word, lstrip, rstrip, normalized, special } = settings as Settings
  if (!isTokenId(id) || typeof content !== 'string' || content.length > CONTENT_CHARS_MAX) {
    throw new NotExact('an added token has no id or no content')
  }
  return {
    id,
    content,
    singleWord: single_word === true,
    lstrip: lstrip === true,
    rstrip: rstrip === true,
    normalized: typeof normalized === 'boolean' ? normalized : special !== true,
  }
}

const WORD_AT_END = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u
const WORD_AT_START = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u
/** White space as Unicode has it. */
const SPACE = /[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/

function cutterOf(tokens: readonly Token[], contentOf: (content: string) => string): Cut | undefined {
  if (tokens.length === 0) return undefined
  const byContent = new Map<string, Token>()
  for (const token of tokens) byContent.set(contentOf(token.content), token)
  // The first that fits is taken: the longest has to stand first.
  const contents = [...byContent.keys()].sort((a, b) => b.length - a.length)
  const pattern = new RegExp(contents.map(escaped).join('|'), 'gu')
  return (text, into) => {
    let done = 0
    pattern.lastIndex = 0
    for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
      const [content] = match
      const token = byContent.get(content) as Token
      let start = match.index
      let end = start + content.length
      if (token.singleWord && !standsAlone(text, start, end)) continue
      if (token.lstrip) while (start > done && SPACE.test(text[start - 1] as string)) start--
      if (token.rstrip) while (end < text.length && SPACE.test(text[end] as string)) end++
      if (start > done) into.push({ text: text.slice(done, start), id: undefined })
      into.push({ text: text.slice(start, end), id: token.id })
      done = end
      pattern.lastIndex = Math.max(end, pattern.lastIndex)
    }
    if (done === 0) into.push({ text, id: undefined })
    else if (done < text.length) into.push({ text: text.slice(done), id: undefined })
  }
}

function standsAlone(text: string, start: number, end: number): boolean {
  return !WORD_AT_END.test(text.slice(Math.max(0, start - 2), start)) && !WORD_AT_START.test(text.slice(end, end + 2))
}

function escaped(content: string): string {
  return content.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')
}
