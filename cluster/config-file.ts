// The configuration file: its settings and their defaults, read from YAML that may stand inside a ConfigMap. Every error
// names the line and what was expected there.
import * as v from 'valibot'
import { KEEP, TTL_SECONDS_DEFAULT, TTL_SECONDS_MAX } from '../shared/cache/policy.ts'
import { redisUrlFault } from './cache/redis-url.ts'
import { endpointIdOf } from './endpoints/endpoint.ts'
import { isEventsAddress } from './kv/sources.ts'
import { FILTERS, PICKERS, SCORERS } from './scheduling/profile.ts'
import { parseSettings } from './yaml-settings.ts'

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const

/** What the edge accepts, and room for what it adds. */
const BODY_BYTES_DEFAULT = 8 * 1024 * 1024 + 64 * 1024
const BODIES_BYTES_DEFAULT = 1024 * 1024 * 1024
const CACHE_BYTES_DEFAULT = 128 * 1024 * 1024
/** It stands in keys and in nothing else. */
const EPOCH = /^[A-Za-z0-9._-]{0,64}$/

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
const redisUrl = v.pipe(
  v.string(),
  v.check(
    (text) => redisUrlFault(text) === undefined,
    ({ input }) => redisUrlFault(input as string) ?? '',
  ),
)
const eventsAddress = v.pipe(v.string(), v.check(isEventsAddress, 'expected an address like tcp://*:5557'))

const namesOf = <T extends object>(table: T): [keyof T & string, ...(keyof T & string)[]] =>
  Object.keys(table) as [keyof T & string, ...(keyof T & string)[]]

/** Endpoints that are listed twice: the later one is where the mistake is seen. */
function refuseTwice(rows: readonly { readonly url: string }[], addIssue: v.RawCheckAddIssue<unknown>): void {
  const seen = new Set<string>()
  rows.forEach((value, key) => {
    const url = originOf(value.url)
    // Rows with another fault come here too.
    if (url === undefined) return
    const id = endpointIdOf(url)
    const path = [{ type: 'array', origin: 'value', input: [...rows], key, value }] as const
    if (seen.has(id)) addIssue({ message: `endpoint ${id} is listed twice`, path: [...path] })
    seen.add(id)
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
  kv: v.optional(
    v.strictObject({
      bind: v.optional(eventsAddress),
      cacheTtlSeconds: v.optional(v.pipe(count, v.minValue(1), v.maxValue(30 * 24 * 3_600))),
      snapshotFrom: v.optional(origin),
      port: v.optional(port),
    }),
    {},
  ),
  // Where models' tokenizers are: one for a model, or for all, and a directory that models are mounted below.
  tokenizers: v.optional(
    v.array(v.strictObject({ model: v.optional(v.string()), directory: v.pipe(v.string(), v.minLength(1)) })),
    [],
  ),
  modelsDirectory: v.optional(v.pipe(v.string(), v.minLength(1))),
  loadMonitor: v.optional(origin),
  picker: v.optional(v.picklist(namesOf(PICKERS))),
  cache: v.optional(
    v.strictObject({
      enabled: v.optional(v.boolean()),
      keep: v.optional(v.picklist(KEEP), 'deterministic'),
      toolCalls: v.optional(v.boolean(), false),
      ttlSeconds: v.optional(v.pipe(count, v.minValue(1), v.maxValue(TTL_SECONDS_MAX)), TTL_SECONDS_DEFAULT),
      memoryBytes: v.optional(count, CACHE_BYTES_DEFAULT),
      redis: v.optional(redisUrl),
      epoch: v.optional(v.pipe(v.string(), v.regex(EPOCH, 'expected up to 64 letters, digits, ".", "_" and "-"')), ''),
    }),
    {},
  ),
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
export type ConfigFile = v.InferOutput<typeof ConfigFile>

/**
 * Parses the text of a configuration file, or of a ConfigMap that holds one under `data: config.yaml`; `file` only names
 * it in errors. Throws UserError.
 */
export function parseConfigText(text: string, file: string): ConfigFile {
  return parseSettings(ConfigFile, text, file, CONFIG_MAP_KEY).settings
}

/** As the guide's ConfigMap names it. */
const CONFIG_MAP_KEY = 'config.yaml'

/** Undefined for anything but scheme and authority. */
export function originOf(text: string): URL | undefined {
  if (!URL.canParse(text)) return undefined
  const url = new URL(text)
  const bare = url.pathname === '/' && url.search === '' && url.hash === '' && url.username === ''
  return bare && (url.protocol === 'http:' || url.protocol === 'https:') ? url : undefined
}
