// The router's configuration: defaults, then a YAML file, then environment and flags. Read once into one frozen value;
// every error names the place and what was expected there.
import { readFileSync } from 'node:fs'
import * as v from 'valibot'
import { type Document, isNode, isScalar, LineCounter, parseDocument, visit } from 'yaml'
import { type KeyRing, parseKeyRing } from '../shared/signature.ts'
import { type Endpoint, endpointIdOf, type Role } from './endpoints/endpoint.ts'
import { isEventsAddress } from './kv/sources.ts'
import {
  FILTERS,
  type FilterName,
  PICKERS,
  type PickerName,
  type ProfileConfig,
  SCORERS,
  type ScorerName,
} from './scheduling/profile.ts'
import { UserError } from './user-error.ts'

export const ADMIN_PORT_DEFAULT = 8081
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const

/** What the edge accepts, and room for what it adds. */
const BODY_BYTES_DEFAULT = 8 * 1024 * 1024 + 64 * 1024
const BODIES_BYTES_DEFAULT = 1024 * 1024 * 1024

/** What Node's timers take; beyond it they fire at once. Half of it, because some are doubled. */
const TIMEOUT_MS_MAX = 2 ** 30

/** The sum of all is a number still. */
const WEIGHT_MAX = 1e9

const milliseconds = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(TIMEOUT_MS_MAX))
const count = v.pipe(v.number(), v.integer(), v.minValue(0))
const port = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(65_535))
const labels = v.record(v.string(), v.string())
const origin = v.pipe(
  v.string(),
  v.check((text) => originOf(text) !== undefined, 'expected an URL like http://10.0.0.7:8000, without a path'),
)
const eventsAddress = v.pipe(v.string(), v.check(isEventsAddress, 'expected an address like tcp://*:5557'))

const namesOf = <T extends object>(table: T): [keyof T & string, ...(keyof T & string)[]] =>
  Object.keys(table) as [keyof T & string, ...(keyof T & string)[]]

/** Endpoints that are listed twice: the later one is where the mistake is seen. */
function refuseTwice(rows: readonly { readonly url: string }[], addIssue: v.RawCheckAddIssue<unknown>): void {
  const ids = rows.map(({ url }) => endpointIdOf(new URL(url)))
  ids.forEach((id, key) => {
    if (ids.indexOf(id) === key) return
    const path = [{ type: 'array', origin: 'value', input: [...rows], key, value: rows[key] }] as const
    addIssue({ message: `endpoint ${id} is listed twice`, path: [...path] })
  })
}

const ConfigFile = v.strictObject({
  host: v.optional(v.string()),
  port: v.optional(port),
  admin: v.optional(v.strictObject({ host: v.optional(v.string()), port: v.optional(port) })),
  logLevel: v.optional(v.picklist(LOG_LEVELS)),
  edgeKeys: v.optional(v.string()),
  allowUnsigned: v.optional(v.boolean()),
  endpoints: v.optional(
    v.pipe(
      v.array(
        v.strictObject({
          url: origin,
          role: v.optional(v.picklist(['prefill', 'decode', 'both'])),
          labels: v.optional(labels),
          apiKey: v.optional(v.string()),
          ca: v.optional(v.string()),
          events: v.optional(eventsAddress),
          replay: v.optional(eventsAddress),
        }),
      ),
      v.rawCheck(({ dataset, addIssue }) => {
        if (dataset.typed) refuseTwice(dataset.value, addIssue)
      }),
    ),
  ),
  filters: v.optional(
    v.array(
      v.strictObject({
        name: v.picklist(namesOf(FILTERS)),
        enabled: v.optional(v.boolean()),
        labels: v.optional(labels),
      }),
    ),
  ),
  scorers: v.optional(
    v.array(
      v.strictObject({
        name: v.picklist(namesOf(SCORERS)),
        enabled: v.optional(v.boolean()),
        weight: v.pipe(v.number(), v.minValue(0), v.maxValue(WEIGHT_MAX)),
        // A KV-Cache Manager that the cache scorer asks before the index in this process.
        endpoint: v.optional(origin),
      }),
    ),
  ),
  kvManager: v.optional(origin),
  loadMonitor: v.optional(origin),
  picker: v.optional(v.picklist(namesOf(PICKERS))),
  seed: v.optional(v.pipe(v.number(), v.integer())),
  limits: v.optional(
    v.strictObject({
      inFlight: v.optional(v.pipe(count, v.minValue(1)), 4_096),
      waiting: v.optional(count, 1_024),
      waitMs: v.optional(milliseconds, 10_000),
      bodyBytes: v.optional(v.pipe(count, v.minValue(1)), BODY_BYTES_DEFAULT),
      bodiesBytes: v.optional(v.pipe(count, v.minValue(1)), BODIES_BYTES_DEFAULT),
    }),
    {},
  ),
  timeouts: v.optional(
    v.strictObject({
      headerMs: v.optional(milliseconds, 30_000),
      firstByteMs: v.optional(milliseconds, 600_000),
      idleMs: v.optional(milliseconds, 120_000),
      totalMs: v.optional(milliseconds, 3_600_000),
      drainNoticeMs: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(TIMEOUT_MS_MAX))),
      drainMs: v.optional(milliseconds, 30_000),
      tokenizeMs: v.optional(milliseconds, 1_000),
    }),
    {},
  ),
})
type ConfigFile = v.InferOutput<typeof ConfigFile>

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
  readonly seed: number | undefined
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
  readonly seed?: number | undefined
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

/**
 * Parses the text of a configuration file, or of a ConfigMap that holds one under `data: config.yaml`; `file` only names
 * it in errors. Throws UserError.
 */
export function parseConfigText(text: string, file: string): ConfigFile {
  return parseSettings(text, file, 0)
}

/** @param linesBefore of the file, above this text. */
function parseSettings(text: string, file: string, linesBefore: number): ConfigFile {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines })
  const at = (line: number | undefined): string => `${file}:${(line ?? 1) + linesBefore}`
  const lineOf = (node: unknown): number | undefined => {
    const offset = isNode(node) ? node.range?.[0] : undefined
    return offset === undefined ? undefined : lines.linePos(offset).line
  }
  const [syntaxError] = document.errors
  if (syntaxError) {
    const what = firstLine(syntaxError.message).replace(/ at line \d+, column \d+:$/, '')
    throw new UserError(`${at(syntaxError.linePos?.[0].line)}: ${what}`)
  }
  let content: unknown
  try {
    content = document.toJS() ?? {}
  } catch (error) {
    throw new UserError(`${at(lineOf(unresolvedAlias(document)))}: ${firstLine((error as Error).message)}`)
  }
  if (Array.isArray(content) || typeof content !== 'object') {
    throw new UserError(`${at(1)}: the file: expected settings by name, like \`port: 8000\``)
  }
  if (linesBefore === 0 && (content as { kind?: unknown }).kind === 'ConfigMap') {
    const inner = document.getIn(['data', CONFIG_MAP_KEY], true)
    const innerText: unknown = isScalar(inner) ? inner.value : undefined
    if (typeof innerText !== 'string') {
      throw new UserError(`${at(1)}: this ConfigMap has no \`${CONFIG_MAP_KEY}\` under data`)
    }
    // The text of a block scalar begins on the line after its `|`.
    return parseSettings(innerText, file, lineOf(inner) ?? 0)
  }
  const parsed = v.safeParse(ConfigFile, content)
  if (parsed.success) return parsed.output
  const [issue] = parsed.issues
  const path = (issue.path ?? []).map((step) => step.key as string | number)
  // An unknown key has no value to point at: the object that holds it has.
  const node = document.getIn(path, true) ?? document.getIn(path.slice(0, -1), true)
  throw new UserError(`${at(lineOf(node))}: ${pathInWords(path)}: ${expectation(issue)}`)
}

/** Parsing lets it pass: only a use of it fails. */
function unresolvedAlias(document: Document): unknown {
  let found: unknown
  visit(document, {
    Alias(_, alias) {
      if (alias.resolve(document) !== undefined) return undefined
      found = alias
      return visit.BREAK
    },
  })
  return found
}

/** As the guide's ConfigMap names it. */
const CONFIG_MAP_KEY = 'config.yaml'

function expectation(issue: v.BaseIssue<unknown>): string {
  if (issue.type === 'check' || issue.type === 'raw_check') return issue.message
  if (issue.type === 'strict_object' && issue.expected === 'never') return 'there is no such setting'
  if (issue.type === 'strict_object' && issue.received === 'undefined') return 'is missing'
  const expected = (issue.expected ?? issue.message).replaceAll(/[()"]/g, '').replaceAll(' | ', ', ')
  return `expected ${issue.type === 'picklist' ? `one of ${expected}` : expected}, got ${issue.received}`
}

function pathInWords(path: readonly (string | number)[]): string {
  if (path.length === 0) return 'the file'
  return path.map((step, depth) => (typeof step === 'number' ? `[${step}]` : depth === 0 ? step : `.${step}`)).join('')
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
    seed: over.seed ?? file.seed,
    limits: file.limits,
    timeouts: { ...file.timeouts, drainNoticeMs: file.timeouts.drainNoticeMs ?? (isLoopback(host) ? 0 : 5_000) },
  }
  const twice = config.endpoints.find(
    ({ id }, index) => config.endpoints.findIndex((other) => other.id === id) !== index,
  )
  if (twice) throw new UserError(`endpoint ${twice.id} is listed twice`)
  if (config.endpoints.length === 0) {
    throw new UserError(
      'no endpoints: name the vLLM servers with --endpoint http://host:port or under endpoints: in --config',
    )
  }
  return Object.freeze(config)
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

function originOf(text: string): URL | undefined {
  if (!URL.canParse(text)) return undefined
  const url = new URL(text)
  const bare = url.pathname === '/' && url.search === '' && url.hash === '' && url.username === ''
  return bare && (url.protocol === 'http:' || url.protocol === 'https:') ? url : undefined
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

function firstLine(text: string): string {
  return text.split('\n')[0] ?? text
}
