// What a caller says of caches in its request, in HTTP's own words (RFC 9111, section 5.2.1).

export type CacheDirectives = {
  /** Neither answer from a store nor keep the answer. */
  readonly noStore: boolean
  /** Do not answer from a store; the new answer replaces the old one. */
  readonly noCache: boolean
  /** Answers no older than this are welcome, and so is keeping this one. */
  readonly maxAgeSeconds: number | undefined
  /** Answer from a store or not at all. */
  readonly onlyIfCached: boolean
}

const NONE: CacheDirectives = { noStore: false, noCache: false, maxAgeSeconds: undefined, onlyIfCached: false }

/** A longer header is not read: it may say no-store, and counts as if it did. */
const HEADER_CHARS_MAX = 1024
const SECONDS = /^"?(\d+)"?$/
/** What a larger number counts as (RFC 9111, section 1.2.2). */
const SECONDS_MAX = 2 ** 31

/** Reads a request's Cache-Control header. What it does not know, or cannot read, it passes over. */
export function readDirectives(header: string | null | undefined): CacheDirectives {
  if (!header) return NONE
  if (header.length > HEADER_CHARS_MAX) return { ...NONE, noStore: true }
  const given = new Map<string, string>()
  for (const part of header.split(',')) {
    const [name = '', value = ''] = part.split('=', 2)
    given.set(name.trim().toLowerCase(), value.trim())
  }
  const seconds = SECONDS.exec(given.get('max-age') ?? '')?.[1]
  return {
    noStore: given.has('no-store'),
    noCache: given.has('no-cache'),
    maxAgeSeconds: seconds === undefined ? undefined : Math.min(Number(seconds), SECONDS_MAX),
    onlyIfCached: given.has('only-if-cached'),
  }
}
