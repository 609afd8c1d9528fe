// What a prefix cache holds, what a repeated prompt finds in it, and what is published of that.
import { complete } from './asking.ts'
import type { ObservationRow } from './observed-pod.ts'
import { range } from './token-ids.ts'

const END_OF_REPLAY = 'ffffffffffffffff'

export const CACHE_ROWS: readonly ObservationRow[] = [
  {
    name: 'a prompt again, longer, aligned to blocks, and parting from itself: cached tokens and events',
    kind: 'plain',
    look: async (pod) => {
      const long = range(10_000, 128)
      const steps = []
      for (const prompt of [
        range(10_000, 100),
        range(10_000, 100),
        long,
        long,
        [...long, ...range(20_000, 50)],
        [...range(10_000, 48), ...range(30_000, 40)],
        range(10_000, 32),
        range(10_000, 31),
      ]) {
        steps.push({ usage: await complete(pod, prompt), events: await pod.events() })
      }
      return steps
    },
  },
  {
    name: 'salts part what is shared, and stand in the events',
    kind: 'plain',
    look: async (pod) => {
      const steps = []
      for (const salt of [undefined, 'tenant-a', 'tenant-b', 'tenant-a']) {
        const usage = await complete(pod, range(40_000, 70), salt === undefined ? {} : { cache_salt: salt })
        steps.push({ usage, events: await pod.events() })
      }
      return steps
    },
  },
  {
    name: 'blocks that are found are told again where that is asked for',
    kind: 'plain',
    look: async (pod) => {
      const full = { vllm_xargs: { kv_cache_report_mode: 'full' } }
      return [
        await complete(pod, range(42_000, 70), full),
        await complete(pod, range(42_000, 110), full),
        await pod.events(),
      ]
    },
  },
  {
    name: 'a prompt longer than a step: its blocks are told as they are computed',
    kind: 'plain',
    look: async (pod) => [await complete(pod, range(50_000, 5_000)), await pod.events()],
  },
  {
    name: 'an answer fills blocks: each is told when it is full, behind the one before',
    kind: 'plain',
    look: async (pod) => {
      await complete(pod, range(60_000, 50), { max_tokens: 80, ignore_eos: true })
      // Their tokens and hashes are what the model says; of each only where it hangs is told.
      const hashes: unknown[] = []
      return (await pod.events()).map((event) => {
        const parent = hashes.indexOf(event.parent_block_hash)
        hashes.push(...(event.block_hashes as readonly unknown[]))
        return { blocks: (event.block_hashes as readonly unknown[]).length, behind: parent, members: event.members }
      })
    },
  },
  {
    name: 'two answers to one prompt',
    kind: 'plain',
    look: async (pod) => {
      const usage = [
        await complete(pod, range(65_000, 70), { n: 2, temperature: 1 }),
        await complete(pod, range(65_000, 70), { n: 2, temperature: 1 }),
      ]
      // Which of the two is a step ahead is chance; the blocks are the same.
      const blocks = (await pod.events()).flatMap(({ block_hashes: hashes }) => hashes as readonly string[])
      return { usage, blocks: [...new Set(blocks)] }
    },
  },
  {
    name: 'several prompts in one request',
    kind: 'plain',
    look: async (pod) => {
      const prompt = [range(67_000, 40), range(68_000, 70)]
      const body = { prompt, max_tokens: 1, temperature: 0 }
      const usages = []
      for (let round = 0; round < 2; round++) {
        const { json } = await pod.ask('POST', '/v1/completions', body)
        usages.push((json as { usage: unknown }).usage)
      }
      const blocks = (await pod.events()).flatMap(({ block_hashes: hashes }) => hashes as readonly string[])
      return { usages, blocks: blocks.sort() }
    },
  },
  {
    name: 'the cache emptied while idle: told in the batch of the next request, before its blocks',
    kind: 'plain',
    look: async (pod) => [
      await complete(pod, range(70_000, 70)),
      await pod.events(),
      (await pod.ask('POST', '/reset_prefix_cache')).json,
      await complete(pod, range(70_000, 70)),
      await pod.events(),
    ],
  },
  {
    name: 'batches sent again: from a number on, and from beyond the last one',
    kind: 'plain',
    look: async (pod) => {
      await pod.events()
      const last = pod.lastSeq()
      const spell = (replies: readonly (readonly Buffer[])[]) =>
        replies.map((frames) => [
          frames.length,
          frames[0]?.length,
          frames[1]?.toString() === pod.topic() ? 'topic' : frames[1]?.toString(),
          frames[2]?.toString('hex') === END_OF_REPLAY ? 'end' : Number((frames[2]?.readBigUInt64BE() ?? 0n) - last),
        ])
      return [spell(await pod.replay(last - 2n)), spell(await pod.replay(last + 5n))]
    },
  },
  {
    name: 'where events come from',
    kind: 'plain',
    look: async (pod) => {
      const { json } = await pod.ask('GET', '/kv_event_sources')
      return JSON.stringify(json)
        .replaceAll(/\*:\d+/g, '*:port')
        .replace(new URL(pod.url).host, 'host:port')
    },
  },
]
