// A load monitor elsewhere scrapes for this router: one loop asks it for all pods at once and tells the set. Where it
// does not answer, or has no fresh word of a pod, `covers` says so, and the router's own monitor scrapes that pod.
import { Pool } from 'undici'
import type { EndpointId } from './endpoint.ts'
import { parseLoadReport, type ReportedScrape } from './load-report.ts'
import { readBounded } from './read-bounded.ts'
import type { EndpointSet } from './set.ts'

const BUSY_INTERVAL_MS = 200
const IDLE_INTERVAL_MS = 1_000
const TIMEOUT_MS = 2_000
/** A pod's entry has about 1 KB. */
const REPORT_BYTES_MAX = 16 * 1024 * 1024
/** Longer than an idle pod's numbers are old when they arrive, shorter than they count as fresh in the set. */
const COVERED_FOR_MS = 4_000

export type FollowDeps = {
  readonly endpoints: EndpointSet
  readonly nowMs: () => number
  /** Told of changes worth a log line; never per poll. */
  readonly onEvent: (event: FollowEvent) => void
}

export type FollowEvent =
  | { readonly type: 'load-monitor-answers'; readonly url: string }
  /** It does not answer: this router scrapes every pod itself. */
  | { readonly type: 'load-monitor-lost'; readonly url: string; readonly cause: string }
  /** It answers, without a fresh word of these: this router scrapes them itself. */
  | { readonly type: 'load-monitor-lacks'; readonly url: string; readonly endpoints: readonly EndpointId[] }

export type LoadMonitorFollower = {
  /** Whether the set hears of this endpoint from the load monitor: for `scrapedElsewhere` of startMonitor. */
  readonly covers: (id: EndpointId) => boolean
  /** Resolves when it was asked once, whatever it answered. */
  readonly firstRound: Promise<void>
  readonly stop: () => Promise<void>
}

/** Follows the load monitor at this origin, like `http://10.0.0.7:9090`. */
export function followLoadMonitor(url: string, { endpoints, nowMs, onEvent }: FollowDeps): LoadMonitorFollower {
  const pool = new Pool(url, { connections: 1, pipelining: 1, allowH2: false, connect: { timeout: TIMEOUT_MS } })
  let stopped = false
  let timer: NodeJS.Timeout | undefined
  /** Undefined before the first poll. */
  let answers: boolean | undefined
  /** When the numbers were scraped that it last had of each pod. */
  let scrapedAtMs = new Map<EndpointId, number>()
  const toldLacking = new Set<EndpointId>()

  function covers(id: EndpointId): boolean {
    return answers === true && nowMs() - (scrapedAtMs.get(id) ?? Number.NEGATIVE_INFINITY) < COVERED_FOR_MS
  }

  async function poll(): Promise<void> {
    const answer = await askLoad(pool, nowMs)
    if (stopped) return
    if (typeof answer === 'string') {
      if (answers !== false) onEvent({ type: 'load-monitor-lost', url, cause: answer })
      answers = false
      return
    }
    if (answers !== true) onEvent({ type: 'load-monitor-answers', url })
    answers = true
    scrapedAtMs = new Map()
    for (const [id, { metrics, ageMs }] of answer.scrapes) {
      if (!endpoints.has(id)) continue
      const atMs = answer.atMs - ageMs
      scrapedAtMs.set(id, atMs)
      if (covers(id)) endpoints.scraped(id, metrics, atMs)
    }
    tellLacking()
  }

  function tellLacking(): void {
    for (const id of toldLacking) if (covers(id) || !endpoints.has(id)) toldLacking.delete(id)
    const lacking = endpoints.ids().filter((id) => !covers(id) && !toldLacking.has(id))
    if (lacking.length === 0) return
    for (const id of lacking) toldLacking.add(id)
    onEvent({ type: 'load-monitor-lacks', url, endpoints: lacking })
  }

  function again(): void {
    if (stopped) return
    const busy = endpoints.ids().some((id) => endpoints.busy(id))
    timer = setTimeout(() => void poll().then(again), busy ? BUSY_INTERVAL_MS : IDLE_INTERVAL_MS)
  }

  const firstRound = poll()
  void firstRound.then(again)
  return {
    covers,
    firstRound,
    stop() {
      stopped = true
      clearTimeout(timer)
      return pool.destroy()
    },
  }
}

type LoadAnswer = { readonly scrapes: ReadonlyMap<EndpointId, ReportedScrape>; readonly atMs: number }

/** Its answer and when it came, or in words why there is none. */
async function askLoad(pool: Pool, nowMs: () => number): Promise<LoadAnswer | string> {
  try {
    const answer = await pool.request({ method: 'GET', path: '/load', signal: AbortSignal.timeout(TIMEOUT_MS) })
    // Ages count from when it wrote its answer, not from when the last byte of it came.
    const atMs = nowMs()
    const body = await readBounded(answer.body as AsyncIterable<Buffer>, REPORT_BYTES_MAX)
    if (answer.statusCode !== 200) return `its /load answers ${answer.statusCode}`
    if (!body) return `its /load has more than ${REPORT_BYTES_MAX} bytes`
    const scrapes = parseLoadReport(body)
    return scrapes ? { scrapes, atMs } : 'its /load is no load report'
  } catch (error) {
    const { name, code, message } = error as NodeJS.ErrnoException
    return name === 'TimeoutError' ? `no answer within ${TIMEOUT_MS / 1_000} s` : (code ?? message)
  }
}
