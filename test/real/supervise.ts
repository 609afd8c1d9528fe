// Runs one program in a process group of its own, and ends the whole group when it is told to or when whoever started
// this is gone, however that came about. Arguments: a file for the program's output, the program, its arguments.
import { spawn } from 'node:child_process'
import { closeSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs'

/** vLLM swallows a SIGTERM that comes while it starts, so what is still there after this is killed. */
const GRACE_MS = 5_000

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

function sharedMemoryOf(group: number): readonly string[] {
  const files: string[] = []
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
      // Behind the name, which may hold anything: state, parent, group.
      const itsGroup = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2]
      if (Number(itsGroup) !== group) continue
      files.push(...(readFileSync(`/proc/${pid}/maps`, 'utf8').match(/\/dev\/shm\/\S+$/gm) ?? []))
    } catch {
      // It ended while we looked, or it is not ours.
    }
  }
  return files
}

process.on('message', (message) => {
  if (message === 'kill') return signal('SIGKILL')
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
