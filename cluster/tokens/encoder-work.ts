// What is asked of an encoder, and the work itself: the same in a worker thread and, for small texts, in the main one.

import type { TextTokenizer } from './bpe/bpe.ts'
import { coreOf, type Examined, examine } from './stand-ins.ts'

/**
 * A piece of a rendered prompt: texts, also in UTF-8, and the cores of long strings as they stand in a body (JSON, with
 * quotes).
 */
export type PieceParts = readonly (string | Uint8Array | Utf8)[]

/** How a long text goes to another thread: as a string it would be copied many times as slowly. */
export type Utf8 = { readonly utf8: Uint8Array; readonly length: number }

export type EncoderTask =
  | { readonly kind: 'examine'; readonly strings: readonly Uint8Array[] }
  | { readonly kind: 'encode'; readonly pieces: readonly PieceParts[] }

export type EncoderResult =
  /** Undefined where it is no JSON string. */
  | { readonly kind: 'examined'; readonly strings: readonly (Examined | undefined)[] }
  | { readonly kind: 'encoded'; readonly pieces: readonly Uint32Array[] }

/** How much text there is in it. */
export function bytesOf(task: EncoderTask): number {
  const lengths = task.kind === 'examine' ? task.strings : task.pieces.flat()
  return lengths.reduce((sum, { length }) => sum + length, 0)
}

/** @param sought what templates look for in texts. */
export function perform(task: EncoderTask, tokenizer: TextTokenizer, sought: readonly string[]): EncoderResult {
  if (task.kind === 'encode') {
    return {
      kind: 'encoded',
      pieces: task.pieces.map((parts) => owned(tokenizer.encode(parts.map(textOfPart).join('')))),
    }
  }
  return {
    kind: 'examined',
    strings: task.strings.map((raw) => {
      const text = parsed(raw)
      return text === undefined ? undefined : examine(text, sought)
    }),
  }
}

/** Not a part of a larger array: it is kept, or given to another thread. */
function owned(ids: Uint32Array): Uint32Array {
  return ids.byteLength === ids.buffer.byteLength ? ids : ids.slice()
}

function textOfPart(part: PieceParts[number]): string {
  if (typeof part === 'string') return part
  return part instanceof Uint8Array ? coreOf(parsed(part) ?? '') : utf8.decode(part.utf8)
}

/** Invalid UTF-8 is no text to the engine either. */
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** What was examined is mostly encoded next. */
let last: { readonly raw: Uint8Array; readonly text: string | undefined } | undefined

function parsed(raw: Uint8Array): string | undefined {
  if (last?.raw !== raw) last = { raw, text: parse(raw) }
  return last.text
}

function parse(raw: Uint8Array): string | undefined {
  try {
    const text: unknown = JSON.parse(utf8.decode(raw))
    return typeof text === 'string' ? text : undefined
  } catch {
    return undefined
  }
}
