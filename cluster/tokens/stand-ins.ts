// What stands in for a long text while a template renders a conversation: short, unlike anything a caller can write, and
// made so that a template which changes it is noticed.
import { randomInt } from 'node:crypto'

/** A long text as it was found once. Its core is what is between the white space at its ends. */
export type KnownText = {
  readonly leading: string
  readonly trailing: string
  /** Names the core for as long as this process runs; undefined when the text must stand for itself. */
  readonly serial: number | undefined
}

export type Examined = { readonly leading: string; readonly trailing: string; readonly replaceable: boolean }

const LEADING = /^\s*/
const LONE_SURROGATE = /\p{Surrogate}/u

/**
 * Whether something else may stand in a text's place.
 *
 * @param sought what a template, or a conversion, looks for in texts.
 */
export function examine(text: string, sought: readonly string[]): Examined {
  const [leading] = LEADING.exec(text) as RegExpExecArray
  // Not by the pattern: it begins anew at each white space.
  const trailing = text.slice(text.trimEnd().length)
  const isBlank = leading.length === text.length
  const replaceable = !isBlank && !LONE_SURROGATE.test(text) && !sought.some((words) => text.includes(words))
  return { leading, trailing: isBlank ? '' : trailing, replaceable }
}

/** The part of an examined text that a stand-in stands for. */
export function coreOf(text: string): string {
  return text.trim()
}

// Of the planes for private use; drawn anew by each process, so that nobody can write one that means something.
const OPEN = String.fromCodePoint(0xf0000 + randomInt(0xfffe))
const CLOSE = String.fromCodePoint(0x100000 + randomInt(0xfffe))
/** Changed by every filter that escapes, quotes, breaks lines or writes other letters. */
const SENTINEL = 'aAb"\n'
const STAND_IN = new RegExp(`${OPEN}([0-9a-z]+)${SENTINEL}${CLOSE}`, 'u')

export function standInFor({ leading, trailing, serial }: KnownText): string | undefined {
  return serial === undefined ? undefined : `${leading}${OPEN}${serial.toString(36)}${SENTINEL}${CLOSE}${trailing}`
}

/**
 * A rendered text, cut at its stand-ins: at even places text, at odd ones serials. Undefined when one was changed, or is
 * none of those that were given.
 */
export function cutAtStandIns(text: string, given: ReadonlySet<number>): readonly (string | number)[] | undefined {
  const cut: (string | number)[] = text.split(STAND_IN)
  for (let at = 0; at < cut.length; at++) {
    const part = cut[at] as string
    if (at % 2 === 0) {
      if (part.includes(OPEN) || part.includes(CLOSE)) return undefined
      continue
    }
    const serial = Number.parseInt(part, 36)
    if (!given.has(serial)) return undefined
    cut[at] = serial
  }
  return cut
}
