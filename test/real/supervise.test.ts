// The supervisor of real engines: whatever ends the tests, nothing that they started goes on running.
import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, it } from 'vitest'
import { isAlive } from '../e2e/program.ts'

const SUPERVISE = fileURLToPath(new URL('./supervise.ts', import.meta.url))
const directory = mkdtempSync(join(tmpdir(), 'warmpath-supervise-'))
afterAll(() => rmSync(directory, { recursive: true }))

/** Deaf to SIGTERM, with a child that is so too: as an engine that is starting. */
const DEAF = `trap '' TERM; sleep 1000 & echo "$$ $!"; while :; do wait; done`

async function pidsIn(logFile: string): Promise<readonly number[]> {
  for (;;) {
    const pids = readFileSync(logFile, { encoding: 'utf8', flag: 'a+' }).trim().split(' ').map(Number)
    if (pids.length === 2) return pids
    await delay(10)
  }
}

async function allGone(pids: readonly number[]): Promise<void> {
  while (pids.some(isAlive)) await delay(10)
}

async function startDeaf(
  name: string,
): Promise<{ readonly supervisor: ChildProcess; readonly pids: readonly number[] }> {
  const logFile = join(directory, name)
  const supervisor = fork(SUPERVISE, [logFile, 'sh', '-c', DEAF], { detached: true, execArgv: [] })
  const pids = await pidsIn(logFile)
  expect(pids.every(isAlive)).toBe(true)
  return { supervisor, pids }
}

it('kills the program and its children when told to', async () => {
  const { supervisor, pids } = await startDeaf('told')
  supervisor.send('kill')
  await once(supervisor, 'exit')
  await allGone(pids)
})

it('kills what does not end at SIGTERM', async () => {
  const { supervisor, pids } = await startDeaf('deaf')
  supervisor.send('stop')
  await once(supervisor, 'exit')
  await allGone(pids)
})

it('kills all of it when the process that started it is killed', async () => {
  const logFile = join(directory, 'orphaned')
  const script = join(directory, 'starter.mjs')
  const forked = `fork(${JSON.stringify(SUPERVISE)}, ${JSON.stringify([logFile, 'sh', '-c', DEAF])}, { detached: true })`
  writeFileSync(script, `import { fork } from 'node:child_process'\n${forked}\n`)
  const starter = spawn(process.execPath, [script], { stdio: 'ignore' })
  const pids = await pidsIn(logFile)
  starter.kill('SIGKILL')
  await allGone(pids)
})

it('ends as the program does, and leaves no child of it behind', async () => {
  const logFile = join(directory, 'ends')
  const supervisor = fork(SUPERVISE, [logFile, 'sh', '-c', 'sleep 1000 & echo "$$ $!"; exit 7'], { execArgv: [] })
  const [code] = await once(supervisor, 'exit')
  expect(code).toBe(7)
  await allGone(await pidsIn(logFile))
})
