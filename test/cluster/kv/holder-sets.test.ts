import fc from 'fast-check'
import { expect, it } from 'vitest'
import { HolderSets, NOBODY, type Tier } from '../../../cluster/kv/holder-sets.ts'

const ORDINALS = 70

it('keeps thousands of blocks apart through every join and leave, with one number for equal sets', () => {
  const sets = new HolderSets()
  sets.widen(ORDINALS)
  const next = numbersFrom(3)
  const blocks = Array.from({ length: 5000 }, () => ({ id: NOBODY, members: new Set<number>() }))
  for (let step = 0; step < 60_000; step++) {
    const block = blocks[next() % blocks.length]
    if (!block) throw new Error('no block')
    // Sets shrink at the end, so that numbers are given back and used again.
    const joins = step < 30_000 ? next() % 4 > 0 : next() % 8 === 0
    const member = joins ? next() % (2 * ORDINALS) : ([...block.members][0] ?? 0)
    change(sets, block, member, joins)
  }
  const byContent = new Map<string, number>()
  for (const { id, members } of blocks) {
    const content = [...members].sort((a, b) => a - b).join()
    expect(byContent.get(content) ?? id).toBe(id)
    byContent.set(content, id)
    expect(membersOf(sets, id)).toEqual(content)
  }
  byContent.delete('')
  expect(sets.size).toBe(byContent.size)
  expect(new Set(byContent.values()).size).toBe(byContent.size)
  const { bytes } = sets
  for (const block of blocks) for (const member of block.members) change(sets, block, member, false)
  expect(sets.size).toBe(0)
  expect(sets.bytes).toBe(bytes)
})

it('keeps every set when more sources need wider ones', () => {
  fc.assert(
    fc.property(fc.array(fc.array(fc.nat(63), { maxLength: 8 }), { maxLength: 40 }), (contents) => {
      const sets = new HolderSets()
      sets.widen(32)
      const blocks = contents.map(() => ({ id: NOBODY, members: new Set<number>() }))
      for (const [at, block] of blocks.entries()) {
        for (const member of contents[at] ?? []) change(sets, block, member, true)
      }
      sets.widen(200)
      for (const { id, members } of blocks) {
        expect(membersOf(sets, id)).toBe([...members].sort((a, b) => a - b).join())
      }
      // The same content is still found, and not made a second time.
      for (const [at, content] of contents.entries()) {
        const block = { id: NOBODY, members: new Set<number>() }
        for (const member of content) change(sets, block, member, true)
        expect(block.id).toBe(blocks[at]?.id)
      }
    }),
  )
})

type Block = { id: number; readonly members: Set<number> }

/** A member is twice an ordinal, plus its tier. */
function change(sets: HolderSets, block: Block, member: number, joins: boolean): void {
  const ordinal = member >> 1
  const tier = (member & 1) as Tier
  const after = joins ? sets.joined(block.id, ordinal, tier) : sets.left(block.id, ordinal, tier)
  if (joins) block.members.add(member)
  else block.members.delete(member)
  if (after === block.id) return
  if (after !== NOBODY) sets.retain(after)
  if (block.id !== NOBODY) sets.release(block.id)
  block.id = after
}

function membersOf(sets: HolderSets, id: number): string {
  const members: number[] = []
  for (let ordinal = 0; ordinal < 32 * sets.words; ordinal++) {
    for (const tier of [0, 1] as const) {
      const word = sets.rows[(2 * id + tier) * sets.words + (ordinal >>> 5)] as number
      if (((word >>> (ordinal & 31)) & 1) === 1) members.push(2 * ordinal + tier)
    }
  }
  return members.join()
}

function numbersFrom(start: number): () => number {
  let state = start
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state >>> 0
  }
}
