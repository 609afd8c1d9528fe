import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { decodeEvents } from '../../../cluster/kv/decode-events.ts'
import type { BlocksRemoved, BlocksStored, KvBatch, KvEvent } from '../../../cluster/kv/kv-event.ts'
import { heldBytes } from '../../held-bytes.ts'
import { parseJson } from '../../parse-json.ts'
import { type CapturedEvent, readCaptures, wordsOf } from './captures.ts'
import { type Encodable, encode, Raw } from './encode-msgpack.ts'

const captures = readCaptures()
const ROOT = 0x0123_4567_89ab_cdefn

function decode(payload: Uint8Array): KvBatch {
  const decoded = decodeEvents(payload)
  if (!decoded.ok) throw new Error(decoded.message)
  return decoded.batch
}
/** An array of so many values, as hex. */
const many = (count: number, hex: string, values = 1) =>
  `dd${(values * count).toString(16).padStart(8, '0')}${hex.repeat(count)}`
const REMOVED_1 = '93ac426c6f636b52656d6f7665649101'
const STORED_WITHOUT_HASHES = 'a474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657390'
const events = (...written: Encodable[]) => decode(encode([1.5, written, 0])).events
const stored = (members: { readonly [key: string]: Encodable }): BlocksStored => {
  const [event] = events({ type: 'BlockStored', block_hashes: [1], parent_block_hash: null, ...members })
  if (event?.type !== 'stored') throw new Error('nothing stored')
  return event
}

/** What the decoder should make of an event, from what vLLM's own decoder made of it. */
function expected(event: CapturedEvent): KvEvent {
  if (event.type === 'AllBlocksCleared') return { type: 'cleared' }
  const hashes = Uint32Array.from(event.block_hashes.flatMap(wordsOf))
  const medium = event.medium ?? undefined
  const group = event.group_idx ?? 0
  if (event.type === 'BlockRemoved') return { type: 'removed', hashes, medium, group } satisfies BlocksRemoved
  const [hi, lo] = event.parent_block_hash === null ? [] : wordsOf(event.parent_block_hash)
  return {
    type: 'stored',
    hashes,
    parent: hi === undefined || lo === undefined ? undefined : { hi, lo },
    tokenIds: Uint32Array.from(event.token_ids),
    blockSizeTokens: event.block_size,
    medium,
    loraName: event.lora_name ?? undefined,
    // The captures hold no other keys than salts.
    extraKeys: event.extra_keys?.map((keys) => (keys ? { salt: keys[0], others: '' } : undefined)),
    group,
    specKind: event.kv_cache_spec_kind,
  } satisfies BlocksStored
}

/** Removals that follow one another, of one medium and group, are one event here. */
function joined(events: readonly KvEvent[]): KvEvent[] {
  const all: KvEvent[] = []
  for (const event of events) {
    const last = all.at(-1)
    if (event.type === 'removed' && last?.type === 'removed' && sameKind(event, last)) {
      all[all.length - 1] = { ...last, hashes: Uint32Array.of(...last.hashes, ...event.hashes) }
    } else all.push(event)
  }
  return all
}

function sameKind(a: BlocksRemoved, b: BlocksRemoved): boolean {
  return a.medium === b.medium && a.group === b.group
}

describe('every batch that a real vLLM published', () => {
  it.each([...new Set(captures.map(({ file }) => file))])('is read as vLLM reads it: %s', (name) => {
    for (const { file, payload, decoded } of captures) {
      if (file !== name) continue
      const [atSeconds, written, rank] = decoded
      expect(decode(payload)).toEqual({ atSeconds, rank, unknownEvents: 0, events: joined(written.map(expected)) })
    }
  })
  it('is read from a replay too', () => {
    const file = new URL('../../fixtures/vllm/kv-events-replay.json', import.meta.url)
    const replays = parseJson(readFileSync(file, 'utf8')) as Record<string, { reply_frames_hex: string[][] }>
    const payloads = Object.values(replays).flatMap((replay) =>
      replay.reply_frames_hex.map((frames) => frames[3] ?? ''),
    )
    const read = payloads.filter((payload) => payload !== '').map((payload) => decode(Buffer.from(payload, 'hex')))
    expect(read).toHaveLength(29)
    expect(read.every(({ unknownEvents }) => unknownEvents === 0)).toBe(true)
  })
})

describe('other layouts', () => {
  const WHOLE = {
    atSeconds: 1.5,
    rank: 0,
    unknownEvents: 0,
    events: [
      {
        type: 'stored',
        hashes: Uint32Array.of(0xdab6f0c2, 0xa1b2c3d4),
        parent: undefined,
        tokenIds: Uint32Array.of(1, 200, 70_000),
        blockSizeTokens: 3,
        medium: 'GPU',
        loraName: undefined,
        extraKeys: [undefined],
        group: 0,
        specKind: 'full_attention',
      },
    ],
  }
  const FIELDS = {
    block_hashes: [0xdab6f0c2a1b2c3d4n],
    parent_block_hash: null,
    token_ids: [1, 200, 70_000],
    block_size: 3,
    lora_id: null,
    medium: 'GPU',
    lora_name: null,
    extra_keys: [null],
    group_idx: 0,
    kv_cache_spec_kind: 'full_attention',
  }
  it('events as arrays by position, as vLLM wrote them up to 0.23', () => {
    expect(decode(encode([1.5, [['BlockStored', ...Object.values(FIELDS)]], null]))).toEqual(WHOLE)
  })
  it('arrays that end early, as older schemas do', () => {
    const [first, second, third] = events(
      ['BlockStored', [7], 8, [1, 2], 2],
      ['BlockRemoved', [7], 'CPU'],
      ['AllBlocksCleared'],
    )
    expect(first).toMatchObject({ parent: { hi: 0, lo: 8 }, medium: undefined, extraKeys: undefined, group: 0 })
    expect(second).toEqual({ type: 'removed', hashes: Uint32Array.of(0, 7), medium: 'CPU', group: 0 })
    expect(third).toEqual({ type: 'cleared' })
  })
  it('arrays longer than is known', () => {
    expect(events([...['BlockRemoved', [7], 'GPU', 1], { new: [1] }, 'more'])).toMatchObject([{ group: 1 }])
  })
  it('a batch as a map', () => {
    const batch = encode({ ts: 1.5, new: [], events: [{ type: 'BlockStored', ...FIELDS }], data_parallel_rank: 0 })
    expect(decode(batch)).toEqual(WHOLE)
  })
  it('a batch without a rank, with one, and with more than is known', () => {
    expect(decode(encode([1.5, []])).rank).toBe(0)
    expect(decode(encode([2, [], 3, 'more']))).toEqual({ atSeconds: 2, rank: 3, events: [], unknownEvents: 0 })
  })
  it('maps in any order of keys, with keys that are not known', () => {
    const members = Object.entries({ type: 'BlockStored', ...FIELDS, new: { a: [1] }, locality: 'LOCAL' })
    fc.assert(
      fc.property(fc.shuffledSubarray(members, { minLength: members.length }), (shuffled) => {
        expect(decode(encode([1.5, [Object.fromEntries(shuffled)], 0]))).toEqual(WHOLE)
      }),
    )
  })
  it('maps with the wide header that msgspec writes for a type of 15 fields', () => {
    const narrow = encode({ type: 'BlockStored', ...FIELDS })
    expect(narrow[0]).toBe(0x8b)
    const wide = new Raw(`de000b${narrow.subarray(1).toString('hex')}`)
    expect(decode(encode([1.5, [wide], 0]))).toEqual(WHOLE)
  })
  it('hashes as digests', () => {
    const digest = Buffer.concat([Buffer.alloc(24, 9), Buffer.from('dab6f0c2a1b2c3d4', 'hex')])
    expect(stored({ ...FIELDS, block_hashes: [digest], parent_block_hash: digest })).toMatchObject({
      hashes: Uint32Array.of(0xdab6f0c2, 0xa1b2c3d4),
      parent: { hi: 0xdab6f0c2, lo: 0xa1b2c3d4 },
    })
  })
  it('a parent of 0, which llm-d\u2019s simulator writes for a root', () => {
    expect(stored({ parent_block_hash: 0 }).parent).toBeUndefined()
  })
  it('events of kinds that are not known are counted, and the others are kept', () => {
    const batch = decode(
      encode([1.5, [{ type: 'BlockInactive', block_hashes: 'other' }, ['New', [1]], {}, [], ['AllBlocksCleared']], 0]),
    )
    expect(batch).toMatchObject({ unknownEvents: 4, events: [{ type: 'cleared' }] })
  })
  it('stored blocks without hashes, and the CPU offload event without tokens', () => {
    expect(stored({ block_hashes: [], token_ids: [1, 2] })).toMatchObject({ hashes: new Uint32Array(0) })
    expect(stored({ token_ids: [], block_size: 0, medium: 'CPU' })).toMatchObject({
      tokenIds: new Uint32Array(0),
      blockSizeTokens: 0,
      medium: 'CPU',
    })
    expect(stored({})).toMatchObject({ tokenIds: new Uint32Array(0), blockSizeTokens: 0, specKind: undefined })
  })
  it('pairs instead of tokens, which SGLang writes, are no tokens', () => {
    const pairs: Encodable = [
      [1, 2],
      [2, 3],
    ]
    expect(stored({ token_ids: pairs, block_size: 2, medium: 'GPU' })).toMatchObject({
      tokenIds: new Uint32Array(0),
      blockSizeTokens: 2,
      medium: 'GPU',
    })
  })
})

describe('removals, of which vLLM sends one for each block', () => {
  const of = (hash: number, members: { readonly [key: string]: Encodable } = {}): Encodable => ({
    type: 'BlockRemoved',
    block_hashes: [hash],
    medium: 'GPU',
    ...members,
  })
  const removed = (...hashes: number[]) => ({
    type: 'removed',
    hashes: Uint32Array.from(hashes.flatMap((hash) => [0, hash])),
    medium: 'GPU',
    group: 0,
  })
  it('are one event as long as they are of one medium and group and nothing stands between them', () => {
    const written = [of(1), of(2), of(3, { medium: 'CPU' }), of(4), of(5, { group_idx: 1 }), of(6, { group_idx: 1 })]
    expect(
      events(...written, of(7), ['AllBlocksCleared'], of(8), { type: 'New' }, of(9), ['BlockRemoved', [10], 'GPU']),
    ).toEqual([
      removed(1, 2),
      { ...removed(3), medium: 'CPU' },
      removed(4),
      { ...removed(5, 6), group: 1 },
      removed(7),
      { type: 'cleared' },
      removed(8),
      removed(9, 10),
    ])
  })
  it('many in a row keep their order', () => {
    const hashes = Array.from({ length: 1_000 }, (_, index) => index + 1)
    expect(events(...hashes.map((hash) => of(hash)))).toEqual([removed(...hashes)])
  })
  it('come out the same in whatever order they and others stand, and however each is written', () => {
    const kinds: readonly ((hashes: number[]) => Encodable)[] = [
      (hashes) => ({ type: 'BlockRemoved', block_hashes: hashes, medium: 'GPU' }),
      (hashes) => ({ type: 'BlockRemoved', block_hashes: hashes, medium: 'CPU' }),
      (hashes) => ({ type: 'BlockRemoved', block_hashes: hashes, medium: 'GPU', group_idx: 1 }),
      (hashes) => ({ block_hashes: hashes, medium: 'GPU', type: 'BlockRemoved' }),
      (hashes) => ['BlockRemoved', hashes, 'GPU'],
      (hashes) => ['BlockRemoved', hashes],
      (hashes) => ({ type: 'BlockRemoved', medium: 'GPU', block_hashes: hashes, later: 1 }),
      (hashes) => ({ block_hashes: hashes, medium: 'GPU', type: 'New' }),
      () => ({ block_hashes: 'none', medium: 'GPU', type: 'New' }),
      (hashes) => ({ type: 'BlockStored', block_hashes: hashes, parent_block_hash: null }),
      () => ['AllBlocksCleared'],
    ]
    const hashes = fc.array(fc.oneof(fc.nat(200), fc.nat()), { maxLength: 20 })
    const event = fc.tuple(fc.constantFrom(...kinds), hashes).map(([write, given]) => write(given))
    fc.assert(
      fc.property(fc.array(fc.tuple(event, fc.nat(4)), { maxLength: 8 }), (given) => {
        const written = given.flatMap(([one, more]) => Array<Encodable>(1 + more).fill(one))
        // An unknown event ends a run, as any other does.
        const alone = written.map((one) => events(one)[0] ?? 'unknown')
        expect(events(...written)).toEqual(joined(alone as KvEvent[]).filter((one) => (one as unknown) !== 'unknown'))
      }),
      { numRuns: 500 },
    )
  })
  it('read the same whether the medium stands before the hashes or after them', () => {
    expect(events({ medium: 'CPU', block_hashes: [1], type: 'BlockRemoved' }, of(2, { medium: 'CPU' }))).toEqual([
      { ...removed(1, 2), medium: 'CPU' },
    ])
  })
})

describe('extra keys', () => {
  const keysOf = (extraKeys: Encodable, members: { readonly [key: string]: Encodable } = {}) =>
    stored({ extra_keys: extraKeys, ...members }).extraKeys
  const digest = Buffer.from('00ff', 'hex')

  it.each<[string, Encodable, unknown]>([
    ['nothing', [null, null], [undefined, undefined]],
    ['an empty list', [[]], [undefined]],
    [
      'the salt, in the first block only',
      [['a'], ['a']],
      [
        { salt: 'a', others: '' },
        { salt: undefined, others: '"a"' },
      ],
    ],
    ['the salt after an image', [[['img', 0], 'a']], [{ salt: 'a', others: '["img",0]' }]],
    ['the salt after an image of old', [['img', 'a']], [{ salt: 'a', others: '"img"' }]],
    ['embeddings', [['a', digest]], [{ salt: 'a', others: 'x00ff' }]],
    ['an entry that is no list', [7], [{ salt: undefined, others: '7' }]],
    ['typed salt', [[{ type: 'cache_salt', salt: 'a' }]], [{ salt: 'a', others: '' }]],
    ['typed adapter', [[{ type: 'lora', name: 'x' }]], [undefined]],
    [
      'typed image and embeddings, in any order of keys',
      [
        [
          { hash: 'h', type: 'mm', modality: 'image', block_offset: 3 },
          { type: 'prompt_embeds', hash: digest },
        ],
      ],
      [
        {
          salt: undefined,
          others: '{"block_offset":3,"hash":"h","modality":"image","type":"mm"},{"hash":x00ff,"type":"prompt_embeds"}',
        },
      ],
    ],
    ['typed legacy', [[{ type: 'legacy', value: 'a' }]], [{ salt: 'a', others: '' }]],
    ['a type that is not known', [[{ type: 'new' }]], [{ salt: undefined, others: '{"type":"new"}' }]],
    ['a salt type without salt', [[{ type: 'cache_salt' }]], [{ salt: undefined, others: '{"type":"cache_salt"}' }]],
    ['null', null, undefined],
  ])('%s', (_, written, read) => {
    expect(keysOf(written)).toEqual(read)
  })
  it('drop the adapter once, wherever its name and the parent stand in the map', () => {
    const [event] = events({
      extra_keys: [['adapter', 'adapter']],
      type: 'BlockStored',
      block_hashes: [1],
      lora_name: 'adapter',
    })
    expect(event).toMatchObject({ loraName: 'adapter', extraKeys: [{ salt: 'adapter', others: '' }] })
    expect(keysOf([['adapter']], { lora_name: 'adapter' })).toEqual([undefined])
  })
  it('hold no salt in the first block of a chain that goes on', () => {
    expect(keysOf([['img']], { parent_block_hash: ROOT })).toEqual([{ salt: undefined, others: '"img"' }])
  })
})

describe('a payload that is not what it should be', () => {
  it.each<[string, Encodable | undefined, RegExp]>([
    ['nothing', undefined, /at byte 0 of 0/],
    ['a number', 7, /no array/],
    ['no events', [1.5], /no time or no events/],
    ['a time that is none', ['now', []], /no integer/],
    ['events that are none', [1.5, 7], /no array/],
    ['an event that is none', [1.5, [7]], /no array/],
    ['a stored event without hashes', [1.5, [{ type: 'BlockStored' }]], /without block_hashes/],
    ['a removed event without hashes', [1.5, [['BlockRemoved']]], /without block_hashes/],
    ['hashes that are texts', [1.5, [{ type: 'BlockRemoved', block_hashes: ['a'] }]], /no integer/],
    ['a negative group', [1.5, [['BlockRemoved', [1], 'GPU', -1]]], /group_idx is no count/],
    ['a rank that is none', [1.5, [], 1.5], /data_parallel_rank is no count/],
    ['a map with half an entry', new Raw('82 a27473 01 a66576656e7473'), /the end where a value should be/],
    ['4 billion events in ten bytes', new Raw('92 01 dd ffffffff c0c0c0'), /more values than bytes/],
    ['bytes after the batch', new Raw('92 01 90 00'), /1 bytes after the batch/],
  ])('is refused: %s', (_, value, because) => {
    const decoded = decodeEvents(value === undefined ? new Uint8Array(0) : encode(value))
    expect(decoded.ok ? 'read' : decoded.message).toMatch(because)
  })
  it('never throws, whatever the bytes are', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(typeof decodeEvents(bytes).ok).toBe('boolean')
      }),
      { numRuns: 5_000 },
    )
  })
  it('never throws when a real batch was damaged, cut or glued', () => {
    const damage = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 8 })
    fc.assert(
      fc.property(fc.constantFrom(...captures), damage, fc.nat(), fc.boolean(), ({ payload }, bytes, at, cut) => {
        const damaged = Buffer.from(payload)
        // Mostly in the first bytes: those further on are tokens, where damage changes little.
        for (const [where, byte] of bytes) damaged[where % (where % 3 === 0 ? damaged.length : 120)] = byte
        const decoded = decodeEvents(cut ? damaged.subarray(0, at % damaged.length) : damaged)
        if (!decoded.ok) return
        for (const event of decoded.batch.events) {
          if (event.type !== 'cleared') expect(event.hashes.length).toBeLessThanOrEqual(2 * payload.length)
        }
      }),
      { numRuns: 5_000 },
    )
  })
  it.each([
    ['removals', 'the shortest event', `9201${many(100_000, '93ac426c6f636b52656d6f76656490c0')}`],
    ['removals', 'of two media in turns', `9201${many(50_000, `${REMOVED_1}a0${REMOVED_1}a161`, 2)}`],
    ['unknown events', 'empty arrays', `9201${many(100_000, '90')}`],
    ['hashes', 'fixints', `92019192ab426c6f636b53746f726564${many(100_000, '00')}`],
    ['tokens', 'fixints', `92019194ab426c6f636b53746f72656490c0${many(1_000_000, '00')}`],
    ['extra keys', 'empty texts', `92019183${STORED_WITHOUT_HASHES}aa65787472615f6b657973${many(500_000, '91a0')}`],
    ['values in an unknown field', 'nested', `92019183${STORED_WITHOUT_HASHES}a178${'91'.repeat(1_000_000)}c0`],
  ])('holds a small multiple of its length: many %s as %s', (_, __, hex) => {
    const payload = Buffer.from(hex, 'hex')
    const { value, bytes } = heldBytes(() => decodeEvents(payload))
    expect(value).toMatchObject({ ok: true })
    expect(bytes).toBeLessThan(50 * payload.length)
  })
  it.each([
    ['events', `9201${many(8_000_000, '90')}`, /8000000 events in a batch/],
    [
      'blocks of one token',
      `92019194ab426c6f636b53746f726564${many(8_000_000, '00')}c0${many(8_000_000, '00')}`,
      /blocks|hashes/,
    ],
    [
      'blocks over many events',
      `9201${many(200, `92ab426c6f636b53746f726564${many(1_000, '00')}`)}`,
      /1000 hashes where 72 may be/,
    ],
    [
      'removed blocks',
      `9201${many(200, `92ac426c6f636b52656d6f766564${many(1_000, '00')}`)}`,
      /1000 hashes where 72 may be/,
    ],
    [
      'extra keys',
      `92019183${STORED_WITHOUT_HASHES}aa65787472615f6b657973${many(4_000_000, '91a0')}`,
      /bytes of extra keys/,
    ],
    [
      'extra keys over many events',
      `9201${many(100, `83${STORED_WITHOUT_HASHES}aa65787472615f6b657973${many(10_000, '91a0')}`)}`,
      /bytes of extra keys/,
    ],
    ['letters in a name', `92019193ac426c6f636b52656d6f76656490db00f00000${'61'.repeat(0xf00000)}`, /a name of/],
    [
      'maps in extra keys',
      `92019183${STORED_WITHOUT_HASHES}aa65787472615f6b6579739191${'81c0'.repeat(40)}c0`,
      /too deeply/,
    ],
  ])('that would hold the event loop is refused before it is read: too many %s', (_, hex, because) => {
    const payload = Buffer.from(hex, 'hex')
    const { value, bytes } = heldBytes(() => decodeEvents(payload))
    expect(value.ok ? 'read' : value.message).toMatch(because)
    expect(bytes).toBeLessThan(1024 * 1024)
  })
})
