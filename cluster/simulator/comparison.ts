// How far simulated requests are from recorded ones: medians of both, side by side, and the words for them.

export type Times = { readonly firstTokenMs: number; readonly interTokenMs: number }

export type Comparison = {
  readonly requests: number
  /** Medians of what was recorded, and of what the fitted engine takes for the same requests. */
  readonly recorded: Times
  readonly simulated: Times
}

/** Above it a fit is not to be trusted, and says so. */
export const ERROR_MAX = 0.1
/** Times are compared as ratios: none is taken for less. */
export const LEAST_MS = 1e-9

const NAME_COLUMNS = 16

/** Two lists of equal length: a place in both is a request. */
export function compare(recorded: readonly Times[], simulated: readonly Times[]): Comparison {
  return { requests: recorded.length, recorded: medians(recorded), simulated: medians(simulated) }
}

/** How far the medians are off, as shares of what was recorded. */
export function errorsOf({ recorded, simulated }: Comparison): readonly [first: number, inter: number] {
  const off = (one: number, other: number) => Math.abs(one - other) / Math.max(other, LEAST_MS)
  return [off(simulated.firstTokenMs, recorded.firstTokenMs), off(simulated.interTokenMs, recorded.interTokenMs)]
}

export function errorsInWords(comparison: Comparison): string {
  const [first, inter] = errorsOf(comparison).map((error) => `${(error * 100).toFixed(1)} %`)
  return `time to first token ${first} off, time between tokens ${inter}`
}

/** A line for each kind of episode that is further off than a fit may be, whatever all of them are together. */
export function kindsTooFarOff(byKind: ReadonlyMap<string, Comparison>): readonly string[] {
  return [...byKind]
    .filter(([, comparison]) => Math.max(...errorsOf(comparison)) > ERROR_MAX)
    .map(([kind, comparison]) => `Further off than the rest: ${kind}, ${errorsInWords(comparison)}.`)
}

/** The lines of a table: a row for each comparison under its name. */
export function comparisonTable(rows: Iterable<readonly [name: string, Comparison]>): readonly string[] {
  return [
    `  ${''.padEnd(NAME_COLUMNS)}  time to first token, ms        time between tokens, ms`,
    `  ${''.padEnd(NAME_COLUMNS)}  recorded  simulated             recorded  simulated`,
    ...Array.from(rows, ([name, comparison]) => rowOf(name, comparison)),
  ]
}

function rowOf(name: string, { recorded, simulated }: Comparison): string {
  const cell = (of: keyof Times) => {
    const off = (simulated[of] / Math.max(recorded[of], LEAST_MS) - 1) * 100
    const signed = `${off < 0 ? '' : '+'}${off.toFixed(1)} %`
    return `${recorded[of].toFixed(1).padStart(8)}  ${simulated[of].toFixed(1).padStart(9)}  ${signed.padStart(9)}`
  }
  return `  ${name.padEnd(NAME_COLUMNS)}  ${cell('firstTokenMs')}  ${cell('interTokenMs')}`
}

export function medians(times: readonly Times[]): Times {
  return {
    firstTokenMs: median(times.map(({ firstTokenMs }) => firstTokenMs)),
    interTokenMs: median(times.map(({ interTokenMs }) => interTokenMs)),
  }
}

/** 0 of nothing. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  if (sorted.length % 2 === 1) return sorted[middle] ?? 0
  return ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2
}
