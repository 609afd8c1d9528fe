// Runs the program as its users do: a process of its own, its words, its signals.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import net from 'node:net'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

export type Program = {
  readonly child: ChildProcess
  /** What it has printed so far on stdout. */
  readonly said: () => string
  readonly complained: () => string
  /** Resolves when stdout holds the text; rejects when the program ends before. */
  readonly says: (text: string | RegExp) => Promise<void>
  /** Resolves with the exit code. */
  readonly ended: Promise<number | null>
}

export function start(args: readonly string[], env: Readonly<Record<string, string>> = {}): Program {
  return watch(process.execPath, ['cluster/main.ts', ...args], env)
}

/** `npm start`, as a newcomer types it. */
export function npmStart(args: readonly string[]): Program {
  return watch('npm', ['start', '--', ...args], {})
}

function watch(command: string, args: readonly string[], env: Readonly<Record<string, string>>): Program {
  const child = spawn(command, args, {
    cwd: ROOT,
    env: { ...process.env, NO_COLOR: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let out = ''
  let err = ''
  const changed = new Set<() => void>()
  child.stdout?.setEncoding('utf8').on('data', (piece: string) => {
    out += piece
    for (const tell of changed) tell()
  })
  child.stderr?.setEncoding('utf8').on('data', (piece: string) => {
    err += piece
  })
  const ended = once(child, 'close').then(([code]) => code as number | null)
  return {
    child,
    said: () => out,
    complained: () => err,
    ended,
    says: (text) =>
      new Promise((resolve, reject) => {
        const look = () => {
          if (typeof text === 'string' ? !out.includes(text) : !text.test(out)) return
          changed.delete(look)
          resolve()
        }
        changed.add(look)
        void ended.then((code) => reject(new Error(`ended with ${code} before it said ${text}: ${out}${err}`)))
        look()
      }),
  }
}

/** Runs a command to its end. */
export async function run(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<{ readonly code: number | null; readonly out: string; readonly err: string }> {
  const program = start(args, env)
  const code = await program.ended
  return { code, out: program.said(), err: program.complained() }
}

export async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

export function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1')
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

/** Live processes that descend from this one, wherever their process group is. */
export function descendants(pid: number): readonly number[] {
  const parents = new Map<number, number>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8')
      const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      if (state !== 'Z') parents.set(Number(name), Number(parent))
    } catch {
      // It ended while we looked.
    }
  }
  const found: number[] = []
  for (let front = [pid]; front.length > 0; ) {
    front = [...parents].filter(([, parent]) => front.includes(parent)).map(([child]) => child)
    found.push(...front)
  }
  return found
}

export function isAlive(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.[0] !== 'Z'
  } catch {
    return false
  }
}
