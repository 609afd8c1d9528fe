// The bindings and variables of the Worker, read once per isolate. Nothing else in the edge touches `env`.
import { type CachePolicy, KEEP, TTL_SECONDS_DEFAULT, TTL_SECONDS_MAX } from '../shared/cache/policy.ts'
import { type KeyRing, parseKeyRing, SECRET_CHARS_MIN } from '../shared/signature.ts'

export type Env = {
  readonly KEYS: KVNamespace
  readonly KEY_PEPPER: string
  readonly EDGE_SIGNING_KEYS: string
  readonly ROUTER_URL: string
  readonly ROUTER_FIRST_BYTE_TIMEOUT_SECONDS?: string
  readonly ROUTER_IDLE_TIMEOUT_SECONDS?: string
  readonly RESPONSE_CACHE?: string
  readonly RESPONSE_CACHE_TTL_SECONDS?: string
  readonly RESPONSE_CACHE_TOOL_CALLS?: string
  readonly RESPONSE_CACHE_EPOCH?: string
}

export type Config = {
  readonly keys: KVNamespace
  readonly pepper: string
  readonly router: RouterConfig
  readonly cache: CacheConfig
}

export type CacheConfig = {
  /** Undefined: the response cache is off. */
  readonly policy: CachePolicy | undefined
  readonly epoch: string
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
    cache: { policy: parseCachePolicy(env), epoch: parseEpoch(env.RESPONSE_CACHE_EPOCH ?? '') },
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

function parseCachePolicy(env: Partial<Env>): CachePolicy | undefined {
  const keep = env.RESPONSE_CACHE || 'deterministic'
  if (keep === 'off') return undefined
  const known = KEEP.find((one) => one === keep)
  if (!known) throw new Error(`RESPONSE_CACHE must be one of ${KEEP.join(', ')}, off: ${FIX_VARS}`)
  const ttlSeconds = Number(env.RESPONSE_CACHE_TTL_SECONDS || TTL_SECONDS_DEFAULT)
  if (!(Number.isInteger(ttlSeconds) && ttlSeconds >= 1 && ttlSeconds <= TTL_SECONDS_MAX)) {
    throw new Error(`RESPONSE_CACHE_TTL_SECONDS must be a whole number from 1 to ${TTL_SECONDS_MAX}: ${FIX_VARS}`)
  }
  const toolCalls = env.RESPONSE_CACHE_TOOL_CALLS || 'false'
  if (toolCalls !== 'true' && toolCalls !== 'false') {
    throw new Error(`RESPONSE_CACHE_TOOL_CALLS must be true or false: ${FIX_VARS}`)
  }
  return { keep: known, ttlSeconds, toolCalls: toolCalls === 'true' }
}

function parseEpoch(text: string): string {
  if (/^[A-Za-z0-9._-]{0,64}$/.test(text)) return text
  throw new Error(`RESPONSE_CACHE_EPOCH has up to 64 letters, digits, ".", "_" and "-": ${FIX_VARS}`)
}

const FIX_VARS = 'set it under [vars] in wrangler.toml'

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
