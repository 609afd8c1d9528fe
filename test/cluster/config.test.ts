import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { loadRouterConfig } from '../../cluster/config.ts'
import { parseConfigText } from '../../cluster/config-file.ts'
import { UserError } from '../../cluster/user-error.ts'

const error = (text: string) => {
  try {
    parseConfigText(text, 'router.yaml')
  } catch (thrown) {
    expect(thrown).toBeInstanceOf(UserError)
    return (thrown as UserError).message
  }
  throw new Error('the configuration was accepted')
}

describe('a mistake in the configuration is one line that names place and fix', () => {
  it.each([
    [
      'endpoints:\n  - url: http://a:1\n    role: prefil\n',
      'router.yaml:3: endpoints[0].role: expected one of prefill, decode, both, got "prefil"',
    ],
    ['port: 8000\nprot: 1\n', 'router.yaml:2: prot: there is no such setting'],
    ['limits:\n  waiting: -1\n', 'router.yaml:2: limits.waiting: expected >=0, got -1'],
    [
      'endpoints:\n  - url: http://a:1\n  - url: nonsense\n  - url: nonsense\n',
      'router.yaml:3: endpoints[1].url: expected an URL like http://10.0.0.7:8000, without a path',
    ],
    [
      'endpoints:\n  - url: a:1/x\n',
      'router.yaml:2: endpoints[0].url: expected an URL like http://10.0.0.7:8000, without a path',
    ],
    [
      'endpoints:\n  - url: http://a:1\n  - url: http://b:1\n  - url: http://a:1/\n',
      'router.yaml:4: endpoints[2]: endpoint a:1 is listed twice',
    ],
    [
      'endpoints:\n  - url: http://a:1\n    events: tcp:/8206\n',
      'router.yaml:3: endpoints[0].events: expected an address like tcp://*:5557',
    ],
    [
      'scorers:\n  - name: load-scorer\n    weight: .inf\n',
      'router.yaml:3: scorers[0].weight: expected <=1000000000, got Infinity',
    ],
    ['port: 1\nseed: *x\n', 'router.yaml:2: Unresolved alias (the anchor must be set before the alias): x'],
    ['scorers:\n  - name: load-scorer\n', 'router.yaml:2: scorers[0].weight: is missing'],
    ['timeouts:\n  totalMs: 2592000000\n', 'router.yaml:2: timeouts.totalMs: expected <=1073741824, got 2592000000'],
    ['cache: "redis://:hunter2@host:6379"\n', 'router.yaml:1: cache: expected Object, got "redis://…"'],
    ['port: [1\n', 'router.yaml:2: Flow sequence in block collection must be sufficiently indented and end with a ]'],
    ['- 1\n', 'router.yaml:1: the file: expected settings by name, like `port: 8000`'],
  ])('%j', (text, message) => {
    expect(error(text)).toBe(message)
  })

  it('a missing file', () => {
    expect(() => loadRouterConfig('nowhere.yaml', {})).toThrow('cannot read the configuration nowhere.yaml: ENOENT')
  })
})

describe('the response cache', () => {
  const endpoints = ['http://127.0.0.1:8001']
  const cacheOf = (over: object, text = '') =>
    loadRouterConfig(text === '' ? undefined : 'router.yaml', { endpoints, ...over }, text).cache

  it('is on, in memory, for deterministic requests', () => {
    expect(cacheOf({})).toEqual({
      keep: 'deterministic',
      toolCalls: false,
      ttlSeconds: 3_600,
      memoryBytes: 134_217_728,
      redis: undefined,
      epoch: '',
    })
  })
  it.each([
    ['false', '', true],
    ['0', '', true],
    ['true', 'cache: { enabled: false }', false],
    ['', 'cache: { enabled: false }', true],
    [undefined, 'cache: { enabled: false }', true],
    [undefined, '', false],
  ])('CACHE_ENABLED=%s above %j', (cacheEnabled, text, off) => {
    expect(cacheOf({ cacheEnabled }, text) === undefined).toBe(off)
  })
  it('takes the Redis of the flag, then of the file', () => {
    const file = 'cache: { redis: "redis://file:6379" }'
    expect(cacheOf({ redis: 'redis://flag:6379' }, file)?.redis).toBe('redis://flag:6379')
    expect(cacheOf({ redis: '' }, file)?.redis).toBe('redis://file:6379')
  })
  it.each([
    [{ cacheEnabled: 'maybe' }, 'CACHE_ENABLED=maybe: expected true or false'],
    [{ redis: 'http://cache:6379' }, '--redis (or REDIS_URL)'],
  ])('refuses %j', (over, message) => {
    expect(() => cacheOf(over)).toThrow(message)
  })
  it('names the line of what is wrong in the file, and no password', () => {
    const text = 'port: 1\ncache:\n  redis: "rediss://:hunter2@/x:y"\n'
    expect(error(text)).toMatch(/^router.yaml:3: cache.redis: /)
    expect(error(text)).not.toContain('hunter2')
    expect(error('cache:\n  keep: some\n')).toBe(
      'router.yaml:2: cache.keep: expected one of deterministic, all, asked, got "some"',
    )
    expect(error('cache:\n  ttlSeconds: 604801\n')).toContain('router.yaml:2: cache.ttlSeconds: expected <=604800')
  })
})

describe('what the router listens on', () => {
  const endpoints = ['http://127.0.0.1:8001']
  const keys = `k1:${'s'.repeat(32)}`

  it('is loopback unless told otherwise', () => {
    expect(loadRouterConfig(undefined, { endpoints })).toMatchObject({
      host: '127.0.0.1',
      port: 8000,
      admin: { host: '127.0.0.1', port: 8081 },
    })
  })
  it('is the pod’s address in a pod, and a flag stands above it', () => {
    expect(loadRouterConfig(undefined, { endpoints, edgeKeys: keys, podIp: '10.1.2.3' }).host).toBe('10.1.2.3')
    expect(loadRouterConfig(undefined, { endpoints, edgeKeys: keys, podIp: '10.1.2.3', host: '::1' }).host).toBe('::1')
  })
  it('is never open to strangers by accident', () => {
    expect(() => loadRouterConfig(undefined, { endpoints, host: '0.0.0.0' })).toThrow('EDGE_SIGNING_KEYS')
    expect(loadRouterConfig(undefined, { endpoints, host: '0.0.0.0', allowUnsigned: true }).host).toBe('0.0.0.0')
    expect(loadRouterConfig(undefined, { endpoints, host: '0.0.0.0', edgeKeys: keys }).host).toBe('0.0.0.0')
  })
  it('keeps the keys of the file when the variable is there but empty', () => {
    expect(loadRouterConfig(undefined, { endpoints, edgeKeys: keys }).edgeKeys?.currentId).toBe('k1')
    expect(() => loadRouterConfig(undefined, { endpoints, host: '0.0.0.0', edgeKeys: '' })).toThrow('EDGE_SIGNING_KEYS')
  })
  it.each(['k1', 'k1:short', ''])('refuses the signing keys %j without repeating them', (edgeKeys) => {
    expect(() => loadRouterConfig(undefined, { endpoints, host: '0.0.0.0', edgeKeys })).toThrow(
      /EDGE_SIGNING_KEYS(?!.*short$)/,
    )
  })
})

describe('endpoints', () => {
  it('are needed, each once', () => {
    expect(() => loadRouterConfig(undefined, {})).toThrow('no endpoints: name the vLLM servers')
    expect(() => loadRouterConfig(undefined, { endpoints: ['http://a:1', 'http://a:1/'] })).toThrow(
      'endpoint a:1 is listed twice',
    )
    expect(() => loadRouterConfig(undefined, { endpoints: ['ftp://a'] })).toThrow('ftp://a is no endpoint')
  })
  it('have an id of host and port, the scheme’s own where none is given', () => {
    const ids = loadRouterConfig(undefined, {
      endpoints: ['https://a.example', 'http://b', 'http://[::1]:9'],
    }).endpoints
    expect(ids.map(({ id, origin }) => [id, origin])).toEqual([
      ['a.example:443', 'https://a.example'],
      ['b:80', 'http://b'],
      ['[::1]:9', 'http://[::1]:9'],
    ])
  })
})

it('disabled filters and scorers are left out', () => {
  const file = parseConfigText(
    'scorers:\n  - {name: load-scorer, weight: 1}\n  - {name: kv-usage, weight: 1, enabled: false}\n',
    'f',
  )
  expect(file.scorers?.length).toBe(2)
})

describe('the guide’s own configuration', () => {
  const guide = `filters:
- name: prefill
  enabled: true
- name: by-label
  enabled: true
  labels:
    llm-d.ai/role: prefill

scorers:
- name: cache-scorer
  enabled: true
  weight: 0.5
  endpoint: "http://kv-cache-manager:8080"
- name: load-scorer
  enabled: true
  weight: 0.3
- name: session-affinity
  enabled: true
  weight: 0.2
`
  const configMap = `apiVersion: v1
kind: ConfigMap
metadata:
  name: epp-config
data:
  config.yaml: |
${guide.replaceAll(/^/gm, '    ')}`
  const load = (text: string) => {
    const file = join(mkdtempSync(join(tmpdir(), 'warmpath-')), 'config.yaml')
    writeFileSync(file, text)
    return loadRouterConfig(file, { endpoints: ['http://127.0.0.1:8001'] })
  }

  it.each([
    ['bare', guide],
    ['inside its ConfigMap', configMap],
  ])('loads verbatim, %s: its filters are the prefill profile, decode gets its scorers', (_, text) => {
    const { profiles, kvManager } = load(text)
    expect(kvManager).toBe('http://kv-cache-manager:8080')
    const scorers = [
      { name: 'cache-scorer', weight: 0.5 },
      { name: 'load-scorer', weight: 0.3 },
      { name: 'session-affinity', weight: 0.2 },
    ]
    expect(profiles.decode).toMatchObject({ filters: [{ name: 'decode' }], scorers })
    expect(profiles.prefill?.filters.map(({ name }) => name)).toEqual(['prefill', 'by-label'])
    expect(profiles.prefill?.scorers).toEqual(scorers)
  })
  it('points at the line of the ConfigMap where its inner text is wrong', () => {
    expect(error(configMap.replace('weight: 0.3', 'weight: heavy'))).toBe(
      'router.yaml:22: scorers[1].weight: expected number, got "heavy"',
    )
    expect(error('kind: ConfigMap\ndata:\n  other: 1\n')).toBe(
      'router.yaml:1: this ConfigMap has no `config.yaml` under data',
    )
  })
  it('what is not enabled is not there', () => {
    const { profiles, kvManager } = load(guide.replaceAll('enabled: true', 'enabled: false'))
    expect(profiles).toEqual({ decode: { filters: [], scorers: [], picker: 'max-score' }, prefill: undefined })
    expect(kvManager).toBeUndefined()
  })
  it('without one, cache weighs 50 %, load 30 %, latency 20 %', () => {
    expect(load('{}').profiles.decode.scorers).toEqual([
      { name: 'cache-scorer', weight: 0.5 },
      { name: 'load-scorer', weight: 0.3 },
      { name: 'latency-scorer', weight: 0.2 },
    ])
  })
  it('a flag for the KV-Cache Manager stands above the file', () => {
    const file = join(mkdtempSync(join(tmpdir(), 'warmpath-')), 'config.yaml')
    writeFileSync(file, guide)
    const over = { endpoints: ['http://127.0.0.1:8001'], kvManager: 'http://10.0.0.9:8080' }
    expect(loadRouterConfig(file, over).kvManager).toBe('http://10.0.0.9:8080')
    expect(() => loadRouterConfig(file, { ...over, kvManager: 'kv:8080/x' })).toThrow(
      '--kv-manager kv:8080/x: expected',
    )
  })
})
