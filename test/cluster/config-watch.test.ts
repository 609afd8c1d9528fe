import { mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { watchConfig } from '../../cluster/config-watch.ts'
import { until } from './proxy/rig.ts'

function watched(first: string) {
  const folder = mkdtempSync(join(tmpdir(), 'warmpath-'))
  const file = join(folder, 'router.yaml')
  writeFileSync(file, first)
  const refusals: string[] = []
  let changes = 0
  let last = ''
  let fails = false
  const watch = watchConfig(
    file,
    (text) => {
      changes++
      last = text
      if (fails) throw new Error('router.yaml:1: no')
    },
    (message) => refusals.push(message),
    5,
  )
  onTestFinished(() => {
    watch.close()
    rmSync(folder, { recursive: true })
  })
  return {
    file,
    folder,
    refusals,
    changes: () => changes,
    last: () => last,
    failing: () => {
      fails = true
    },
  }
}

it('tells of every new content once', async () => {
  const its = watched('port: 1\n')
  await until(() => its.changes() === 1)
  writeFileSync(its.file, 'port: 2\n')
  await until(() => its.changes() === 2)
  expect(its.last()).toBe('port: 2\n')
})

it('sees a file that is swapped by a link, as Kubernetes does with a mounted ConfigMap', async () => {
  const its = watched('port: 1\n')
  await until(() => its.changes() === 1)
  writeFileSync(join(its.folder, 'new.yaml'), 'port: 2\n')
  symlinkSync(join(its.folder, 'new.yaml'), join(its.folder, 'link'))
  renameSync(join(its.folder, 'link'), its.file)
  await until(() => its.changes() === 2)
})

it('says once that the file is gone, and that it is back even when it holds the same', async () => {
  const its = watched('port: 1\n')
  await until(() => its.changes() === 1)
  rmSync(its.file)
  await until(() => its.refusals.length === 1)
  expect(its.refusals).toEqual([`${its.file} cannot be read: ENOENT`])
  writeFileSync(its.file, 'port: 1\n')
  await until(() => its.changes() === 2)
  expect(its.refusals).toHaveLength(1)
})

it('says once why a bad file was refused, and goes on watching while the file is away', async () => {
  const its = watched('port: 1\n')
  await until(() => its.changes() === 1)
  its.failing()
  writeFileSync(its.file, 'prot: 1\n')
  await until(() => its.refusals.length === 1)
  rmSync(its.file)
  writeFileSync(its.file, 'prot: 2\n')
  await until(() => its.refusals.length === 2)
  expect(its.refusals[0]).toBe('router.yaml:1: no')
})
