// Runs a program to its end and passes its lines on as they come.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

/** Of a program that failed: what it said last tells why. */
const LAST_LINES = 20

export type CommandOptions = {
  readonly cwd?: string
  readonly env?: NodeJS.ProcessEnv
  readonly onLine?: (line: string) => void
}

/** What it wrote to stdout. Rejects with its last words when it cannot be started or ends with anything but 0. */
export async function runCommand(
  command: string,
  args: readonly string[],
  { cwd, env = process.env, onLine }: CommandOptions = {},
): Promise<string> {
  const child = spawn(command, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] })
  const last: string[] = []
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      last.push(line)
      if (last.length > LAST_LINES) last.shift()
      onLine?.(line)
    })
  }
  let out = ''
  child.stdout.setEncoding('utf8').on('data', (piece: string) => {
    out += piece
  })
  const [code] = (await once(child, 'close')) as [number | null]
  if (code !== 0) throw new Error(`${command} ended with ${code}:\n${last.join('\n')}`)
  return out
}
