// Where the edge keeps answers. What a store does is small enough for any of Cloudflare's to do it; the Cache API is the
// first: free, in the colo, and on this machine too.

export type ResponseStore = {
  /** The text under a key; undefined as well when the store fails or is slow. Never rejects. */
  readonly read: (key: string) => Promise<string | undefined>
  /** Keeps a text for a time. Never rejects. */
  readonly write: (key: string, text: string, ttlSeconds: number) => Promise<void>
}

/** The part of the platform's `Cache` that is used. */
export type CacheApi = {
  readonly match: (url: string) => Promise<Response | undefined>
  readonly put: (url: string, response: Response) => Promise<void>
}

const CACHE_NAME = 'warmpath-responses'
/** A look-up that takes longer is a miss: the pods may be faster. */
const READ_BUDGET_MS = 250

/**
 * The Cache API under URLs of the Worker's own zone, as Cloudflare asks. No route of the Worker answers below this path, so
 * nobody reads an entry by its URL.
 *
 * @param origin of the request at hand, such as https://api.example.com.
 */
export function cacheApiStore(origin: string, open: () => Promise<CacheApi> = openCache): ResponseStore {
  const urlOf = (key: string): string => `${origin}/__cache/v1/${key}`
  return {
    async read(key) {
      const { promise: late, resolve } = Promise.withResolvers<undefined>()
      const timer = setTimeout(() => resolve(undefined), READ_BUDGET_MS)
      const text = open()
        .then((cache) => cache.match(urlOf(key)))
        .then((found) => found?.text())
        .catch(() => undefined)
      try {
        return await Promise.race([text, late])
      } finally {
        clearTimeout(timer)
      }
    },
    async write(key, text, ttlSeconds) {
      const headers = { 'content-type': 'text/plain; charset=utf-8', 'cache-control': `public, max-age=${ttlSeconds}` }
      try {
        const cache = await open()
        await cache.put(urlOf(key), new Response(text, { headers }))
      } catch {
        // Not kept: the next request is computed, as this one was.
      }
    },
  }
}

function openCache(): Promise<CacheApi> {
  return caches.open(CACHE_NAME)
}
