import { describe, expect, it } from 'vitest'
import { loadRouterConfig, parseConfigText } from '../../cluster/config.ts'
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
      'endpoints:\n  - url: a:1/x\n',
      'router.yaml:2: endpoints[0].url: expected an URL like http://10.0.0.7:8000, without a path',
    ],
    ['scorers:\n  - name: load-scorer\n', 'router.yaml:2: scorers[0].weight: is missing'],
    ['timeouts:\n  totalMs: 2592000000\n', 'router.yaml:2: timeouts.totalMs: expected <=1073741824, got 2592000000'],
    ['port: [1\n', 'router.yaml:2: Flow sequence in block collection must be sufficiently indented and end with a ]'],
    ['- 1\n', 'router.yaml:1: the file: expected settings by name, like `port: 8000`'],
  ])('%j', (text, message) => {
    expect(error(text)).toBe(message)
  })

  it('a missing file', () => {
    expect(() => loadRouterConfig('nowhere.yaml', {})).toThrow('cannot read the configuration nowhere.yaml: ENOENT')
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
