// What may be kept: an answer that a caller did not want again, or that only an engine can give, must not come from a store.
import { describe, expect, it } from 'vitest'
import type { CacheEntry } from '../../../shared/cache/entry.ts'
import {
  type CachePolicy,
  type CacheWish,
  cacheWishOf,
  drawTtlSeconds,
  objectionTo,
  TTL_SECONDS_MAX,
} from '../../../shared/cache/policy.ts'
import type { Dialect } from '../../../shared/dialect.ts'

const POLICY: CachePolicy = { keep: 'deterministic', toolCalls: false, ttlSeconds: 3_600 }

function wish(dialect: Dialect, body: object, cacheControl = '', policy: Partial<CachePolicy> = {}): CacheWish {
  const members = new Map(Object.entries(body).map(([name, value]) => [name, JSON.stringify(value)]))
  return cacheWishOf(dialect, (name) => members.get(name), cacheControl, { ...POLICY, ...policy })
}

function verdict(dialect: Dialect, body: object, cacheControl?: string, policy?: Partial<CachePolicy>): string {
  const found = wish(dialect, body, cacheControl, policy)
  return found.uses ? 'used' : found.because
}

const ZERO = { temperature: 0 }
const PICTURE = (url: string) => ({
  ...ZERO,
  messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url } }] }],
})

describe('by default only what asks for one answer is kept', () => {
  it.each<[string, Dialect, object]>([
    ['sampled', 'chat', {}],
    ['sampled', 'chat', { temperature: 0.1 }],
    ['sampled', 'chat', { temperature: null }],
    ['sampled', 'chat', { temperature: [] }],
    ['used', 'chat', ZERO],
    ['used', 'chat', { seed: 7 }],
    ['used', 'chat', { temperature: 1, seed: 0 }],
    ['sampled', 'chat', { seed: null }],
    ['sampled', 'chat', { seed: -1 }],
    ['used', 'completions', ZERO],
    ['used', 'messages', ZERO],
    ['sampled', 'messages', { seed: 7 }],
    ['used', 'embeddings', {}],
    ['dialect', 'count-tokens', ZERO],
    ['several-answers', 'chat', { seed: 1, n: 2 }],
    ['used', 'chat', { ...ZERO, n: 1 }],
    ['several-answers', 'completions', { seed: 1, best_of: 3 }],
    ['several-answers', 'chat', { ...ZERO, logprobs: true }],
    ['used', 'chat', { ...ZERO, logprobs: false }],
    ['several-answers', 'completions', { ...ZERO, logprobs: 0 }],
    ['several-answers', 'completions', { ...ZERO, prompt_logprobs: 0 }],
    ['server-state', 'responses', ZERO],
    ['server-state', 'responses', { ...ZERO, store: true }],
    ['used', 'responses', { ...ZERO, store: false }],
    ['server-state', 'responses', { ...ZERO, store: false, background: true }],
    ['server-state', 'responses', { ...ZERO, store: false, previous_response_id: 'resp_1' }],
    ['server-state', 'responses', { ...ZERO, store: false, conversation: 'c' }],
    ['server-state', 'responses', { ...ZERO, store: false, prompt: { id: 'p' } }],
    ['used', 'completions', { ...ZERO, prompt: 'p' }],
    ['server-state', 'chat', { ...ZERO, store: true }],
    ['used', 'chat', { ...ZERO, stream: true, stream_options: { include_usage: true } }],
    ['used', 'chat', { ...ZERO, stream: true, stream_options: {} }],
    ['stream-options', 'chat', { ...ZERO, stream_options: { include_usage: true } }],
    ['used', 'chat', { ...ZERO, stream_options: null }],
    ['stream-options', 'chat', { ...ZERO, stream_options: { include_usage: true, continuous_usage_stats: true } }],
    ['used', 'responses', { ...ZERO, store: false, tools: [{ type: 'function', name: 'f' }] }],
    ['server-tools', 'responses', { ...ZERO, store: false, tools: [{ type: 'web_search' }] }],
    ['used', 'messages', { ...ZERO, tools: [{ name: 'f', input_schema: { type: 'object' } }] }],
    ['server-tools', 'messages', { ...ZERO, tools: [{ type: 'web_search_20250305', name: 'w' }] }],
    ['server-tools', 'messages', { ...ZERO, mcp_servers: [{ url: 'x' }] }],
    ['server-tools', 'chat', { ...ZERO, web_search_options: {} }],
    ['linked-media', 'chat', PICTURE('https://example.com/cat.png')],
    ['linked-media', 'chat', PICTURE('file:///cat.png')],
    ['used', 'chat', PICTURE('data:image/png;base64,AAAA')],
    ['used', 'chat', { ...ZERO, messages: [{ role: 'user', content: 'say "url":"https://x"' }] }],
    ['used', 'completions', { ...ZERO, prompt: '"url":"https://x"' }],
    ['linked-media', 'responses', { ...ZERO, store: false, input: [{ type: 'input_file', file_id: 'f' }] }],
    ['linked-media', 'messages', { ...ZERO, messages: [{ source: { type: 'url', url: 'https://x' } }] }],
  ])('%s: %s %j', (expected, dialect, body) => {
    expect(verdict(dialect, body)).toBe(expected)
  })
})

describe('a caller may ask for more, or for less', () => {
  it.each<[string, object, string, Partial<CachePolicy>?]>([
    ['used', {}, 'max-age=60'],
    ['used', { n: 4, logprobs: true }, 'max-age=60'],
    ['server-state', { store: true }, 'max-age=60'],
    ['no-store', ZERO, 'no-store'],
    ['no-store', ZERO, 'no-store, max-age=60'],
    ['used', {}, '', { keep: 'all' }],
    ['used', { n: 4 }, '', { keep: 'all' }],
    ['sampled', ZERO, '', { keep: 'asked' }],
    ['used', ZERO, 'max-age=1', { keep: 'asked' }],
  ])('%s: %j with %j', (expected, body, cacheControl, policy) => {
    expect(verdict('chat', body, cacheControl, policy)).toBe(expected)
  })

  it('no-cache computes anew, and only-if-cached is told whatever becomes of it', () => {
    expect(wish('chat', ZERO, 'no-cache')).toMatchObject({ uses: true, reads: false })
    expect(wish('chat', ZERO, 'only-if-cached')).toMatchObject({ uses: true, reads: true, onlyIfCached: true })
    expect(wish('chat', {}, 'only-if-cached')).toMatchObject({ uses: false, onlyIfCached: true })
  })

  it('calls of tools are for those who ask for them', () => {
    expect(wish('chat', ZERO)).toMatchObject({ toolCalls: false })
    expect(wish('chat', ZERO, 'max-age=60')).toMatchObject({ toolCalls: true })
    expect(wish('chat', ZERO, '', { toolCalls: true })).toMatchObject({ toolCalls: true })
  })
})

describe('objectionTo', () => {
  const entry: CacheEntry = { storedAtMs: 1_000_000, ttlSeconds: 100, callsTools: false, json: '{}' }
  const used = (cacheControl: string) => wish('chat', ZERO, cacheControl) as Extract<CacheWish, { uses: true }>
  it.each([
    [undefined, '', 0],
    [undefined, '', 99_999],
    ['stale', '', 100_000],
    [undefined, 'max-age=10', 10_999],
    ['stale', 'max-age=10', 11_000],
    [undefined, '', -5_000],
  ] as const)('%s with %j after %i ms', (expected, cacheControl, passedMs) => {
    expect(objectionTo(entry, used(cacheControl), entry.storedAtMs + passedMs)).toBe(expected)
  })
  it('a call of tools is no answer for who did not ask for such', () => {
    expect(objectionTo({ ...entry, callsTools: true }, used(''), entry.storedAtMs)).toBe('miss')
    expect(objectionTo({ ...entry, callsTools: true }, used('max-age=9'), entry.storedAtMs)).toBeUndefined()
  })
})

it('entries that are made together expire a tenth apart at most, and never later than a week', () => {
  expect(drawTtlSeconds(POLICY, () => 0)).toBe(3_240)
  expect(drawTtlSeconds(POLICY, () => 0.999_999)).toBe(3_960)
  expect(drawTtlSeconds({ ...POLICY, ttlSeconds: TTL_SECONDS_MAX }, () => 0.999_999)).toBe(TTL_SECONDS_MAX)
  expect(drawTtlSeconds({ ...POLICY, ttlSeconds: 1 }, () => 0)).toBe(1)
})

it('a reload, as browsers send it, neither reads a stored answer nor makes one of what is sampled', () => {
  expect(verdict('chat', {}, 'max-age=0')).toBe('sampled')
  expect(verdict('chat', { ...ZERO, n: 4 }, 'max-age=0')).toBe('several-answers')
  expect(wish('chat', ZERO, 'max-age=0')).toMatchObject({ uses: true, reads: false, toolCalls: false })
})
