// Finds a real redis-server: the one on this machine, or Debian's own packages, unpacked into the cache without root's
// powers.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { cacheDir, type Print, withLock } from './cache.ts'
import { runCommand } from './command.ts'

/** The second has the program, the first its name. */
const PACKAGES = ['redis-server', 'redis-tools']
const STAMP = '.installed'

export type RedisProgram = { readonly command: string; readonly env: NodeJS.ProcessEnv }

/** The one on this machine, or the one in the cache, if there is one. */
export function findRedis(): RedisProgram | undefined {
  const command = onPath('redis-server')
  if (command) return { command, env: process.env }
  const folder = folderOf()
  if (!existsSync(join(folder, STAMP))) return undefined
  return { command: join(folder, 'usr/bin/redis-server'), env: environmentOf(folder) }
}

/** Whether it could be installed into the cache. */
export function canInstallRedis(): boolean {
  return ['apt-get', 'apt-cache', 'dpkg-deb', 'ldd'].every(onPath)
}

/** The one there is, installed first where need be: 2 MB. Rejects in words where that cannot be. */
export async function installRedis(print: Print = () => {}): Promise<RedisProgram> {
  const found = findRedis()
  if (found) return found
  return withLock(`${folderOf()}.lock`, print, async () => {
    if (!findRedis()) await install(folderOf(), print)
    return findRedis() as RedisProgram
  })
}

async function install(folder: string, print: Print): Promise<void> {
  if (!canInstallRedis()) throw new Error('no redis-server was found, and no apt-get to download one: install Redis')
  print(`downloading Debian's redis-server into ${folder}, once`)
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  let options: readonly string[] = []
  try {
    await unpack(folder, options, PACKAGES)
  } catch {
    print('  the lists of packages are missing or old: fetching them')
    options = await fetchLists(folder)
    await unpack(folder, options, PACKAGES)
  }
  if ((await missingLibraries(folder)).length > 0) await unpack(folder, options, await absentDependencies(options))
  const missing = await missingLibraries(folder)
  if (missing.length > 0) throw new Error(`Debian's redis-server lacks ${missing.join(', ')} here: install Redis`)
  const { command, env } = { command: join(folder, 'usr/bin/redis-server'), env: environmentOf(folder) }
  const version = await runCommand(command, ['--version'], { env })
  rmSync(join(folder, 'lists'), { recursive: true, force: true })
  writeFileSync(join(folder, STAMP), version)
  print(`  ${version.split(' sha=')[0]}`)
}

async function unpack(folder: string, options: readonly string[], packages: readonly string[]): Promise<void> {
  const debs = join(folder, 'debs')
  mkdirSync(debs, { recursive: true })
  // Root's apt steps down to a user who may not write here.
  await runCommand('apt-get', [...options, '-o', 'APT::Sandbox::User=root', 'download', ...packages], { cwd: debs })
  for (const file of readdirSync(debs)) await runCommand('dpkg-deb', ['-x', join(debs, file), folder])
  rmSync(debs, { recursive: true })
}

/** Into a folder of our own, which needs no root. Gives what makes apt look there. */
async function fetchLists(folder: string): Promise<readonly string[]> {
  const lists = join(folder, 'lists')
  for (const name of ['partial', 'archives/partial']) mkdirSync(join(lists, name), { recursive: true })
  const options = [
    ...[
      '-o',
      `Dir::State::Lists=${lists}`,
      '-o',
      `Dir::Cache=${lists}`,
      '-o',
      `Dir::Cache::Archives=${lists}/archives`,
    ],
    ...['-o', 'Debug::NoLocking=1', '-o', 'APT::Update::Post-Invoke-Success::=', '-o', 'APT::Sandbox::User=root'],
  ]
  await runCommand('apt-get', [...options, 'update'])
  return options
}

async function missingLibraries(folder: string): Promise<readonly string[]> {
  const said = await runCommand('ldd', [join(folder, 'usr/bin/redis-server')], { env: environmentOf(folder) })
  return [...said.matchAll(/^\s*(\S+) => not found/gm)].map(([, name]) => name as string)
}

/** Its libraries that this machine has not. */
async function absentDependencies(options: readonly string[]): Promise<readonly string[]> {
  const said = await runCommand('apt-cache', [...options, 'depends', ...PACKAGES])
  const names = [...said.matchAll(/^\s*\|?Depends: (lib\S+|lua\S+)/gm)].map(([, name]) => name as string)
  const absent: string[] = []
  for (const name of names) {
    const state = await runCommand('dpkg-query', ['-W', '-f', '$' + '{db:Status-Status}', name]).catch(() => '')
    if (state !== 'installed') absent.push(name)
  }
  return absent
}

/** Debian keeps libraries in a folder named after the machine. */
function environmentOf(folder: string): NodeJS.ProcessEnv {
  const lib = join(folder, 'usr/lib')
  const folders = existsSync(lib) ? readdirSync(lib).map((name) => join(lib, name)) : []
  return { ...process.env, LD_LIBRARY_PATH: [...folders, process.env.LD_LIBRARY_PATH].filter(Boolean).join(delimiter) }
}

/** Another release has other libraries. */
function folderOf(): string {
  const release = existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : ''
  const [id, version] = ['ID', 'VERSION_ID'].map(
    (name) => new RegExp(`^${name}="?([\\w.]+)`, 'm').exec(release)?.[1] ?? 'unknown',
  )
  return join(cacheDir(), `redis-${id}-${version}-${process.arch}`)
}

function onPath(command: string): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter)
  return folders.map((folder) => join(folder, command)).find((file) => existsSync(file))
}
