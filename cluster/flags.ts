// Flags: one table per command serves parsing, --help and errors.
import { parseArgs } from 'node:util'
import { UserError } from './user-error.ts'

export type Flag = {
  readonly type: 'string' | 'boolean'
  /** May be given several times. */
  readonly multiple?: boolean
  /** What stands for the value in --help. */
  readonly value?: string
  readonly help: string
}

export type FlagValues = Readonly<Record<string, string | boolean | readonly string[] | undefined>>

/** Parses a command's arguments. Throws UserError for what it does not know. */
export function parseFlags(
  command: string,
  flags: Readonly<Record<string, Flag>>,
  args: readonly string[],
  positionals: boolean,
): { readonly values: FlagValues; readonly positionals: readonly string[] } {
  const options = Object.fromEntries(
    Object.entries(flags).map(([name, { type, multiple }]) => [name, { type, multiple: multiple ?? false }]),
  )
  try {
    const parsed = parseArgs({
      args: args.map(withTwoDashes),
      options: { ...options, help: { type: 'boolean', short: 'h' } },
      allowPositionals: positionals,
      strict: true,
    })
    return { values: parsed.values as FlagValues, positionals: parsed.positionals }
  } catch (error) {
    const [what] = (error as Error).message.split(/\. |\n/)
    throw new UserError(`${what}; see warmpath ${command} --help`)
  }
}

/** Go programs write long flags with one dash (`-port=8000`), and so do manifests made for them. */
function withTwoDashes(argument: string): string {
  return /^-[a-z][a-z-]+(=|$)/.test(argument) ? `-${argument}` : argument
}

export function describeFlags(flags: Readonly<Record<string, Flag>>): string {
  const rows = Object.entries(flags).map(([name, { type, value, help }]) => {
    const left = type === 'boolean' ? `--${name}` : `--${name} ${value ?? 'VALUE'}`
    return [left, help] as const
  })
  rows.push(['--help', 'this text'])
  const width = Math.max(...rows.map(([left]) => left.length))
  return rows.map(([left, help]) => `  ${left.padEnd(width)}  ${help}`).join('\n')
}

export function text(values: FlagValues, name: string): string | undefined {
  const value = values[name]
  return typeof value === 'string' ? value : undefined
}

export function texts(values: FlagValues, name: string): readonly string[] {
  const value = values[name]
  return Array.isArray(value) ? value : []
}

export function isOn(values: FlagValues, name: string): boolean | undefined {
  const value = values[name]
  return typeof value === 'boolean' ? value : undefined
}

/** A number between the bounds, or undefined when the flag is not given. */
export function number(values: FlagValues, name: string, min: number, max: number, whole = true): number | undefined {
  const value = text(values, name)
  if (value === undefined) return undefined
  const parsed = Number(value)
  if (value.trim() !== '' && parsed >= min && parsed <= max && (!whole || Number.isInteger(parsed))) return parsed
  throw new UserError(`--${name} ${value}: expected a ${whole ? 'whole ' : ''}number from ${min} to ${max}`)
}

/** One of the choices, or undefined when the flag is not given. */
export function choice<T extends string>(values: FlagValues, name: string, choices: readonly T[]): T | undefined {
  const value = text(values, name)
  const chosen = choices.find((choice) => choice === value)
  if (value === undefined || chosen !== undefined) return chosen
  throw new UserError(`--${name} ${value}: expected one of ${choices.join(', ')}`)
}

export function port(values: FlagValues, name: string): number | undefined {
  return number(values, name, 0, 65_535)
}
