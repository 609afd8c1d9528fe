// Where downloads, and what is made from them, are kept between runs; and the lock that lets one run at a time fill it.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'

export type Print = (line: string) => void

/** Longer than an installation takes on a slow network; whoever waits longer waits for something that hangs. */
const LOCK_TIMEOUT_SECONDS = 45 * 60
/** `flock` itself ends with 1 when it did not get the lock; this one is told apart from its other failures. */
const NOT_LOCKED = 75

/** Shared by every checkout of this user. It is not made here. */
export function cacheDir(env: NodeJS.ProcessEnv = process.env): string {
  if (env.WARMPATH_CACHE) return env.WARMPATH_CACHE
  return join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'warmpath')
}

/**
 * Does the work while nobody else holds the file's lock, on this machine or another that shares the folder. The kernel
 * takes the lock back from a process that dies. Rejects when the lock is not had in time, and with what the work throws.
 */
export async function withLock<T>(file: string, print: Print, work: () => Promise<T>): Promise<T> {
  mkdirSync(dirname(file), { recursive: true })
  const held = await tryLock(file, 0)
  if (held) return release(held, work)
  print(`another run holds ${file}: waiting for it`)
  const awaited = await tryLock(file, LOCK_TIMEOUT_SECONDS)
  if (!awaited)
    throw new Error(`${file} was held by another run for ${LOCK_TIMEOUT_SECONDS / 60} minutes: is it stuck?`)
  return release(awaited, work)
}

async function release<T>(unlock: () => Promise<void>, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } finally {
    await unlock()
  }
}

/** Node has no flock(2): the program of that name holds the lock until its stdin ends, which our death brings about too. */
async function tryLock(file: string, waitSeconds: number): Promise<(() => Promise<void>) | undefined> {
  const args = ['--timeout', String(waitSeconds), '--conflict-exit-code', String(NOT_LOCKED), file]
  const holder = spawn('flock', [...args, 'sh', '-c', 'echo locked; exec cat'], { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = once(holder, 'close')
  const locked = once(holder.stdout, 'data').then(() => true)
  const code = await Promise.race([locked, ended.then(([status]) => status as number | null)])
  if (code === NOT_LOCKED) return undefined
  if (code !== true) throw new Error(`flock ended with ${code} on ${file}`)
  return async () => {
    holder.stdin.end()
    await ended
  }
}
