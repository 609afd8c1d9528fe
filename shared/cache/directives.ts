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

/** A header that is longer says nothing: its directives are a few words. */
const HEADER_CHARS_MAX = 1024
const SECONDS = /^"?(\d{1,9})"?$/

/** Reads a request's Cache-Control header. What it does not know, or cannot read, it passes over. */
export function readDirectives(header: string | null | undefined): CacheDirectives {
  if (!header || header.length > HEADER_CHARS_MAX) return NONE
  const given = new Map<string, string>()
  for (const part of header.split(',')) {
    const [name = '', value = ''] = part.split('=', 2)
    given.set(name.trim().toLowerCase(), value.trim())
  }
  const seconds = SECONDS.exec(given.get('max-age') ?? '')?.[1]
  return {
    noStore: given.has('no-store'),
    noCache: given.has('no-cache'),
    maxAgeSeconds: seconds === undefined ? undefined : Number(seconds),
    onlyIfCached: given.has('only-if-cached'),
  }
}
