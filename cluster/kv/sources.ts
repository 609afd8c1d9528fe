// Where an engine publishes its KV events: read from its own answer to `GET /kv_event_sources`, or from configuration. An
// engine names the addresses that it binds, with a `*` for its host, and may not send us anywhere but to itself.

/** Data-parallel ranks of one engine that are followed. */
const RANKS_MAX = 64
/** Of what an engine wrote, this much is told in a reason. */
const QUOTED_CHARACTERS_MAX = 60
const HOST_CHARACTERS_MAX = 253

/** One publisher: one data-parallel rank of an engine. The addresses are `tcp://host:port`, ready to connect to. */
export type EventSource = { readonly rank: number; readonly events: string; readonly replay: string | undefined }

export type EventSources = {
  /** In the order of their ranks. */
  readonly sources: readonly EventSource[]
  /** Why the others were left out, one line each. */
  readonly skipped: readonly string[]
}

/**
 * The publishers that an engine names. Never throws, whatever the answer is.
 *
 * @param engineHost the host that the engine itself is reached at.
 * @param options.allowForeignHosts also follow publishers on other hosts than the engine's.
 */
export function readEventSources(
  answer: unknown,
  engineHost: string,
  options: { readonly allowForeignHosts?: boolean } = {},
): EventSources {
  const sources: EventSource[] = []
  const skipped: string[] = []
  if (!isObject(answer)) return { sources, skipped: ['the answer is no object of ranks'] }
  const keys = Object.keys(answer)
  if (keys.length > RANKS_MAX) skipped.push(`${keys.length - RANKS_MAX} of ${keys.length} ranks: too many`)
  for (const key of keys.slice(0, RANKS_MAX)) {
    const which = `rank ${quoted(key)}`
    const source = answer[key]
    if (!/^(0|[1-9]\d{0,3})$/.test(key)) skipped.push(`${which}: no number`)
    else if (!isObject(source)) skipped.push(`${which}: no object`)
    else if (source.enable_kv_cache_events === false) skipped.push(`${which}: KV events are off`)
    else if (source.publisher !== 'zmq') skipped.push(`${which}: publisher ${quoted(source.publisher)} is not zmq`)
    else {
      const dial = (member: 'endpoint' | 'replay_endpoint') => {
        const address = addressToDial(source[member], engineHost, options.allowForeignHosts === true)
        if (!address.ok) skipped.push(`${which}: ${member} ${address.because}`)
        return address.ok ? address.address : undefined
      }
      const events = dial('endpoint')
      if (events === undefined) continue
      const replay = source.replay_endpoint == null ? undefined : dial('replay_endpoint')
      sources.push({ rank: Number(key), events, replay })
    }
  }
  return { sources: sources.sort((a, b) => a.rank - b.rank), skipped }
}

/**
 * The publisher that an operator configured for an engine: `*` and the like stand for the engine's host, any other host
 * is taken at its word. An address that cannot be read is left as it is, for the connection to complain of.
 */
export function sourceOfConfiguration(events: string, replay: string | undefined, engineHost: string): EventSource {
  const dial = (configured: string) => {
    const address = addressToDial(configured, engineHost, true)
    return address.ok ? address.address : configured
  }
  return { rank: 0, events: dial(events), replay: replay === undefined ? undefined : dial(replay) }
}

/** Whether it can be read as a publisher's address, bound or to dial. */
export function isEventsAddress(text: string): boolean {
  return addressToDial(text, 'localhost', true).ok
}

type Address = { readonly ok: true; readonly address: string } | { readonly ok: false; readonly because: string }

/** What to connect to for an address that a publisher binds. */
function addressToDial(bound: unknown, engineHost: string, allowForeignHosts: boolean): Address {
  const because = (reason: string): Address => ({ ok: false, because: `${quoted(bound)} ${reason}` })
  if (typeof bound !== 'string' || !bound.startsWith('tcp://')) return because('is no tcp:// address')
  const colon = bound.lastIndexOf(':')
  const port = bound.slice(colon + 1)
  const host = withoutBrackets(bound.slice('tcp://'.length, colon))
  if (!/^\d{1,5}$/.test(port) || Number(port) === 0 || Number(port) > 65_535) return because('has no port')
  const own = withoutBrackets(engineHost)
  if (isWildcard(host)) return { ok: true, address: `tcp://${inAddress(own)}:${Number(port)}` }
  if (host.length > HOST_CHARACTERS_MAX || !/^([a-z0-9._-]+|[0-9a-f:.]+)$/i.test(host)) return because('has no host')
  if (!allowForeignHosts && !isSameHost(host, own)) return because('is on another host than the engine')
  return { ok: true, address: `tcp://${inAddress(host)}:${Number(port)}` }
}

function isWildcard(host: string): boolean {
  return host === '*' || host === '0.0.0.0' || canonical(host) === '[::]'
}

function isSameHost(host: string, own: string): boolean {
  return canonical(host) === canonical(own) || (isLoopback(host) && isLoopback(own))
}

function isLoopback(host: string): boolean {
  const name = canonical(host)
  return name === 'localhost' || name === '[::1]' || /^127(\.\d{1,3}){3}$/.test(name)
}

/** One spelling for each name and address: lower case, the shortest form of IPv6. */
function canonical(host: string): string {
  const url = `http://${inAddress(host)}`
  return URL.canParse(url) ? new URL(url).hostname : host.toLowerCase()
}

function withoutBrackets(host: string): string {
  return host.startsWith('[') && host.endsWith(']') ? host.slice(1, -1) : host
}

function inAddress(host: string): string {
  return host.includes(':') ? `[${host}]` : host
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function quoted(value: unknown): string {
  if (typeof value !== 'string') return typeof value === 'object' ? (value === null ? 'null' : 'object') : String(value)
  const text = value.length > QUOTED_CHARACTERS_MAX ? `${value.slice(0, QUOTED_CHARACTERS_MAX)}…` : value
  return JSON.stringify(text)
}
