import { expect, it } from 'vitest'
import { HoldTable } from '../../../cluster/kv/hold-table.ts'
import { GPU_TIER } from '../../../cluster/kv/holder-sets.ts'
import { Ordinals } from '../../../cluster/kv/ordinals.ts'
import { PromptTable } from '../../../cluster/kv/prompt-table.ts'

function holding(blocks: number, prompts: PromptTable, ordinal: number): HoldTable {
  const holds = new HoldTable()
  for (let block = 0; block < blocks; block++) {
    const own = Math.imul(block + 1, 0x9e3779b1) >>> 0
    holds.insert(holds.find(ordinal, block, 0), ordinal, block, own, own, 0, 0)
    prompts.add(own, own, ordinal, GPU_TIER)
  }
  return holds
}

it('a number that was given back is used again, once nobody is left under it', () => {
  const prompts = new PromptTable()
  const ordinals = new Ordinals(prompts)
  const [first, second] = [ordinals.take(), ordinals.take()]
  ordinals.giveBack(first, holding(5_000, prompts, first))
  expect(ordinals.take()).toBe(second + 1)
  while (!ordinals.sweep());
  expect(prompts.blocks).toBe(0)
  expect(ordinals.take()).toBe(first)
})

it('a source that clears without end does not make a large one be swept up in one go', () => {
  const prompts = new PromptTable()
  const ordinals = new Ordinals(prompts)
  const large = ordinals.take()
  ordinals.giveBack(large, holding(20_000, prompts, large))
  for (let round = 0; round < 1_100; round++) {
    const ordinal = ordinals.take()
    ordinals.giveBack(ordinal, holding(1_025, prompts, ordinal))
  }
  expect(ordinals.blocksToSweep).toBe(20_000 + 1_023 * 1_025)
  expect(prompts.blocks).toBe(20_000)
  let parts = 1
  while (!ordinals.sweep()) parts++
  expect(parts).toBeGreaterThan(1_000)
  expect(prompts.blocks).toBe(0)
})
