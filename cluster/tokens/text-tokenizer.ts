// The tokenizer of a `tokenizer.json`: our own where it is of the kind that ours does, else the library's, which is slower
// and knows every kind.
import { Tokenizer } from '@huggingface/tokenizers'
import { createBpe, type TextTokenizer } from './bpe/bpe.ts'
import type { TokenizerConfig } from './model-directory.ts'

export type LoadedTokenizer = {
  readonly tokenizer: TextTokenizer
  /** Why it is the library's; undefined when it is ours. */
  readonly notOurs: string | undefined
}

/**
 * Throws an Error when the file makes no tokenizer at all.
 *
 * @param wordCacheBytes for the ids of words that were seen; as the tokenizer has it without.
 */
export function loadTextTokenizer(
  tokenizerJson: unknown,
  config: TokenizerConfig,
  wordCacheBytes?: number,
): LoadedTokenizer {
  const bpe = createBpe(tokenizerJson, wordCacheBytes === undefined ? {} : { wordCacheBytes })
  if (bpe.ok) return { tokenizer: bpe.tokenizer, notOurs: undefined }
  const library = new Tokenizer(tokenizerJson as object, config as object)
  const encode = (text: string, specials: boolean): Uint32Array =>
    text === '' && !specials
      ? new Uint32Array(0)
      : Uint32Array.from(library.encode(text, { add_special_tokens: specials }).ids)
  return {
    notOurs: bpe.because,
    tokenizer: {
      encode: (text) => encode(text, false),
      encodeWithSpecials: (text) => encode(text, true),
      // Where its added tokens cut a text only the library knows.
      pieces: (text) => (text === '' ? [] : [{ text, id: undefined }]),
      encodePiece: (text) => encode(text, false),
    },
  }
}
