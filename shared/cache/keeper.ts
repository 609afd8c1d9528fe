// Listens to an answer as it passes, and has it whole at the end. Streams are folded as they come: what is held is the
// answer and not its events.
import { FOLDED_CHARS_MAX, type KeptAnswer } from '../answers/answer-form.ts'
import { ANSWER_FORMS } from '../answers/forms.ts'
import { SseSplitter } from '../sse.ts'
import type { CacheableDialect } from './key.ts'

export type Keeper = {
  /** Takes the bytes as the engine sent them, its usage event included. */
  readonly push: (chunk: Uint8Array) => void
  /** After the last ones: the answer, or undefined when it is not whole or not one that can be kept. */
  readonly end: () => KeptAnswer | undefined
}

/**
 * Makes the keeper for an answer of this dialect that came as an event stream, or not. It never throws: the answer is on
 * its way to a caller, and what is wrong with keeping it is not the caller's. Such errors go to `onBug`.
 */
export function createKeeper(dialect: CacheableDialect, streams: boolean, onBug: (error: unknown) => void): Keeper {
  let keeper: Keeper | undefined = streams ? eventKeeper(dialect) : plainKeeper(dialect)
  function guarded<Value>(attempt: () => Value): Value | undefined {
    try {
      return attempt()
    } catch (error) {
      keeper = undefined
      onBug(error)
      return undefined
    }
  }
  return {
    push: (chunk) => guarded(() => keeper?.push(chunk)),
    end: () => guarded(() => keeper?.end()),
  }
}

function eventKeeper(dialect: CacheableDialect): Keeper {
  const splitter = new SseSplitter()
  let fold = ANSWER_FORMS[dialect].createFold?.()
  return {
    push(chunk) {
      if (!fold) return
      const { events, tooLarge } = splitter.push(chunk)
      for (const { data } of events) if (data !== undefined) fold.push(data)
      if (tooLarge) fold = undefined
    },
    end: () => fold?.end(),
  }
}

function plainKeeper(dialect: CacheableDialect): Keeper {
  let chunks: Uint8Array[] | undefined = []
  let length = 0
  return {
    push(chunk) {
      length += chunk.length
      if (length > FOLDED_CHARS_MAX) chunks = undefined
      chunks?.push(chunk)
    },
    end() {
      if (!chunks) return undefined
      const text = decode(chunks, length)
      chunks = undefined
      return text === undefined ? undefined : ANSWER_FORMS[dialect].read(text)
    },
  }
}

function decode(chunks: readonly Uint8Array[], length: number): string | undefined {
  const whole = new Uint8Array(length)
  let at = 0
  for (const chunk of chunks) {
    whole.set(chunk, at)
    at += chunk.length
  }
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(whole)
  } catch {
    return undefined
  }
}
