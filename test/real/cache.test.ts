// The lock on the cache: two runs never fill it at once, and a run that dies holds nobody up.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, it } from 'vitest'
import { cacheDir, withLock } from './cache.ts'

const directory = mkdtempSync(join(tmpdir(), 'warmpath-cache-'))
afterAll(() => rmSync(directory, { recursive: true }))

it.each<[NodeJS.ProcessEnv, string]>([
  [{ WARMPATH_CACHE: '/a', XDG_CACHE_HOME: '/b' }, '/a'],
  [{ WARMPATH_CACHE: '', XDG_CACHE_HOME: '/b' }, '/b/warmpath'],
])('the folder is where the environment says: %j', (env, folder) => {
  expect(cacheDir(env)).toBe(folder)
})

it('one works after the other, and the second is told that it waits', async () => {
  const file = join(directory, 'turns.lock')
  const seen: string[] = []
  const second = Promise.withResolvers<void>()
  const first = withLock(
    file,
    () => {},
    async () => {
      seen.push('first begins')
      await second.promise
      seen.push('first ends')
    },
  )
  await expect.poll(() => seen).toEqual(['first begins'])
  const waits = (line: string) => {
    seen.push(line)
    second.resolve()
  }
  await withLock(file, waits, async () => seen.push('second'))
  await first
  expect(seen).toEqual(['first begins', `another run holds ${file}: waiting for it`, 'first ends', 'second'])
})

it('is given back when the work fails', async () => {
  const file = join(directory, 'fails.lock')
  const fails = withLock(
    file,
    () => {},
    () => Promise.reject(new Error('no network')),
  )
  await expect(fails).rejects.toThrow('no network')
  expect(
    await withLock(
      file,
      () => {},
      async () => 'done',
    ),
  ).toBe('done')
})

it('is given back when its holder is killed', async () => {
  const file = join(directory, 'killed.lock')
  const script = join(directory, 'holder.ts')
  const cache = fileURLToPath(new URL('./cache.ts', import.meta.url))
  const work = `() => { process.stdout.write('locked'); return new Promise(() => setInterval(() => {}, 1000)) }`
  writeFileSync(
    script,
    `import { withLock } from ${JSON.stringify(cache)}\nawait withLock(${JSON.stringify(file)}, () => {}, ${work})\n`,
  )
  const holder = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(holder.stdout, 'data')
  holder.kill('SIGKILL')
  expect(
    await withLock(
      file,
      () => {},
      async () => 'done',
    ),
  ).toBe('done')
})
