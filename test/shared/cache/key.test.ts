// Two requests share an answer only where nothing that may change it differs, and never across scopes.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  authorizationScope,
  type CacheKeyParts,
  cacheKeyHead,
  isInKey,
  modelVersionOf,
  tenantScope,
} from '../../../shared/cache/key.ts'

const PARTS: CacheKeyParts = { scope: tenantScope('acme'), dialect: 'chat', modelVersion: 'v', epoch: '' }

describe('cacheKeyHead', () => {
  it('differs with every part', () => {
    const heads = [
      PARTS,
      { ...PARTS, scope: tenantScope('acme2') },
      { ...PARTS, scope: authorizationScope('acme') },
      { ...PARTS, dialect: 'completions' },
      { ...PARTS, modelVersion: 'w' },
      { ...PARTS, epoch: 'v' },
    ].map((parts) => cacheKeyHead(parts as CacheKeyParts))
    expect(new Set(heads).size).toBe(heads.length)
  })

  it('needs a scope that authentication made', () => {
    // @ts-expect-error a tenant's name is no scope: it may come from anywhere
    expect(cacheKeyHead({ ...PARTS, scope: 'acme' })).toBeTypeOf('string')
  })
})

it('scopes are made where callers are authenticated, and nowhere else', () => {
  const makers = sourceFiles().filter((file) => /\b(tenantScope|authorizationScope)\(/.test(readFileSync(file, 'utf8')))
  expect(makers.sort()).toEqual(['cluster/proxy/caller.ts', 'edge/authenticate.ts', 'shared/cache/key.ts'])
})

describe('isInKey', () => {
  it.each([
    ['stream', false, false],
    ['stream_options', false, false],
    ['cache_salt', false, false],
    ['prompt_cache_key', false, false],
    ['user', false, true],
    ['metadata', false, true],
    ['messages', true, true],
    ['temperature', true, true],
    ['tools', true, true],
    ['seed', true, true],
    ['a_parameter_that_is_yet_to_be_invented', true, true],
  ])('%s: %s in a chat, %s in a response, which repeats it', (member, inChat, inResponse) => {
    expect(isInKey('chat', member)).toBe(inChat)
    expect(isInKey('responses', member)).toBe(inResponse)
  })

  it('a member that nobody has heard of is in the key', () => {
    const known = ['stream', 'stream_options', 'cache_salt', 'priority', 'prompt_cache_key', 'user', 'metadata']
    const others = ['safety_identifier', 'service_tier', 'store', 'request_id']
    fc.assert(
      fc.property(fc.string(), (name) => {
        expect(isInKey('chat', name)).toBe(![...known, ...others].includes(name))
      }),
    )
  })
})

describe('modelVersionOf', () => {
  const card = { id: 'alias', root: 'org/model', parent: null, max_model_len: 8_192, created: 1 }
  it('does not depend on the order of engines, nor on how many tell the same', () => {
    const other = { ...card, root: 'org/model-2' }
    expect(modelVersionOf([card, other])).toBe(modelVersionOf([other, card, { ...card, created: 2 }]))
  })
  it.each([{ root: 'org/model-2' }, { parent: 'base' }, { max_model_len: 4_096 }, { id: 'other' }])(
    'is another one with %j',
    (change) => {
      expect(modelVersionOf([{ ...card, ...change }])).not.toBe(modelVersionOf([card]))
      expect(modelVersionOf([card, { ...card, ...change }])).not.toBe(modelVersionOf([card]))
    },
  )
})

function sourceFiles(): string[] {
  return ['shared', 'edge', 'cluster'].flatMap((folder) =>
    readdirSync(folder, { recursive: true })
      .map((name) => join(folder, String(name)))
      .filter((name) => name.endsWith('.ts')),
  )
}
