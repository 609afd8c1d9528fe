import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { readEventSources, sourceOfConfiguration } from '../../../cluster/kv/sources.ts'
import { parseJson } from '../../parse-json.ts'

const recorded = parseJson(
  readFileSync(new URL('../../fixtures/vllm/kv-event-sources.json', import.meta.url), 'utf8'),
) as Record<string, unknown>

const HOST = '10.0.0.7'
const rank = (members: object = {}) => ({
  enable_kv_cache_events: true,
  publisher: 'zmq',
  endpoint: 'tcp://*:5557',
  replay_endpoint: 'tcp://*:5558',
  ...members,
})
const answer = (members: object = {}) => ({ 0: rank(members) })

describe('what a real vLLM answers', () => {
  it('names its one publisher, on the host that it was asked at', () => {
    expect(readEventSources(recorded['one rank'], HOST)).toEqual({
      sources: [{ rank: 0, events: 'tcp://10.0.0.7:5657', replay: 'tcp://10.0.0.7:5658' }],
      skipped: [],
    })
  })
  it('names a publisher for each data-parallel rank, at ports of their own', () => {
    expect(readEventSources(recorded['two ranks'], HOST).sources).toEqual([
      { rank: 0, events: 'tcp://10.0.0.7:5911', replay: 'tcp://10.0.0.7:6911' },
      { rank: 1, events: 'tcp://10.0.0.7:5912', replay: 'tcp://10.0.0.7:6912' },
    ])
  })
})

describe('the host of a publisher', () => {
  it.each([
    ['tcp://*:5557', HOST, 'tcp://10.0.0.7:5557'],
    ['tcp://0.0.0.0:5557', HOST, 'tcp://10.0.0.7:5557'],
    ['tcp://[::]:5557', HOST, 'tcp://10.0.0.7:5557'],
    ['tcp://:::5557', HOST, 'tcp://10.0.0.7:5557'],
    ['tcp://*:5557', '[fd00::7]', 'tcp://[fd00::7]:5557'],
    ['tcp://*:5557', 'fd00::7', 'tcp://[fd00::7]:5557'],
    ['tcp://*:5557', 'pod-3.svc', 'tcp://pod-3.svc:5557'],
    ['tcp://10.0.0.7:5557', HOST, 'tcp://10.0.0.7:5557'],
    ['tcp://[FD00:0::7]:5557', '[fd00::7]', 'tcp://[FD00:0::7]:5557'],
    ['tcp://Pod-3.svc:5557', 'pod-3.svc', 'tcp://Pod-3.svc:5557'],
    ['tcp://127.0.0.1:5557', 'localhost', 'tcp://127.0.0.1:5557'],
    ['tcp://localhost:5557', '[::1]', 'tcp://localhost:5557'],
  ])('%s at %s', (endpoint, host, events) => {
    expect(readEventSources(answer({ endpoint }), host).sources).toMatchObject([{ events }])
  })
  it.each([
    ['another pod', 'tcp://10.0.0.8:5557'],
    ['this router\u2019s own machine', 'tcp://127.0.0.1:6379'],
    ['this router\u2019s own machine by name', 'tcp://localhost:6379'],
    ['the cloud\u2019s metadata', 'tcp://169.254.169.254:80'],
    ['a name', 'tcp://redis.internal:6379'],
    ['the engine\u2019s address in another notation', 'tcp://0x7f.1:5557'],
  ])('that an engine may not send us to: %s', (_, endpoint) => {
    const { sources, skipped } = readEventSources(answer({ endpoint }), HOST)
    expect(sources).toEqual([])
    expect(skipped).toEqual([`rank "0": endpoint ${JSON.stringify(endpoint)} is on another host than the engine`])
  })
  it('may be another one where that is allowed', () => {
    const foreign = answer({ endpoint: 'tcp://10.0.0.8:5557', replay_endpoint: 'tcp://10.0.0.9:5558' })
    expect(readEventSources(foreign, HOST, { allowForeignHosts: true })).toEqual({
      sources: [{ rank: 0, events: 'tcp://10.0.0.8:5557', replay: 'tcp://10.0.0.9:5558' }],
      skipped: [],
    })
  })
})

describe('an engine without events, or with malformed ones', () => {
  it.each<[string, unknown, string]>([
    ['events off', answer({ enable_kv_cache_events: false }), 'rank "0": KV events are off'],
    ['no publisher', answer({ publisher: 'null' }), 'rank "0": publisher "null" is not zmq'],
    ['publisher null', answer({ publisher: null }), 'rank "0": publisher null is not zmq'],
    ['not tcp', answer({ endpoint: 'ipc:///run/x' }), 'rank "0": endpoint "ipc:///run/x" is no tcp:// address'],
    ['no endpoint', answer({ endpoint: undefined }), 'rank "0": endpoint undefined is no tcp:// address'],
    ['no port', answer({ endpoint: 'tcp://*' }), 'rank "0": endpoint "tcp://*" has no port'],
    ['a port of 0', answer({ endpoint: 'tcp://*:0' }), 'rank "0": endpoint "tcp://*:0" has no port'],
    ['a port too high', answer({ endpoint: 'tcp://*:65536' }), 'rank "0": endpoint "tcp://*:65536" has no port'],
    ['a source address', answer({ endpoint: 'tcp://a;b:1' }), 'rank "0": endpoint "tcp://a;b:1" has no host'],
    ['a rank that is none', { x: rank() }, 'rank "x": no number'],
    ['a rank that is null', { 0: null }, 'rank "0": no object'],
    ['a list', [rank()], 'the answer is no object of ranks'],
    ['null', null, 'the answer is no object of ranks'],
    ['a text', 'tcp://*:5557', 'the answer is no object of ranks'],
  ])('is skipped with a reason: %s', (_, json, reason) => {
    expect(readEventSources(json, HOST)).toEqual({ sources: [], skipped: [reason] })
  })
  it('is followed without replay when only that is missing or malformed', () => {
    const events = 'tcp://10.0.0.7:5557'
    const without = [{ rank: 0, events, replay: undefined }]
    expect(readEventSources(answer({ replay_endpoint: null }), HOST)).toEqual({ sources: without, skipped: [] })
    expect(readEventSources(answer({ replay_endpoint: 'tcp://10.0.0.8:1' }), HOST)).toEqual({
      sources: without,
      skipped: ['rank "0": replay_endpoint "tcp://10.0.0.8:1" is on another host than the engine'],
    })
  })
  it('gets 64 ranks and no more', () => {
    const many = Object.fromEntries(Array.from({ length: 1_000 }, (_, index) => [index, rank()]))
    const { sources, skipped } = readEventSources(many, HOST)
    expect(sources).toHaveLength(64)
    expect(skipped).toEqual(['936 of 1000 ranks: too many'])
  })
  it('writes no long text into a reason', () => {
    const { skipped } = readEventSources(answer({ endpoint: 'x'.repeat(100_000) }), HOST)
    expect(skipped[0]?.length).toBeLessThan(150)
  })
  it('never makes it throw', () => {
    const hostile = fc.oneof(
      fc.jsonValue(),
      fc.dictionary(fc.string(), fc.record({ publisher: fc.constant('zmq'), endpoint: fc.jsonValue() })),
      fc.record({
        0: fc.record({ publisher: fc.constant('zmq'), endpoint: fc.string().map((text) => `tcp://${text}`) }),
      }),
    )
    fc.assert(
      fc.property(hostile, fc.string(), (json, host) => {
        for (const { rank, events } of readEventSources(json, host).sources) {
          expect(Number.isInteger(rank)).toBe(true)
          expect(events).toMatch(/^tcp:\/\//)
        }
      }),
    )
  })
})

describe('a configured publisher', () => {
  it.each([
    ['tcp://*:5557', 'tcp://10.0.0.7:5557'],
    ['tcp://10.0.0.8:5557', 'tcp://10.0.0.8:5557'],
    ['tcp://[fd00::8]:5557', 'tcp://[fd00::8]:5557'],
    ['not an address', 'not an address'],
  ])('%s', (configured, events) => {
    expect(sourceOfConfiguration(configured, undefined, HOST)).toEqual({ rank: 0, events, replay: undefined })
    expect(sourceOfConfiguration('tcp://*:1', configured, HOST).replay).toBe(events)
  })
})
