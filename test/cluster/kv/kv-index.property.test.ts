import fc from 'fast-check'
import { expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import type { ExtraKeys, KvEvent } from '../../../cluster/kv/kv-event.ts'
import { createKvIndex, type KvSource } from '../../../cluster/kv/kv-index.ts'
import { batchOf, removed, stored } from './kv-events.ts'
import { NaiveSource } from './naive-index.ts'

const SOURCES = 5
/** Source 4 is of another model. */
const modelOf = (source: number) => (source === 4 ? 'n' : 'm')

/** A chain of blocks from few letters, so that chains meet: content, and the engine's way of naming it. */
type Chain = {
  readonly letters: readonly number[]
  readonly size: number
  readonly lora: string | undefined
  readonly salt: string | undefined
  /** Two adapters of one name have other hashes for the same content. */
  readonly path: number
  readonly image: number
}

/** Mostly the plain one, so that chains meet. */
function mostly<T>(plain: T, ...others: readonly T[]): fc.Arbitrary<T> {
  return fc.oneof({ weight: 12, arbitrary: fc.constant(plain) }, ...others.map((other) => fc.constant(other)))
}

const chain: fc.Arbitrary<Chain> = fc.record({
  letters: fc.constantFrom([0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 1, 1, 1], [1, 0, 1, 0, 1], [1]),
  size: mostly(2, 3),
  lora: mostly<string | undefined>(undefined, 'a', ''),
  salt: mostly<string | undefined>(undefined, 'a', ''),
  path: mostly(0, 1),
  image: mostly(-1, 0, 2),
})

const place = fc.constantFrom<{ readonly group: number; readonly specKind: string | undefined }>(
  { group: 0, specKind: 'full_attention' },
  { group: 0, specKind: 'full_attention' },
  { group: 0, specKind: undefined },
  { group: 1, specKind: 'sliding_window' },
  { group: 2, specKind: 'mla_attention' },
)
const medium = fc.constantFrom('GPU', 'GPU', 'GPU', undefined, 'CPU', 'STORAGE')
const span = fc.record({ from: fc.constantFrom(0, 0, 0, 1, 2, 3, 4), blocks: fc.integer({ min: 0, max: 5 }) })

type Step =
  | { readonly type: 'events'; readonly source: number; readonly events: readonly KvEvent[] }
  | { readonly type: 'clear' | 'reopen'; readonly source: number }
  | { readonly type: 'query'; readonly chain: Chain; readonly tokens: number; readonly model: string }

/** The first ones get most, so that much comes together there. */
const source = fc.constantFrom(0, 0, 0, 0, 1, 1, 2, 3, 4)

const storedEvent = fc
  .tuple(chain, span, place, medium)
  .map(([its, { from, blocks }, { group, specKind }, where]): KvEvent => {
    const start = Math.min(from, its.letters.length - 1)
    const end = Math.min(start + blocks, its.letters.length)
    const hashes = engineHashes(its)
    const extraKeys: (ExtraKeys | undefined)[] = []
    for (let block = start; block < end; block++) extraKeys.push(extraKeysOf(its, block))
    const [hi = 0, lo = 0] = start === 0 ? [] : hashes.subarray(2 * start - 2, 2 * start)
    return stored({
      hashes: hashes.subarray(2 * start, 2 * end),
      parent: start === 0 ? undefined : { hi, lo },
      tokenIds: tokensOf(its).subarray(start * its.size, end * its.size),
      blockSizeTokens: its.size,
      medium: where,
      loraName: its.lora,
      extraKeys: extraKeys.some((keys) => keys !== undefined) ? extraKeys : undefined,
      group,
      specKind,
    })
  })

const storedByHash = fc.tuple(chain, place).map(([its, { group }]): KvEvent => {
  return stored({ hashes: engineHashes(its), blockSizeTokens: 0, medium: 'CPU', group, specKind: undefined })
})

const removedEvent = fc.tuple(chain, span, place, medium).map(([its, { from, blocks }, { group }, where]): KvEvent => {
  const hashes = engineHashes(its)
  return removed(hashes.subarray(2 * from, 2 * (from + Math.min(blocks, 2))), { medium: where, group })
})

const event = fc.oneof(
  { weight: 12, arbitrary: storedEvent },
  { weight: 8, arbitrary: removedEvent },
  { weight: 2, arbitrary: storedByHash },
  { weight: 1, arbitrary: fc.constant<KvEvent>({ type: 'cleared' }) },
)

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 20,
    arbitrary: fc.record({
      type: fc.constant('events' as const),
      source,
      events: fc.array(event, { minLength: 1, maxLength: 6 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constantFrom('clear' as const, 'reopen' as const), source }) },
  {
    weight: 20,
    arbitrary: fc.record({
      type: fc.constant('query' as const),
      chain,
      tokens: fc.constantFrom(16, 16, 16, 10, 7, 4, 1, 0),
      model: fc.constantFrom('m', 'm', 'm', 'n'),
    }),
  },
)

it('finds what a plain index of maps finds, whatever is stored, removed, cleared and asked in whatever order', () => {
  let found = 0
  let mixed = 0
  let waited = 0
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 80, size: 'max' }), (steps) => {
      const index = createKvIndex()
      const open: { source: KvSource; naive: NaiveSource; name: number }[] = []
      const openOne = (name: number) => {
        const stream = { endpoint: `pod-${name}:8000` as EndpointId, rank: 0, model: modelOf(name) }
        return { source: index.open(stream), naive: new NaiveSource(modelOf(name)), name }
      }
      for (let name = 0; name < SOURCES; name++) open.push(openOne(name))
      for (const next of steps) {
        if (next.type === 'query') {
          const query = {
            tokenIds: tokensOf(next.chain).subarray(0, next.tokens),
            model: next.model,
            lora: next.chain.lora,
            cacheSalt: next.chain.salt,
          }
          const expected = open
            .filter(({ name }) => modelOf(name) === next.model)
            .map(({ naive, name }) => ({
              endpoint: `pod-${name}:8000`,
              rank: 0,
              ...naive.match(query),
              complete: false,
            }))
          const matches = index.match(query)
          expect(byEndpoint(matches)).toEqual(byEndpoint(expected))
          if (matches.some(({ matchedTokens }) => matchedTokens > 0)) found++
          if (matches.some(({ matchedTokens, gpuTokens }) => gpuTokens > 0 && gpuTokens < matchedTokens)) mixed++
          continue
        }
        const one = open[next.source]
        if (!one) throw new Error('no such source')
        if (next.type === 'events') {
          one.source.apply(batchOf(...next.events))
          one.naive.apply(batchOf(...next.events))
        } else if (next.type === 'clear') {
          one.source.clear()
          one.naive.clear()
        } else {
          one.source.close()
          open[next.source] = openOne(next.source)
        }
      }
      const stats = index.stats()
      waited += stats.orphans.events
      expect(stats.blocks).toBe(open.reduce((sum, { naive }) => sum + naive.blocks, 0))
      expect(stats.promptBlocks).toBe(new Set(open.flatMap(({ naive }) => naive.contents())).size)
      for (const { source } of open) source.close()
      expect(index.stats()).toMatchObject({ sources: 0, blocks: 0, promptBlocks: 0, blocksToSweep: 0 })
    }),
    { numRuns: 1000 },
  )
  // The sequences are not all about nothing.
  expect(found).toBeGreaterThan(2000)
  expect(mixed).toBeGreaterThan(50)
  expect(waited).toBeGreaterThan(500)
})

function byEndpoint<T extends { readonly endpoint: string }>(matches: readonly T[]): T[] {
  return [...matches].sort((a, b) => a.endpoint.localeCompare(b.endpoint))
}

function tokensOf({ letters, size }: Chain): Uint32Array {
  return Uint32Array.from(letters.flatMap((letter) => new Array<number>(size).fill(letter)))
}

function extraKeysOf({ salt, image }: Chain, block: number): ExtraKeys | undefined {
  const others = block === image ? 'image' : ''
  if (block === 0 && salt !== undefined) return { salt, others }
  return others === '' ? undefined : { salt: undefined, others }
}

const numbers = new Map<string, number>()

/** A number for each content, as a perfect hash would give. */
function engineHashes(its: Chain): Uint32Array {
  const hashes = new Uint32Array(2 * its.letters.length)
  for (let block = 0; block < its.letters.length; block++) {
    const image = its.image >= 0 && its.image <= block ? its.image : -1
    const content = [its.letters.slice(0, block + 1), its.size, its.lora ?? null, its.salt ?? null, its.path, image]
    const text = JSON.stringify(content)
    const number = numbers.get(text) ?? numbers.size
    numbers.set(text, number)
    hashes[2 * block] = number % 3
    hashes[2 * block + 1] = number
  }
  return hashes
}
