// What a doctor says of one thing that it looked at, and how it is printed.

export type Finding = {
  /** What was looked at. */
  readonly about: string
  /** `fault`: routing by cache goes wrong by it. `note`: worth knowing. */
  readonly verdict: 'ok' | 'note' | 'fault'
  /** One line. */
  readonly words: string
  /** What to set, and where. */
  readonly fix?: string
}

export function ok(about: string, words: string): Finding {
  return { about, verdict: 'ok', words }
}

export function note(about: string, words: string, fix?: string): Finding {
  return { about, verdict: 'note', words, ...(fix !== undefined && { fix }) }
}

export function fault(about: string, words: string, fix?: string): Finding {
  return { about, verdict: 'fault', words, ...(fix !== undefined && { fix }) }
}

const ABOUT_WIDTH = 14

export function describeFinding({ about, verdict, words, fix }: Finding): string {
  const line = `${verdict.padEnd(6)}${about.padEnd(ABOUT_WIDTH)}${words}`
  return fix === undefined ? line : `${line}\n${' '.repeat(6 + ABOUT_WIDTH)}→ ${fix}`
}
