// Runs one program in a process group of its own, and ends the whole group when it is told to or when whoever started
// this is gone, however that came about. Arguments: a file for the program's output, the program, its arguments.
import { spawn } from 'node:child_process'
import { closeSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { setPriority } from 'node:os'

/** vLLM swallows a SIGTERM that comes while it starts, so what is still there after this is killed. */
const GRACE_MS = 5_000
/** Of all but the first process. */
const LOWER_PRIORITY = 10

const [logFile, command, ...args] = process.argv.slice(2) as [string, string, ...string[]]
const log = openSync(logFile, 'w')
const child = spawn(command, args, { detached: true, stdio: ['ignore', log, log] })
closeSync(log)

/** Files of shared memory that the group was seen to use: what is killed cannot remove them. */
const sharedMemory = new Set<string>()

/** To all of the group, which keeps its number when the first of its processes has ended. */
function signal(name: 'SIGTERM' | 'SIGKILL'): void {
  if (child.pid === undefined) return
  for (const file of sharedMemoryOf(child.pid)) sharedMemory.add(file)
  try {
    process.kill(-child.pid, name)
  } catch {
    // None is left.
  }
}

/** Calls with each process of the group; what it throws is a process that ended while we looked. */
function forEachOf(group: number, use: (pid: number) => void): void {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
      // Behind the name, which may hold anything: state, parent, group.
      const itsGroup = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2]
      if (Number(itsGroup) === group) use(Number(pid))
    } catch {
      // It ended, or it is not ours.
    }
  }
}

function sharedMemoryOf(group: number): readonly string[] {
  const files: string[] = []
  forEachOf(group, (pid) => {
    files.push(...(readFileSync(`/proc/${pid}/maps`, 'utf8').match(/\/dev\/shm\/\S+$/gm) ?? []))
  })
  return files
}

/** vLLM's engine spins while it waits: where cores are few, its own server would get a turn only after seconds. */
function letTheFirstGoFirst(group: number): void {
  forEachOf(group, (pid) => {
    if (pid !== group) setPriority(pid, LOWER_PRIORITY)
  })
}

process.on('message', (message) => {
  if (message === 'kill') return signal('SIGKILL')
  if (message === 'ready') return child.pid === undefined ? undefined : letTheFirstGoFirst(child.pid)
  signal('SIGTERM')
  setTimeout(signal, GRACE_MS, 'SIGKILL')
})
// Nobody waits for a good end any more.
process.on('disconnect', () => signal('SIGKILL'))
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => signal('SIGKILL'))

child.on('error', (error) => {
  process.stderr.write(`${error.message}\n`)
  process.exit(1)
})
child.on('exit', (code) => {
  signal('SIGKILL')
  for (const file of sharedMemory) rmSync(file, { force: true })
  process.exit(code ?? 1)
})
if (!process.connected) signal('SIGKILL')
