// The processes of one benchmark: started, pinned, watched from /proc, ended. Everything listens on loopback, and only what
// was started here is ended.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { availableParallelism, tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export type Subject = {
  readonly name: string
  readonly port: number
  /** CPU time of all its threads so far, user and system. */
  readonly cpuMs: () => number
  readonly residentMb: () => number
  readonly stop: () => Promise<void>
}

export type Process = Subject & {
  readonly pid: number | undefined
  /** The signal or exit status that ended it; undefined while it runs. */
  readonly endedBy: () => string | undefined
  /** The end of what it wrote to stderr. */
  readonly complaints: () => string
}

export type Command = {
  readonly name: string
  readonly core: number
  readonly command: string
  readonly args: readonly string[]
  /** Where it listens when it is ready, and a path that it then answers 200 to. */
  readonly port: number
  readonly path: string
  readonly env?: Readonly<Record<string, string>>
}

export type Processes = {
  /** For their files; it goes with them. */
  readonly directory: string
  readonly pin: boolean
  /** Resolves when it answers. */
  readonly start: (command: Command) => Promise<Process>
  /** Something else that ends with them. */
  readonly alsoStop: (stop: () => Promise<void>) => void
  /** Who has ended or written to stderr, and the end of that. */
  readonly complaints: () => string
  readonly stop: () => Promise<void>
}

export const CORE_OF_SUBJECT = 1
export const CORE_OF_THE_REST = 0

/** USER_HZ: the unit of /proc's CPU times on every Linux. */
const TICKS_PER_SECOND = 100
const READY_MS = 20_000
const STOP_MS = 5_000
const COMPLAINT_CHARS = 2_000

/** Leaves a core to the subjects alone, if there are two; tells whether it did. Once for a process. */
export function leaveCoreToSubjects(): boolean {
  if (availableParallelism() < 2 || findProgram('taskset') === undefined) return false
  return pinAll(process.pid, CORE_OF_THE_REST)
}

/** Puts all threads of a process, and those they will start, on one core; tells whether it did. */
export function pinAll(pid: number, core: number): boolean {
  return spawnSync('taskset', ['-acp', String(core), String(pid)]).status === 0
}

/** What a run without pinned processes says of itself. */
export function notesOf(pin: boolean): string[] {
  return pin ? [] : ['nothing is pinned to a core: that takes taskset and two cores']
}

/** A folder, and no process yet. Throws where there is no /proc. */
export function createProcesses(pin: boolean): Processes {
  if (!existsSync('/proc/self/stat')) throw new Error('the benchmark reads CPU times from /proc: it needs Linux')
  const directory = mkdtempSync(join(tmpdir(), 'warmpath-bench-'))
  const started: Process[] = []
  const others: (() => Promise<void>)[] = []
  return {
    directory,
    pin,
    async start(wanted) {
      const { core, command, args } = wanted
      const words = pin ? ['taskset', '-c', String(core), command, ...args] : [command, ...args]
      const one = spawnProcess(wanted, words)
      started.push(one)
      await ready(one, wanted.path)
      return one
    },
    alsoStop: (stop) => void others.push(stop),
    complaints: () =>
      started
        .filter((one) => one.endedBy() !== undefined || one.complaints() !== '')
        .map((one) => `${one.name}, ${one.endedBy() ?? 'running'}: ${one.complaints()}`)
        .join('\n'),
    async stop() {
      await Promise.all([...started.map((one) => one.stop()), ...others.map((stop) => stop())])
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

export function cpuMsOf(pid: number | undefined): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  // The second field may hold blanks: count from the parenthesis that ends it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return ((Number(fields[11]) + Number(fields[12])) * 1000) / TICKS_PER_SECOND
}

export function residentMbOf(pid: number | undefined): number {
  return Number(/VmRSS:\s*([0-9]+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.on('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0))
    })
  })
}

export function findProgram(name: string): string | undefined {
  const directories = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/bin']
  return directories.map((directory) => join(directory, name)).find((file) => existsSync(file))
}

export function script(path: string): string {
  return fileURLToPath(new URL(path, import.meta.url))
}

function spawnProcess({ name, port, env }: Command, [command = '', ...args]: readonly string[]): Process {
  // Engine, relay and edge host end with their stdin, should this process be killed.
  const child = spawn(command, args, { stdio: ['pipe', 'ignore', 'pipe'], env: { ...process.env, ...env } })
  let complaints = ''
  child.stderr.on('data', (data: Buffer) => {
    complaints = (complaints + data.toString()).slice(-COMPLAINT_CHARS)
  })
  child.on('error', (error) => {
    complaints += error.message
  })
  const kill = () => void child.kill('SIGKILL')
  process.on('exit', kill)
  const exited = new Promise<void>((resolve) => {
    child.on('close', () => {
      process.off('exit', kill)
      resolve()
    })
  })
  function endedBy(): string | undefined {
    if (child.pid === undefined) return 'never started'
    return child.signalCode ?? (child.exitCode === null ? undefined : `exit status ${child.exitCode}`)
  }
  return {
    name,
    port,
    pid: child.pid,
    cpuMs: () => cpuMsOf(child.pid),
    residentMb: () => residentMbOf(child.pid),
    complaints: () => complaints,
    endedBy,
    async stop() {
      if (endedBy() !== undefined) return
      child.kill('SIGTERM')
      const timer = setTimeout(kill, STOP_MS)
      await exited
      clearTimeout(timer)
    },
  }
}

async function ready(subject: Process, path: string): Promise<void> {
  const deadline = performance.now() + READY_MS
  while (performance.now() < deadline) {
    if (subject.endedBy() !== undefined) break
    const answer = await fetch(`http://127.0.0.1:${subject.port}${path}`).catch(() => undefined)
    await answer?.text().catch(() => undefined)
    if (answer?.status === 200) return
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error(`${subject.name} does not answer GET ${path}\n${subject.complaints()}`)
}
