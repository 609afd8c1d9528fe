// What keeps a real vLLM from running is said before anything is downloaded, with what to do about it.
import { expect, it } from 'vitest'
import { type Machine, objectionsTo } from './requirements.ts'

const GIB = 2 ** 30
const FITTING: Machine = {
  platform: 'linux',
  arch: 'x64',
  glibc: '2.36',
  avx2: true,
  python: { command: 'python3', minor: 12 },
  redis: true,
  freeMemoryBytes: 16 * GIB,
  freeDiskBytes: 50 * GIB,
}

it('a machine that has everything is told nothing', () => {
  expect(objectionsTo(FITTING, false)).toEqual([])
})

it.each<[string, Partial<Machine>, RegExp]>([
  [
    'a Mac',
    { platform: 'darwin', arch: 'arm64', glibc: undefined, avx2: false },
    /^this is darwin on arm64: .*Linux on x86-64/,
  ],
  ['Linux on ARM', { arch: 'arm64' }, /^this is linux on arm64/],
  ['another C library', { glibc: undefined }, /not glibc/],
  ['an old CPU', { avx2: false }, /no AVX2/],
  ['no fitting Python', { python: undefined }, /no Python 3\.10 to 3\.13 .*name it in PYTHON$/],
  ['no Redis', { redis: false }, /^no redis-server was found, .*install Redis/],
  ['little memory', { freeMemoryBytes: 3.5 * GIB }, /^3\.5 GiB of memory are free/],
  ['little disk', { freeDiskBytes: 2 * GIB }, /^2\.0 GiB of disk are free .*WARMPATH_CACHE$/],
])('%s is named, once', (_, lack, words) => {
  const objections = objectionsTo({ ...FITTING, ...lack }, false)
  expect(objections).toHaveLength(1)
  expect(objections[0]).toMatch(words)
})

it('what is installed needs no Python to install it and no disk any more', () => {
  expect(objectionsTo({ ...FITTING, python: undefined, freeDiskBytes: 0 }, true)).toEqual([])
  expect(objectionsTo({ ...FITTING, avx2: false, freeMemoryBytes: GIB }, true)).toHaveLength(2)
})
