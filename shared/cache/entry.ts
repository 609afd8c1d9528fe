// A stored answer as the stores hold it: one line of facts, then the answer's JSON.
import { FOLDED_CHARS_MAX } from '../answers/answer-form.ts'

export type CacheEntry = {
  /** Milliseconds since 1970. */
  readonly storedAtMs: number
  readonly ttlSeconds: number
  /** Whether the model asks the caller to call tools. */
  readonly callsTools: boolean
  /** The answer less what is made afresh each time, see KeptAnswer. */
  readonly json: string
}

const FACTS = /^warmpath-answer-1 (\d{1,16}) (\d{1,9}) ([01])$/
const FACTS_CHARS_MAX = 64

/** A longer answer is not kept. */
export const ENTRY_CHARS_MAX = FOLDED_CHARS_MAX + FACTS_CHARS_MAX

export function formatEntry({ storedAtMs, ttlSeconds, callsTools, json }: CacheEntry): string {
  return `warmpath-answer-1 ${Math.floor(storedAtMs)} ${ttlSeconds} ${callsTools ? 1 : 0}\n${json}`
}

/** The entry in a store's text; undefined when it is none. */
export function parseEntry(text: string): CacheEntry | undefined {
  if (text.length > ENTRY_CHARS_MAX) return undefined
  const end = text.indexOf('\n')
  const match = end === -1 || end > FACTS_CHARS_MAX ? null : FACTS.exec(text.slice(0, end))
  if (!match) return undefined
  const [, storedAtMs, ttlSeconds, callsTools] = match
  return {
    storedAtMs: Number(storedAtMs),
    ttlSeconds: Number(ttlSeconds),
    callsTools: callsTools === '1',
    json: text.slice(end + 1),
  }
}

/** Whole seconds since it was stored; never negative, whatever the clocks say. */
export function ageSeconds({ storedAtMs }: CacheEntry, nowMs: number): number {
  return Math.max(0, Math.floor((nowMs - storedAtMs) / 1_000))
}
