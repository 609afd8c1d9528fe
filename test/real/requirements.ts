// What a machine needs to run a real vLLM on its CPU and a real Redis, and what to do where something is missing.
import { readFileSync, statfsSync } from 'node:fs'
import { dirname } from 'node:path'
import { runCommand } from './command.ts'
import { canInstallRedis, findRedis } from './install-redis.ts'

export type Machine = {
  /** As Node names them: `linux`, `x64`. */
  readonly platform: string
  readonly arch: string
  /** Undefined where the C library is another one. */
  readonly glibc: string | undefined
  readonly avx2: boolean
  /** A Python that can make virtual environments, as [command, minor version of Python 3]; undefined when there is none. */
  readonly python: Python | undefined
  /** A redis-server, or what downloads one. */
  readonly redis: boolean
  readonly freeMemoryBytes: number
  readonly freeDiskBytes: number
}

export type Python = { readonly command: string; readonly minor: number }

const PYTHON_MINOR_LEAST = 10
const PYTHON_MINOR_MOST = 13
const PYTHONS = ['python3', 'python3.13', 'python3.12', 'python3.11', 'python3.10']
const GIB = 2 ** 30
/** Two engines, each of three processes that load torch, with a small KV cache; the edge and the router beside them. */
const MEMORY_BYTES_LEAST = 7 * GIB
/** 6 GiB installed and 3 GiB of downloads. */
const DISK_BYTES_LEAST = 10 * GIB

/** In words, each with what to do about it; empty where both can run. `installed`: vLLM is. */
export function objectionsTo(machine: Machine, installed: boolean): readonly string[] {
  const { platform, arch, glibc, avx2, python, redis, freeMemoryBytes, freeDiskBytes } = machine
  const objections: string[] = []
  if (platform !== 'linux' || arch !== 'x64') {
    objections.push(`this is ${platform} on ${arch}: vLLM for CPUs is built for Linux on x86-64; use such a machine`)
  } else {
    if (glibc === undefined) objections.push('the C library is not glibc: use a Debian, Ubuntu, Fedora or the like')
    if (!avx2) objections.push('the CPU has no AVX2: use a newer one')
  }
  if (freeMemoryBytes < MEMORY_BYTES_LEAST) {
    objections.push(
      `${gib(freeMemoryBytes)} of memory are free, two engines take ${gib(MEMORY_BYTES_LEAST)}: free some`,
    )
  }
  if (!redis) {
    objections.push(
      'no redis-server was found, and no apt-get and dpkg-deb that download one: install Redis 6 or later',
    )
  }
  if (installed) return objections
  if (python === undefined) {
    const range = `3.${PYTHON_MINOR_LEAST} to 3.${PYTHON_MINOR_MOST}`
    objections.push(`no Python ${range} with its venv module was found: install one, or name it in PYTHON`)
  }
  if (freeDiskBytes < DISK_BYTES_LEAST) {
    const where = 'where the cache lies'
    objections.push(
      `${gib(freeDiskBytes)} of disk are free ${where}, vLLM takes ${gib(DISK_BYTES_LEAST)}: free some, or name another folder in WARMPATH_CACHE`,
    )
  }
  return objections
}

/** @param cache the folder to install into; it need not exist yet. */
export async function lookAtMachine(cache: string): Promise<Machine> {
  const { platform, arch } = process
  return {
    platform,
    arch,
    glibc: glibcVersion(),
    avx2: platform !== 'linux' || /^flags\s*:.*\bavx2\b/m.test(readFileSync('/proc/cpuinfo', 'utf8')),
    python: await findPython(),
    redis: findRedis() !== undefined || canInstallRedis(),
    freeMemoryBytes: process.availableMemory(),
    freeDiskBytes: freeBytes(cache),
  }
}

export async function findPython(named = process.env.PYTHON): Promise<Python | undefined> {
  for (const command of named ? [named] : PYTHONS) {
    try {
      const script = 'import ensurepip, sys, venv; print(*sys.version_info[:2])'
      const [major, minor = 0] = (await runCommand(command, ['-c', script])).trim().split(' ').map(Number)
      if (major === 3 && minor >= PYTHON_MINOR_LEAST && minor <= PYTHON_MINOR_MOST) return { command, minor }
    } catch {
      // Not there, or without the modules.
    }
  }
  return undefined
}

function glibcVersion(): string | undefined {
  const report = process.report.getReport() as { readonly header?: { readonly glibcVersionRuntime?: string } }
  return report.header?.glibcVersionRuntime
}

function freeBytes(folder: string): number {
  try {
    const { bavail, bsize } = statfsSync(folder)
    return bavail * bsize
  } catch {
    return folder === dirname(folder) ? 0 : freeBytes(dirname(folder))
  }
}

function gib(bytes: number): string {
  return `${(bytes / GIB).toFixed(1)} GiB`
}
