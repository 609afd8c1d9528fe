// The router's configuration: what the file says, then what environment and flags say above it, as one frozen value.
import { readFileSync } from 'node:fs'
import type { CachePolicy } from '../shared/cache/policy.ts'
import { type KeyRing, parseKeyRing } from '../shared/signature.ts'
import { redisUrlFault } from './cache/redis-url.ts'
import { type ConfigFile, originOf, parseConfigText } from './config-file.ts'
import { type Endpoint, endpointIdOf, type Role } from './endpoints/endpoint.ts'
import type { KvConfig } from './epp/prompt-knowledge.ts'
import { CACHE_TTL_SECONDS_DEFAULT } from './kv/caches.ts'
import { isEventsAddress } from './kv/sources.ts'
import type { FilterName, PickerName, ProfileConfig, ScorerName } from './scheduling/profile.ts'
import type { TokenizerDirectories } from './tokens/find-directory.ts'
import { UserError } from './user-error.ts'

export const ADMIN_PORT_DEFAULT = 8081

export type RouterConfig = {
  readonly host: string
  readonly port: number
  readonly admin: { readonly host: string; readonly port: number }
  readonly logLevel: string
  readonly edgeKeys: KeyRing | undefined
  readonly allowUnsigned: boolean
  readonly endpoints: readonly Endpoint[]
  readonly profiles: ProfileConfigs
  /** A KV-Cache Manager that is asked what pods hold; the index in this process stands in while it does not answer. */
  readonly kvManager: string | undefined
  /** A load monitor that is asked for the pods' load; the router scrapes them itself while it does not answer. */
  readonly loadMonitor: string | undefined
  readonly kv: KvConfig & {
    /** Where `/score`, `/events` and `/snapshot` are served besides the admin door. */
    readonly scorePort: number | undefined
  }
  /** Where models' tokenizers are; without any, engines are asked for token ids. */
  readonly tokenizers: TokenizerDirectories
  readonly seed: number | undefined
  /** The response cache; undefined when it is off. */
  readonly cache: (CachePolicy & CacheTiers) | undefined
  readonly limits: {
    readonly inFlight: number
    readonly waiting: number
    readonly waitMs: number
    readonly bodyBytes: number
    /** Of all requests together that are being read or answered. */
    readonly bodiesBytes: number
  }
  readonly timeouts: {
    /** For a caller to send its head; twice that for head and body. */
    readonly headerMs: number
    readonly firstByteMs: number
    readonly idleMs: number
    readonly totalMs: number
    /** After SIGTERM: not ready any more, but still serving, until those who send to us have noticed. */
    readonly drainNoticeMs: number
    /** For requests in flight after that. */
    readonly drainMs: number
    /** For a prompt's token ids; a request whose ids come later is placed without them. */
    readonly tokenizeMs: number
  }
}

type CacheTiers = {
  readonly memoryBytes: number
  /** URL of the Redis that routers share; undefined: each has its memory alone. */
  readonly redis: string | undefined
  readonly epoch: string
}

/** What flags and environment may say; it stands above the file. */
export type RouterOverrides = {
  readonly host?: string | undefined
  readonly port?: number | undefined
  readonly adminHost?: string | undefined
  readonly adminPort?: number | undefined
  readonly logLevel?: string | undefined
  readonly edgeKeys?: string | undefined
  readonly allowUnsigned?: boolean | undefined
  readonly endpoints?: readonly string[] | undefined
  readonly kvManager?: string | undefined
  readonly loadMonitor?: string | undefined
  /** `DIRECTORY` or `MODEL=DIRECTORY`. */
  readonly tokenizers?: readonly string[] | undefined
  readonly modelsDirectory?: string | undefined
  readonly kvBind?: string | undefined
  /** `CACHE_TTL_SECONDS`, as it was written. */
  readonly cacheTtlSeconds?: string | undefined
  readonly snapshotFrom?: string | undefined
  readonly scorePort?: number | undefined
  /** Pods may dial instead. */
  readonly mayLackEndpoints?: boolean
  readonly seed?: number | undefined
  /** `CACHE_ENABLED`, as it was written. */
  readonly cacheEnabled?: string | undefined
  readonly redis?: string | undefined
  /** The pod's own address: listened on where no host is given. */
  readonly podIp?: string | undefined
}

export type ProfileConfigs = {
  readonly decode: ProfileConfig
  /** Set when the configuration has filters for prefill endpoints. */
  readonly prefill: ProfileConfig | undefined
}

/** Cache 50 %, load 30 %, latency 20 %. */
const DEFAULT_PROFILE: ProfileConfig = {
  filters: [{ name: 'decode' }],
  scorers: [
    { name: 'cache-scorer', weight: 0.5 },
    { name: 'load-scorer', weight: 0.3 },
    { name: 'latency-scorer', weight: 0.2 },
  ],
  picker: 'max-score',
}

/** The label by which llm-d tells prefill pods from decode pods. */
const ROLE_LABEL = 'llm-d.ai/role'

/**
 * Reads the file, if one is named, and settles what flags and environment leave open. Throws UserError.
 *
 * @param text of the file, where it has been read already.
 */
export function loadRouterConfig(
  file: string | undefined,
  over: RouterOverrides,
  text = file === undefined ? '' : readConfigFile(file),
): RouterConfig {
  return settle(parseConfigText(text, file ?? ''), over)
}

function readConfigFile(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw new UserError(`cannot read the configuration ${file}: ${(error as NodeJS.ErrnoException).code}`)
  }
}

function settle(file: ConfigFile, over: RouterOverrides): RouterConfig {
  const host = over.host ?? file.host ?? over.podIp ?? '127.0.0.1'
  // An unset variable often arrives as an empty one: it must not switch the file's keys off.
  const keysText = over.edgeKeys || file.edgeKeys
  const edgeKeys = keysText ? readKeys(keysText) : undefined
  const allowUnsigned = over.allowUnsigned ?? file.allowUnsigned ?? false
  if (!edgeKeys && !allowUnsigned && !isLoopback(host)) {
    throw new UserError(
      `the router would take requests from anybody on ${host}: set EDGE_SIGNING_KEYS (the edge's id:secret), or say --allow-unsigned`,
    )
  }
  const rows = over.endpoints?.length ? over.endpoints.map((url) => ({ url })) : (file.endpoints ?? [])
  const config: RouterConfig = {
    host,
    port: over.port ?? file.port ?? 8000,
    admin: {
      host: over.adminHost ?? file.admin?.host ?? '127.0.0.1',
      port: over.adminPort ?? file.admin?.port ?? ADMIN_PORT_DEFAULT,
    },
    logLevel: over.logLevel ?? file.logLevel ?? 'info',
    edgeKeys,
    allowUnsigned,
    endpoints: rows.map(toEndpoint),
    profiles: profilesOf(file),
    kvManager: serviceOf('--kv-manager', over.kvManager) ?? file.kvManager ?? endpointOfScorer(file),
    loadMonitor: serviceOf('--load-monitor', over.loadMonitor) ?? file.loadMonitor,
    kv: kvOf(file, over),
    tokenizers: {
      named: over.tokenizers?.length ? over.tokenizers.map(tokenizerOf) : file.tokenizers,
      modelsDirectory: over.modelsDirectory ?? file.modelsDirectory,
    },
    seed: over.seed ?? file.seed,
    cache: cacheOf(file, over),
    limits: file.limits,
    timeouts: { ...file.timeouts, drainNoticeMs: file.timeouts.drainNoticeMs ?? (isLoopback(host) ? 0 : 5_000) },
  }
  const twice = config.endpoints.find(
    ({ id }, index) => config.endpoints.findIndex((other) => other.id === id) !== index,
  )
  if (twice) throw new UserError(`endpoint ${twice.id} is listed twice`)
  if (config.endpoints.length === 0 && !over.mayLackEndpoints) {
    throw new UserError(
      'no endpoints: name the vLLM servers with --endpoint http://host:port or under endpoints: in --config',
    )
  }
  return Object.freeze(config)
}

const CACHE_TTL_SECONDS_MAX = 30 * 24 * 3_600

function kvOf({ kv }: ConfigFile, over: RouterOverrides): RouterConfig['kv'] {
  const bind = over.kvBind || kv.bind
  if (bind !== undefined && !isEventsAddress(bind)) {
    throw new UserError(`--zmq-bind (or ZMQ_BIND_ADDRESS) ${bind}: expected an address like tcp://*:5555`)
  }
  const ttl = over.cacheTtlSeconds ? Number(over.cacheTtlSeconds) : (kv.cacheTtlSeconds ?? CACHE_TTL_SECONDS_DEFAULT)
  if (!Number.isInteger(ttl) || ttl < 1 || ttl > CACHE_TTL_SECONDS_MAX) {
    throw new UserError(
      `CACHE_TTL_SECONDS=${over.cacheTtlSeconds}: expected whole seconds, up to ${CACHE_TTL_SECONDS_MAX}`,
    )
  }
  return {
    bind,
    cacheTtlSeconds: ttl,
    snapshotFrom: serviceOf('--snapshot-from', over.snapshotFrom) ?? kv.snapshotFrom,
    scorePort: over.scorePort ?? kv.port,
  }
}

function cacheOf({ cache }: ConfigFile, { cacheEnabled, redis: given }: RouterOverrides): RouterConfig['cache'] {
  const { enabled, ...rest } = cache
  if (!(readSwitch('CACHE_ENABLED', cacheEnabled) ?? enabled ?? true)) return undefined
  const fault = given ? redisUrlFault(given) : undefined
  if (fault !== undefined) throw new UserError(`--redis (or REDIS_URL): ${fault}`)
  return { ...rest, redis: given || cache.redis }
}

/** A variable that is on or off; an empty one is an unset one. */
function readSwitch(name: string, text: string | undefined): boolean | undefined {
  if (!text) return undefined
  const word = text.toLowerCase()
  if (word === 'true' || word === '1') return true
  if (word === 'false' || word === '0') return false
  throw new UserError(`${name}=${text}: expected true or false`)
}

/**
 * Filters for prefill endpoints are the prefill profile; decode has the same scorers behind a `decode` filter instead.
 */
function profilesOf(file: ConfigFile): ProfileConfigs {
  const enabled = (row: { readonly enabled?: boolean | undefined }): boolean => row.enabled !== false
  const filters = file.filters?.filter(enabled).map(({ name, labels }) => ({ name: name as FilterName, labels }))
  const scorers = file.scorers?.filter(enabled).map(({ name, weight }) => ({ name: name as ScorerName, weight }))
  const shared = {
    scorers: scorers ?? DEFAULT_PROFILE.scorers,
    picker: (file.picker as PickerName | undefined) ?? DEFAULT_PROFILE.picker,
  }
  if (!filters) return { decode: { ...shared, filters: DEFAULT_PROFILE.filters }, prefill: undefined }
  if (!filters.some(isForPrefill)) return { decode: { ...shared, filters }, prefill: undefined }
  const others = filters.filter((row) => !isForPrefill(row) && row.name !== 'decode')
  return {
    decode: { ...shared, filters: [{ name: 'decode' }, ...others] },
    prefill: { ...shared, filters: filters.filter((row) => row.name !== 'decode') },
  }
}

function isForPrefill({ name, labels }: ProfileConfig['filters'][number]): boolean {
  return name === 'prefill' || (name === 'by-label' && labels?.[ROLE_LABEL] === 'prefill')
}

function endpointOfScorer(file: ConfigFile): string | undefined {
  return file.scorers?.find(({ name, enabled }) => name === 'cache-scorer' && enabled !== false)?.endpoint
}

/** The URL that a flag or variable gave for a service; an empty variable is an unset one. */
function serviceOf(flag: string, text: string | undefined): string | undefined {
  if (text === undefined || text === '') return undefined
  const url = originOf(text)
  if (!url) throw new UserError(`${flag} ${text}: expected an URL like http://10.0.0.7:8080, without a path`)
  return url.origin
}

/** A directory, or a model's name, `=` and its directory. */
function tokenizerOf(text: string): TokenizerDirectories['named'][number] {
  const at = text.indexOf('=')
  const directory = text.slice(at + 1)
  if (directory === '' || at === 0) throw new UserError(`--tokenizer ${text}: expected DIRECTORY or MODEL=DIRECTORY`)
  return at === -1 ? { directory } : { model: text.slice(0, at), directory }
}

type EndpointRow = NonNullable<ConfigFile['endpoints']>[number]

function toEndpoint({ url, role, labels, apiKey, ca, events, replay }: EndpointRow): Endpoint {
  const parsed = originOf(url)
  if (!parsed) throw new UserError(`${url} is no endpoint: expected an URL like http://10.0.0.7:8000, without a path`)
  return Object.freeze({
    id: endpointIdOf(parsed),
    origin: parsed.origin,
    role: role ?? roleOfLabel(labels?.[ROLE_LABEL]) ?? 'both',
    labels: labels ?? {},
    ...(apiKey === undefined ? {} : { apiKey }),
    ...(ca === undefined ? {} : { ca: readCa(ca) }),
    ...(events === undefined ? {} : { events }),
    ...(replay === undefined ? {} : { replay }),
  })
}

function roleOfLabel(label: string | undefined): Role | undefined {
  return label === 'prefill' || label === 'decode' || label === 'both' ? label : undefined
}

/** A PEM itself, or a file that holds one. */
function readCa(ca: string): string {
  if (ca.includes('-----BEGIN')) return ca
  try {
    return readFileSync(ca, 'utf8')
  } catch (error) {
    throw new UserError(`cannot read the certificate authority ${ca}: ${(error as NodeJS.ErrnoException).code}`)
  }
}

function readKeys(text: string): KeyRing {
  try {
    return parseKeyRing(text)
  } catch (error) {
    throw new UserError(`EDGE_SIGNING_KEYS: ${(error as Error).message}`)
  }
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.')
}
