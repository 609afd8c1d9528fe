// API keys of the local edge: its secrets, and the key records in the store that `wrangler dev` uses.
import { randomBytes } from 'node:crypto'
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type KeyRecord, keyDigest, keyRecordName, mintApiKey } from '../shared/api-key.ts'
import { isTenant } from '../shared/signature.ts'
import { UserError } from './user-error.ts'

export const PROJECT_DIR = fileURLToPath(new URL('..', import.meta.url))
/** What this machine's `up` keeps between runs; never committed. */
export const STATE_DIR = join(PROJECT_DIR, '.warmpath')
const SECRETS_FILE = join(STATE_DIR, 'edge.env')

/** Secrets of the local edge: made once, the same for every `up` and `key` on this machine. */
export type LocalSecrets = {
  readonly pepper: string
  readonly edgeKeys: string
  readonly demoKey: string
  readonly file: string
}

export function localSecrets(): LocalSecrets {
  mkdirSync(STATE_DIR, { recursive: true })
  const known = readSecrets()
  const pepper = known.get('KEY_PEPPER') ?? randomBytes(32).toString('base64url')
  const edgeKeys = known.get('EDGE_SIGNING_KEYS') ?? `local:${randomBytes(32).toString('base64url')}`
  const demoKey = known.get('DEMO_KEY') ?? mintApiKey(randomBytes)
  const lines = [`KEY_PEPPER=${pepper}`, `EDGE_SIGNING_KEYS=${edgeKeys}`, `DEMO_KEY=${demoKey}`]
  writeFileSync(SECRETS_FILE, `${lines.join('\n')}\n`, { mode: 0o600 })
  chmodSync(SECRETS_FILE, 0o600)
  return { pepper, edgeKeys, demoKey, file: SECRETS_FILE }
}

function readSecrets(): Map<string, string> {
  try {
    const lines = readFileSync(SECRETS_FILE, 'utf8').split('\n')
    return new Map(lines.filter((line) => line.includes('=')).map((line) => splitOnce(line, '=')))
  } catch {
    return new Map()
  }
}

function splitOnce(line: string, separator: string): [string, string] {
  const at = line.indexOf(separator)
  return [line.slice(0, at), line.slice(at + 1)]
}

export type NewKey = {
  readonly tenant: string
  readonly name?: string
  readonly expiresAt?: string
  readonly models?: readonly string[]
}

/** Makes a key for a tenant and stores its record in the local edge's KV. The key itself is kept nowhere. */
export async function createLocalKey(wanted: NewKey): Promise<string> {
  const key = mintApiKey(randomBytes)
  await storeLocalKey(key, wanted)
  return key
}

/** Stores a key's record under its peppered digest, where `wrangler dev` looks for it. */
export async function storeLocalKey(key: string, { tenant, ...rest }: NewKey): Promise<void> {
  if (!isTenant(tenant)) {
    throw new UserError(
      `${tenant} is no tenant name: expected 1 to 63 of a-z, 0-9, - and _, beginning with a letter or digit`,
    )
  }
  const { pepper } = localSecrets()
  const record: KeyRecord = { tenant, createdAt: new Date().toISOString(), ...rest }
  // wrangler has no other way to be told that its progress is not ours: what `key create` prints is the key alone.
  process.env.WRANGLER_LOG ??= 'error'
  const { getPlatformProxy } = await import('wrangler')
  const proxy = await getPlatformProxy<{ KEYS: { put: (name: string, value: string) => Promise<void> } }>({
    configPath: join(PROJECT_DIR, 'wrangler.toml'),
    persist: { path: join(PROJECT_DIR, '.wrangler/state/v3') },
    remoteBindings: false,
    envFiles: [SECRETS_FILE],
  })
  try {
    await proxy.env.KEYS.put(keyRecordName(await keyDigest(pepper, key)), JSON.stringify(record))
  } finally {
    await proxy.dispose()
  }
}
