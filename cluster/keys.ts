// API keys of the local edge: its secrets, and the key records in the store that `wrangler dev` uses.
import { randomBytes } from 'node:crypto'
import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { fileURLToPath } from 'node:url'
import { type KeyRecord, keyDigest, keyRecordName, mintApiKey } from '../shared/api-key.ts'
import { isTenant } from '../shared/signature.ts'
import { UserError } from './user-error.ts'

export const PROJECT_DIR = fileURLToPath(new URL('..', import.meta.url))
/** What this machine's `up` keeps between runs; never committed. */
export const STATE_DIR = join(PROJECT_DIR, '.warmpath')
const SECRETS_FILE = join(STATE_DIR, 'edge.env')
const LOCK_FILE = join(STATE_DIR, 'keys.lock')
const LOCK_WAIT_MS = 60_000

/** Secrets of the local edge: made once, the same for every `up` and `key` on this machine. */
export type LocalSecrets = {
  readonly pepper: string
  readonly edgeKeys: string
  readonly demoKey: string
  readonly file: string
}

/** Throws UserError when the file is there and cannot be used: new secrets would end every key that was made. */
export function localSecrets(): LocalSecrets {
  mkdirSync(STATE_DIR, { recursive: true })
  return readSecrets() ?? makeSecrets()
}

/** Several commands may start at once: the first to link its file into place makes the secrets of all. */
function makeSecrets(): LocalSecrets {
  const lines = [
    `KEY_PEPPER=${randomBytes(32).toString('base64url')}`,
    `EDGE_SIGNING_KEYS=local:${randomBytes(32).toString('base64url')}`,
    `DEMO_KEY=${mintApiKey(randomBytes)}`,
  ]
  const draft = `${SECRETS_FILE}.${process.pid}`
  writeFileSync(draft, `${lines.join('\n')}\n`, { mode: 0o600 })
  try {
    linkSync(draft, SECRETS_FILE)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  } finally {
    rmSync(draft)
  }
  const secrets = readSecrets()
  if (!secrets) throw new UserError(`${SECRETS_FILE} went away while it was read`)
  return secrets
}

/** Undefined when there are none yet. */
function readSecrets(): LocalSecrets | undefined {
  let text: string
  try {
    text = readFileSync(SECRETS_FILE, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return undefined
    throw new UserError(`cannot read ${SECRETS_FILE}: ${code}`)
  }
  const lines = text.split('\n').filter((line) => line.includes('='))
  const values = new Map(lines.map((line) => splitOnce(line, '=')))
  const [pepper, edgeKeys, demoKey] = ['KEY_PEPPER', 'EDGE_SIGNING_KEYS', 'DEMO_KEY'].map((name) => values.get(name))
  if (!pepper || !edgeKeys || !demoKey) {
    throw new UserError(`${SECRETS_FILE} is damaged: remove it to start afresh (keys made so far stop working)`)
  }
  return { pepper, edgeKeys, demoKey, file: SECRETS_FILE }
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
export function storeLocalKey(key: string, wanted: NewKey): Promise<void> {
  return storeLocalKeys(new Map([[key, wanted]]))
}

/** Stores the records of several keys at once. */
export async function storeLocalKeys(keys: ReadonlyMap<string, NewKey>): Promise<void> {
  for (const { tenant } of keys.values()) {
    if (isTenant(tenant)) continue
    throw new UserError(
      `${tenant} is no tenant name: expected 1 to 63 of a-z, 0-9, - and _, beginning with a letter or digit`,
    )
  }
  const { pepper } = localSecrets()
  using _ = lockStore()
  const { getPlatformProxy } = await import('wrangler')
  const proxy = await getPlatformProxy<{ KEYS: { put: (name: string, value: string) => Promise<void> } }>({
    configPath: join(PROJECT_DIR, 'wrangler.toml'),
    persist: { path: join(PROJECT_DIR, '.wrangler/state/v3') },
    remoteBindings: false,
    envFiles: [SECRETS_FILE],
  })
  try {
    for (const [key, wanted] of keys) {
      const record: KeyRecord = { createdAt: new Date().toISOString(), ...wanted }
      await proxy.env.KEYS.put(keyRecordName(await keyDigest(pepper, key)), JSON.stringify(record))
    }
  } finally {
    await proxy.dispose()
  }
}

/**
 * The store of the local edge for this process alone among those that write to it: workerd fails writes while another
 * opens or closes the same files. It is the system's lock, so that it ends with its process, however that ends.
 */
function lockStore(): Disposable {
  const lock = new DatabaseSync(LOCK_FILE, { timeout: LOCK_WAIT_MS })
  try {
    lock.exec('BEGIN EXCLUSIVE')
  } catch (error) {
    lock.close()
    throw new UserError(
      `${LOCK_FILE}: another command has been writing keys for ${LOCK_WAIT_MS / 1_000} s: ${(error as Error).message}`,
    )
  }
  return { [Symbol.dispose]: () => lock.close() }
}
