// What a simulated model says: plain sentences drawn from a seed, or a script, cut where the request wants them cut.

import { createRandom, type Random, randomInteger } from '../../shared/random.ts'
import type { Finish, Utterance } from './sequence.ts'
import type { Tokenizer } from './tokenizer.ts'

export type SpeechOptions = {
  readonly tokenizer: Tokenizer
  readonly seed: number
  readonly minTokens: number
  readonly ignoreEos: boolean
  readonly stop: readonly string[]
  readonly stopTokenIds: readonly number[]
  readonly includeStopInOutput: boolean
  /** Said instead of sentences. */
  readonly scriptIds: readonly number[] | undefined
}

const NATURAL_TOKENS_MIN = 20
const NATURAL_TOKENS_MAX = 200
const SENTENCE_WORDS_MIN = 5
const SENTENCE_WORDS_MAX = 14

/** What sentences are made of. */
export const WORDS = (
  'the a one every some this that small large warm cold quiet quick steady careful simple clear long short next early ' +
  'late cache token model prompt answer question request engine router block layer memory river morning garden window ' +
  'letter number road bridge story reader teacher student system signal machine reason pattern detail moment begins ' +
  'holds keeps moves finds gives takes needs shows follows leaves returns opens carries reaches helps and but so while ' +
  'because when before after under over near with without between against toward often rarely always slowly again'
).split(' ')

/** A function that says one token at a time, as an engine's sampler and detokenizer would together. */
export function createSpeech(options: SpeechOptions): (isLast: boolean) => Utterance {
  const { tokenizer, minTokens, ignoreEos, stopTokenIds } = options
  const next = options.scriptIds === undefined ? sentences(options) : script(options.scriptIds)
  const decode = tokenizer.createDecoder()
  const cut = createStopCutter(options.stop, options.includeStopInOutput)
  let spoken = 0

  return (isLast) => {
    const mayStop = spoken >= minTokens
    const tokenId = next(mayStop && !ignoreEos)
    spoken++
    if (tokenId === undefined) {
      return { tokenId: tokenizer.endOfTextId, text: cut.flush(), finish: { reason: 'stop', stopReason: null } }
    }
    if (mayStop && stopTokenIds.includes(tokenId)) {
      return { tokenId, text: cut.flush(), finish: { reason: 'stop', stopReason: tokenId } }
    }
    const { text, stoppedBy } = cut.push(decode(tokenId), mayStop)
    if (stoppedBy !== undefined) return { tokenId, text, finish: { reason: 'stop', stopReason: stoppedBy } }
    if (!isLast) return { tokenId, text, finish: undefined }
    const finish: Finish = { reason: 'length', stopReason: null }
    return { tokenId, text: text + cut.flush(), finish }
  }
}

/** The next token id; undefined at the end of the text, which comes only when `mayEnd`. */
type TokenSource = (mayEnd: boolean) => number | undefined

function script(ids: readonly number[]): TokenSource {
  let at = 0
  return () => ids[at++]
}

/** Sentences without end; the text is complete at the first full stop past its natural length. */
function sentences({ tokenizer, seed }: SpeechOptions): TokenSource {
  const random = createRandom(seed)
  const naturalTokens = randomInteger(random, NATURAL_TOKENS_MIN, NATURAL_TOKENS_MAX)
  let ids: number[] = []
  let at = 0
  let spoken = 0
  return (mayEnd) => {
    if (at >= ids.length) {
      if (mayEnd && spoken >= naturalTokens) return undefined
      ids = tokenizer.encode(`${spoken === 0 ? '' : ' '}${sentence(random)}`, false)
      at = 0
    }
    spoken++
    return ids[at++]
  }
}

function sentence(random: Random): string {
  const words = Array.from(
    { length: randomInteger(random, SENTENCE_WORDS_MIN, SENTENCE_WORDS_MAX) },
    () => WORDS[randomInteger(random, 0, WORDS.length - 1)] ?? '',
  )
  const text = words.join(' ')
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`
}

type StopCutter = {
  readonly push: (text: string, mayStop: boolean) => { readonly text: string; readonly stoppedBy: string | undefined }
  readonly flush: () => string
}

/** Holds back as much text as may turn out to be the beginning of a stop string. */
function createStopCutter(stops: readonly string[], includeStop: boolean): StopCutter {
  const holdLength = includeStop ? 0 : Math.max(0, ...stops.map((stop) => stop.length - 1))
  let held = ''
  /** The end of the text so far in which a stop string may begin. */
  let seen = ''
  const seenLength = Math.max(0, ...stops.map((stop) => stop.length - 1))
  return {
    push: (added, mayStop) => {
      if (stops.length === 0) return { text: added, stoppedBy: undefined }
      seen = seen.slice(Math.max(0, seen.length - seenLength))
      const searchFrom = seen.length
      seen += added
      held += added
      if (mayStop) {
        const hit = firstStop(seen, stops, searchFrom)
        if (hit) {
          const end = hit.at + (includeStop ? hit.stop.length : 0)
          const text = held.slice(0, Math.max(0, held.length - (seen.length - end)))
          held = ''
          return { text, stoppedBy: hit.stop }
        }
      }
      let cut = Math.max(0, held.length - holdLength)
      // Half of a surrogate pair is no text.
      if (isHighSurrogate(held.charCodeAt(cut - 1))) cut--
      const text = held.slice(0, cut)
      held = held.slice(cut)
      return { text, stoppedBy: undefined }
    },
    flush: () => {
      const text = held
      held = ''
      return text
    },
  }
}

function firstStop(text: string, stops: readonly string[], newFrom: number) {
  let first: { readonly stop: string; readonly at: number } | undefined
  for (const stop of stops) {
    const at = text.indexOf(stop, Math.max(0, newFrom - stop.length + 1))
    if (at >= 0 && (!first || at < first.at)) first = { stop, at }
  }
  return first
}

function isHighSurrogate(code: number): boolean {
  return code >= 0xd800 && code <= 0xdbff
}
