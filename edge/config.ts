// The bindings and variables of the Worker, read once per isolate. Nothing else in the edge touches `env`.
import { type KeyRing, parseKeyRing, SECRET_CHARS_MIN } from '../shared/signature.ts'

export type Env = {
  readonly KEYS: KVNamespace
  readonly KEY_PEPPER: string
  readonly EDGE_SIGNING_KEYS: string
  readonly ROUTER_URL: string
  readonly ROUTER_FIRST_BYTE_TIMEOUT_SECONDS?: string
  readonly ROUTER_IDLE_TIMEOUT_SECONDS?: string
}

export type Config = {
  readonly keys: KVNamespace
  readonly pepper: string
  readonly router: RouterConfig
}

export type RouterConfig = {
  /** Scheme, host and port. */
  readonly origin: string
  readonly signingKeys: KeyRing
  /** From sending a request to the head of its answer: a long prefill is silent. */
  readonly firstByteTimeoutMs: number
  /** Between two chunks of an answer. */
  readonly idleTimeoutMs: number
}

const FIRST_BYTE_TIMEOUT_SECONDS_DEFAULT = 600
const IDLE_TIMEOUT_SECONDS_DEFAULT = 120
const TIMEOUT_SECONDS_MAX = 24 * 3600

/** Reads the configuration. Throws an Error that names the variable and the fix, never a secret's value. */
export function parseConfig(env: Partial<Env>): Config {
  if (!env.KEYS)
    throw new Error('KEYS is not bound: bind a KV namespace of that name under [[kv_namespaces]] in wrangler.toml')
  const pepper = env.KEY_PEPPER ?? ''
  if (pepper.length < SECRET_CHARS_MIN) {
    throw new Error(
      `KEY_PEPPER must be a secret of at least ${SECRET_CHARS_MIN} characters: set it with "wrangler secret put KEY_PEPPER", or in .dev.vars for development`,
    )
  }
  return {
    keys: env.KEYS,
    pepper,
    router: {
      origin: parseRouterUrl(env.ROUTER_URL),
      signingKeys: parseSigningKeys(env.EDGE_SIGNING_KEYS),
      firstByteTimeoutMs: parseTimeoutMs(env, 'ROUTER_FIRST_BYTE_TIMEOUT_SECONDS', FIRST_BYTE_TIMEOUT_SECONDS_DEFAULT),
      idleTimeoutMs: parseTimeoutMs(env, 'ROUTER_IDLE_TIMEOUT_SECONDS', IDLE_TIMEOUT_SECONDS_DEFAULT),
    },
  }
}

const configs = new WeakMap<object, Config>()

/** The configuration of an environment, parsed at its first use. */
export function configOf(env: Env): Config {
  let config = configs.get(env)
  if (!config) {
    config = parseConfig(env)
    configs.set(env, config)
  }
  return config
}

function parseSigningKeys(text: string | undefined): KeyRing {
  const fix = 'set it with "wrangler secret put EDGE_SIGNING_KEYS", with the same value as the router\'s'
  if (!text) throw new Error(`EDGE_SIGNING_KEYS is missing: ${fix}`)
  try {
    return parseKeyRing(text)
  } catch (error) {
    throw new Error(`EDGE_SIGNING_KEYS: ${(error as Error).message}; ${fix}`)
  }
}

function parseRouterUrl(text: string | undefined): string {
  const url = URL.parse(text ?? '')
  const usable = url && /^https?:$/.test(url.protocol) && url.pathname === '/' && !url.search && !url.username
  if (!usable) {
    throw new Error(
      'ROUTER_URL must be the address of the router without a path, such as http://127.0.0.1:8000: set it under [vars] in wrangler.toml, or with "wrangler dev --var ROUTER_URL:…"',
    )
  }
  return url.origin
}

type TimeoutName = 'ROUTER_FIRST_BYTE_TIMEOUT_SECONDS' | 'ROUTER_IDLE_TIMEOUT_SECONDS'

function parseTimeoutMs(env: Partial<Env>, name: TimeoutName, defaultSeconds: number): number {
  const seconds = Number(env[name] || defaultSeconds)
  if (!(seconds > 0 && seconds <= TIMEOUT_SECONDS_MAX)) {
    throw new Error(
      `${name} must be a number of seconds over 0 and up to ${TIMEOUT_SECONDS_MAX}: set it under [vars] in wrangler.toml`,
    )
  }
  return seconds * 1000
}
