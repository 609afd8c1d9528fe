// An index as bytes, and back: the same answers; and whatever comes instead of a snapshot is refused, not half believed.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createKvIndex } from '../../../cluster/kv/kv-index.ts'
import {
  beginSnapshot,
  decodeSnapshot,
  encodeSource,
  endSnapshot,
  restoreInto,
  SnapshotFault,
  type SourceSnapshot,
} from '../../../cluster/kv/snapshot.ts'
import { batchOf, hashesOf, POD, promptOf, removed, storedPrompt } from './kv-events.ts'

function filled() {
  const index = createKvIndex()
  const source = index.open({ endpoint: POD, rank: 1, model: 'm' })
  source.apply(batchOf(storedPrompt(1, 0, 9), storedPrompt(1, 8, 9), storedPrompt(1, 0, 4, { medium: 'CPU' })))
  source.apply(batchOf(storedPrompt(2, 0, 5, { blockSizeTokens: 8 }), storedPrompt(3, 0, 2, { loraName: 'a' })))
  source.apply(batchOf(removed(hashesOf(1, 7, 8))))
  return { index, source }
}

function snapshotOf(source: ReturnType<typeof filled>['source']): SourceSnapshot {
  const position = { seq: 41, payload: Buffer.from('last'), complete: true }
  return { endpoint: POD, rank: 1, model: 'm', dials: false, position, content: source.dump() }
}

async function* inPieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

async function read(bytes: Buffer, size = 1_000): Promise<SourceSnapshot[]> {
  const sources: SourceSnapshot[] = []
  for await (const source of decodeSnapshot(inPieces(bytes, size))) sources.push(source)
  return sources
}

const whole = () => {
  const { source } = filled()
  return Buffer.concat([beginSnapshot(), ...encodeSource(snapshotOf(source)), endSnapshot()])
}

describe('a snapshot', () => {
  it('gives the index that it was made of, however it is cut on its way', async () => {
    const { index } = filled()
    for (const size of [1, 7, 100_000]) {
      const [snapshot, ...more] = await read(whole(), size)
      if (snapshot === undefined) throw new Error('nothing was read')
      expect(more).toEqual([])
      expect(snapshot.position).toEqual({ seq: 41, payload: new Uint8Array(Buffer.from('last')), complete: true })
      const other = createKvIndex()
      const source = other.open({ endpoint: POD, rank: 1, model: 'm' })
      await restoreInto(source, snapshot.content, () => false)
      for (const [tokenIds, lora] of [
        [promptOf(1, 9), undefined],
        [promptOf(2, 5, 8), undefined],
        [promptOf(3, 2), 'a'],
      ] as const) {
        const query = { tokenIds, model: 'm', lora, cacheSalt: undefined }
        expect(other.match(query)).toEqual(index.match(query))
      }
      // Stored twice, it outlives one removal.
      source.apply(batchOf(removed(hashesOf(1, 8, 9))))
      expect(source.find(hashesOf(1, 8, 9)[0] as number, hashesOf(1, 8, 9)[1] as number, 0)).toBeDefined()
      expect(other.stats().blocks).toBe(index.stats().blocks)
    }
  })

  it('that is cut or changed is refused, and nothing of the source that it was in is given', async () => {
    const bytes = whole()
    await fc.assert(
      fc.asyncProperty(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), async (at, change) => {
        const changed = Buffer.from(bytes)
        changed[at] = (changed[at] as number) ^ change
        const got = await read(changed).catch((error: unknown) => {
          expect(error).toBeInstanceOf(SnapshotFault)
          return []
        })
        // What it does not notice it must not have changed: the end alone has no checksum.
        if (at < bytes.length - 12) expect(got).toEqual([])
        const cut = await read(bytes.subarray(0, at)).catch((error: unknown) => {
          expect(error).toBeInstanceOf(SnapshotFault)
          return []
        })
        if (at < bytes.length - 12) expect(cut).toEqual([])
      }),
      { numRuns: 200 },
    )
  })

  it('of random bytes is refused, however long it says it is', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (random) => {
        await expect(read(Buffer.from(random))).rejects.toBeInstanceOf(SnapshotFault)
        await expect(read(Buffer.concat([beginSnapshot(), random, Buffer.alloc(1, 255)]))).rejects.toBeInstanceOf(
          SnapshotFault,
        )
      }),
    )
  })
})
