// What the edge takes a model's name for: the router's last word, for a minute.
import { describe, expect, it } from 'vitest'
import { createModelVersions, MODEL_VERSION_TTL_SECONDS } from '../../edge/model-version.ts'
import type { ResponseStore } from '../../edge/store.ts'

function rig() {
  const texts = new Map<string, string>()
  const store: ResponseStore = {
    read: async (key) => texts.get(key),
    write: async (key, text) => void texts.set(key, text),
  }
  const clock = { nowSeconds: 0 }
  const isolate = () => createModelVersions({ epochMs: () => clock.nowSeconds * 1_000 })
  return { store, clock, isolate, texts }
}

describe('the version of a model', () => {
  it('is known for a minute from the question that brought it, here and in the colo’s other isolates', async () => {
    const { store, clock, isolate } = rig()
    const [one, other] = [isolate(), isolate()]
    expect(await one.find('m', store)).toBeUndefined()
    await one.learn('m', 'A', 0, store)
    clock.nowSeconds = MODEL_VERSION_TTL_SECONDS - 1
    expect([await one.find('m', store), await other.find('m', store)]).toEqual(['A', 'A'])
    clock.nowSeconds++
    expect([await one.find('m', store), await other.find('m', store)]).toEqual([undefined, undefined])
  })

  it('is not set back by an answer that took long', async () => {
    const { store, clock, isolate } = rig()
    const versions = isolate()
    await versions.learn('m', 'A', 0, store)
    clock.nowSeconds = 10
    await versions.learn('m', 'B', 10_000, store)
    clock.nowSeconds = 50
    await versions.learn('m', 'A', 5_000, store)
    expect(await versions.find('m', store)).toBe('B')
    expect(await isolate().find('m', store)).toBe('B')
  })

  it('is told to the colo when it is news, and before the colo forgets, not with every answer', async () => {
    const { store, isolate, texts } = rig()
    const versions = isolate()
    const told = async (version: string, atMs: number): Promise<string | undefined> => {
      texts.clear()
      await versions.learn('m', version, atMs, store)
      return [...texts.values()][0]
    }
    expect(await told('A', 1)).toBe('1 A')
    expect(await told('A', 2)).toBeUndefined()
    expect(await told('B', 3)).toBe('3 B')
    expect(await told('B', 40_000)).toBe('40000 B')
    expect(await told('not a version\n', 50_000)).toBeUndefined()
  })
})
