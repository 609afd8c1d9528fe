// LoRA adapters: served by name, loaded and unloaded while the pod runs, never sharing a cached block with one another.
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Engine } from '../../../cluster/simulator/engine.ts'
import { encodeBatch } from '../../../cluster/simulator/kv-events.ts'
import type { Lora } from '../../../cluster/simulator/sequence.ts'
import { readMsgpack } from '../../real/msgpack.ts'
import { post, startPod, until } from './pod.ts'
import { drain, RECORDED_BATCHES, RECORDED_CONFIG, range, request } from './sequences.ts'

const WITH_LORA = { models: ['base'], maxLoras: 2, loraModules: [{ name: 'sql', path: 'hub/sql' }], blockSize: 4 }
const lora = (id: number): Lora => ({ id, name: `a${id}`, path: `hub/a${id}` })

async function cachedBy(pod: { readonly url: string }, model: string): Promise<number> {
  const answer = await post(pod, '/v1/completions', { model, prompt: range(1, 20), max_tokens: 1 })
  expect(answer.status).toBe(200)
  const { usage } = (await answer.json()) as { usage: { prompt_tokens_details: { cached_tokens: number } } }
  return usage.prompt_tokens_details.cached_tokens
}

describe('adapters of a pod', () => {
  it('are models of their own in the list, with the base as their parent', async () => {
    const pod = await startPod(WITH_LORA)
    const { data } = (await (await fetch(`${pod.url}/v1/models`)).json()) as { data: Record<string, unknown>[] }
    expect(data.map(({ id, root, parent, max_model_len }) => ({ id, root, parent, max_model_len }))).toEqual([
      { id: 'base', root: 'base', parent: null, max_model_len: 32_768 },
      { id: 'sql', root: 'hub/sql', parent: 'base', max_model_len: null },
    ])
  })

  it('share no cached block with the base model or with each other: their keys and values differ', async () => {
    const pod = await startPod(WITH_LORA)
    await post(pod, '/v1/load_lora_adapter', { lora_name: 'chat', lora_path: 'hub/chat' })
    const cold = [await cachedBy(pod, 'base'), await cachedBy(pod, 'sql'), await cachedBy(pod, 'chat')]
    const warm = [await cachedBy(pod, 'base'), await cachedBy(pod, 'sql'), await cachedBy(pod, 'chat')]
    expect(cold).toEqual([0, 0, 0])
    expect(warm).toEqual([16, 16, 16])
  })

  it('come and go by name, and each mistake has vLLM’s words', async () => {
    const pod = await startPod(WITH_LORA)
    const change = async (verb: string, body: object) => {
      const answer = await post(pod, `/v1/${verb}_lora_adapter`, body)
      const text = await answer.text()
      return [answer.status, text.startsWith('{') ? JSON.parse(text).error.message : text]
    }
    const empty = mkdtempSync(join(tmpdir(), 'adapter-'))
    expect(await change('load', { lora_name: 'new', lora_path: 'hub/new' })).toEqual([
      200,
      "Success: LoRA adapter 'new' added successfully.",
    ])
    expect(await change('load', { lora_name: 'new', lora_path: 'hub/new' })).toEqual([
      400,
      "The lora adapter 'new' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to True.",
    ])
    expect(await change('load', { lora_name: 'new', lora_path: 'hub/other', load_inplace: true })).toEqual([
      200,
      "Success: LoRA adapter 'new' added successfully.",
    ])
    expect(await change('load', { lora_name: 'lost', lora_path: empty })).toEqual([
      404,
      'Loading lora lost failed: No adapter found for <path>',
    ])
    writeFileSync(join(empty, 'adapter_config.json'), '{}')
    expect((await change('load', { lora_name: 'found', lora_path: empty }))[0]).toBe(200)
    expect((await change('load', { lora_name: 'base', lora_path: 'x' }))[1]).toContain('conflicts with a served base')
    expect((await change('load', { lora_name: '', lora_path: 'x' }))[1]).toContain('must be provided')
    expect((await change('load', { lora_name: 'x' }))[1]).toContain('1 validation error')
    expect(await change('unload', { lora_name: 'new' })).toEqual([
      200,
      "Success: LoRA adapter 'new' removed successfully.",
    ])
    expect(await change('unload', { lora_name: 'new' })).toEqual([404, "The lora adapter 'new' cannot be found."])
    expect((await post(pod, '/v1/completions', { model: 'new', prompt: 'x' })).status).toBe(404)
  })

  it('are told in the metrics as the one label set that routers read', async () => {
    const pod = await startPod({ ...WITH_LORA, speed: 1, maxNumSeqs: 1 })
    const client = new AbortController()
    const ask = { model: 'sql', prompt: range(1, 20), max_tokens: 5_000, ignore_eos: true, stream: true }
    await post(pod, '/v1/completions', ask, { signal: client.signal })
    const { steps } = pod.stats()
    await until(() => pod.stats().steps > steps + 1)
    const page = await (await fetch(`${pod.url}/metrics`)).text()
    expect(page).toMatch(
      /^vllm:lora_requests_info\{max_lora="2",running_lora_adapters="sql",waiting_lora_adapters="sql"\} 1\.\d+e\+09$/m,
    )
    client.abort()
  })

  it('have no routes at a pod without slots for them', async () => {
    const pod = await startPod({ models: ['base'] })
    expect((await post(pod, '/v1/load_lora_adapter', { lora_name: 'a', lora_path: 'hub/a' })).status).toBe(404)
  })
})

describe('the slots of a step', () => {
  it('let others pass those whose adapter has none, and give them theirs as soon as one is free', () => {
    const engine = new Engine({ ...RECORDED_CONFIG, maxLoras: 1 })
    const asked = [lora(1), lora(2), undefined, lora(1)].map((adapter, index) =>
      request(range(1000 * index, 10), 3, { id: `r${index}`, lora: adapter }),
    )
    for (const one of asked) engine.add(one, 0)
    engine.begin(0)
    expect(engine.snapshot()).toMatchObject({
      running: 3,
      waiting: 1,
      deferred: 1,
    })
    engine.end()
    expect(engine.snapshot().runningLoras).toEqual(['a1'])
    const ends = drain(engine).flatMap(({ finished }) => finished.map(({ id }) => id))
    expect(ends).toEqual(['r0', 'r2', 'r3', 'r1'])
    expect(engine.snapshot().deferred).toBe(0)
  })
})

describe('the events of an adapter’s blocks', () => {
  it('name it, and their hashes hold its name and path', () => {
    const eventsOf = (adapter: Lora | undefined) => {
      const engine = new Engine(RECORDED_CONFIG)
      engine.add(request(range(1, 64), 1, { lora: adapter, cacheSalt: 'tenant' }), 0)
      const events = drain(engine).flatMap(({ blockEvents }) => blockEvents)
      const [, [told]] = readMsgpack(encodeBatch(1, events, RECORDED_BATCHES)) as [number, [Record<string, unknown>]]
      return told
    }
    const told = eventsOf(lora(7))
    expect(told).toMatchObject({ lora_id: 7, lora_name: 'a7', extra_keys: [['a7', 'tenant'], ['a7']] })
    const others = [undefined, { ...lora(7), name: 'b' }, { ...lora(7), path: 'elsewhere' }].map(eventsOf)
    const hashes = [told, ...others].map((event) => String(event?.block_hashes))
    expect(new Set(hashes).size).toBe(4)
    expect(eventsOf({ ...lora(7), id: 8 })?.block_hashes).toEqual(told?.block_hashes)
  })
})
