// Configuration errors name the variable and the fix, and never a secret.
import { env } from 'cloudflare:workers'
import { expect, it } from 'vitest'
import { parseConfig } from '../../edge/config.ts'

it('has defaults for the timeouts', () => {
  expect(parseConfig(env).router).toMatchObject({
    origin: 'http://127.0.0.1:8000',
    firstByteTimeoutMs: 600_000,
    idleTimeoutMs: 120_000,
  })
})

it('reads the timeouts', () => {
  const config = parseConfig({ ...env, ROUTER_FIRST_BYTE_TIMEOUT_SECONDS: '0.5', ROUTER_IDLE_TIMEOUT_SECONDS: '30' })
  expect(config.router).toMatchObject({ firstByteTimeoutMs: 500, idleTimeoutMs: 30_000 })
})

it('keeps the answers of deterministic requests for an hour, unless told otherwise', () => {
  expect(parseConfig(env).cache).toEqual({
    policy: { keep: 'deterministic', ttlSeconds: 3_600, toolCalls: false },
    epoch: '',
  })
  const told = { RESPONSE_CACHE: 'all', RESPONSE_CACHE_TTL_SECONDS: '60', RESPONSE_CACHE_TOOL_CALLS: 'true' }
  expect(parseConfig({ ...env, ...told, RESPONSE_CACHE_EPOCH: '2026-11' }).cache).toEqual({
    policy: { keep: 'all', ttlSeconds: 60, toolCalls: true },
    epoch: '2026-11',
  })
  expect(parseConfig({ ...env, RESPONSE_CACHE: 'off' }).cache.policy).toBeUndefined()
})

it.each([
  ['RESPONSE_CACHE', 'sometimes'],
  ['RESPONSE_CACHE_TTL_SECONDS', '-5'],
  ['RESPONSE_CACHE_TTL_SECONDS', '604801'],
  ['RESPONSE_CACHE_TOOL_CALLS', 'some'],
  ['RESPONSE_CACHE_EPOCH', 'two words'],
  ['KEYS', undefined],
  ['KEY_PEPPER', ''],
  ['KEY_PEPPER', 'too short a pepper'],
  ['EDGE_SIGNING_KEYS', ''],
  ['EDGE_SIGNING_KEYS', 'k1:too-short-a-secret'],
  ['ROUTER_URL', ''],
  ['ROUTER_URL', 'router:8000'],
  ['ROUTER_URL', 'http://router/v1'],
  ['ROUTER_IDLE_TIMEOUT_SECONDS', 'soon'],
  ['ROUTER_FIRST_BYTE_TIMEOUT_SECONDS', '-1'],
])('names %s when it is %j', (name, value) => {
  const parse = () => parseConfig({ ...env, [name]: value })
  expect(parse).toThrow(name)
  if (value) expect(parse).not.toThrow(value)
})
