// One engine, asked over HTTP and listened to over ZMQ, as the KV doctor needs it. Every question has its time.
import { setTimeout as delay } from 'node:timers/promises'
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { BlocksStored, KvBatch } from '../kv/kv-event.ts'
import { createKvIndex } from '../kv/kv-index.ts'
import type { EventSource } from '../kv/sources.ts'
import { type StreamState, subscribe } from '../kv/subscription.ts'

const ASK_TIMEOUT_MS = 30_000
const LIVE_WITHIN_MS = 5_000
const EVENT_WITHIN_MS = 5_000
const LOOK_EVERY_MS = 20
const ANSWER_CHARS_MAX = 4 * 1024 * 1024

// biome-ignore lint/suspicious/noExplicitAny: an engine's answer is looked into member by member.
type Any = any

export type Answer = { readonly status: number; readonly json: Any; readonly text: string }

export type Engine = {
  readonly host: string
  /** Status 0 when there was no answer; then `text` says why. */
  readonly ask: (path: string, body?: object) => Promise<Answer>
}

export function createEngine(origin: string, apiKey: string | undefined): Engine {
  const headers = { 'content-type': 'application/json', ...(apiKey && { authorization: `Bearer ${apiKey}` }) }
  return {
    host: new URL(origin).hostname,
    async ask(path, body) {
      try {
        const answer = await fetch(origin + path, {
          method: body === undefined ? 'GET' : 'POST',
          headers,
          signal: AbortSignal.timeout(ASK_TIMEOUT_MS),
          ...(body !== undefined && { body: JSON.stringify(body) }),
        })
        const text = (await answer.text()).slice(0, ANSWER_CHARS_MAX)
        return { status: answer.status, json: parsed(text), text }
      } catch (error) {
        const { message, cause } = error as Error & { readonly cause?: { readonly code?: string } }
        return { status: 0, json: undefined, text: cause?.code ?? message }
      }
    },
  }
}

function parsed(text: string): Any {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** One publisher, listened to from its first replayed batch on. */
export type Listener = {
  readonly state: () => StreamState
  readonly faults: () => readonly string[]
  /** Resolves when it stands, or did not get to in its time. */
  readonly live: () => Promise<boolean>
  /** Blocks that were stored for a prompt with this beginning; undefined when none came in time. */
  readonly storedFor: (tokenIds: readonly number[]) => Promise<BlocksStored | undefined>
  /** What the index, fed by these events alone, says that the engine has cached. */
  readonly predicted: (tokenIds: readonly number[], cacheSalt?: string) => number
  readonly close: () => Promise<void>
}

const ENDPOINT = 'engine' as EndpointId
const MODEL = 'model'
const FAULTS_KEPT = 5

export function listenTo({ rank, events, replay }: EventSource): Listener {
  const index = createKvIndex()
  const source = index.open({ endpoint: ENDPOINT, rank, model: MODEL })
  const stored: BlocksStored[] = []
  const faults: string[] = []
  let state: StreamState = { state: 'connecting', complete: false }
  const subscription = subscribe({
    events,
    replay,
    onBatch(batch: KvBatch) {
      source.apply(batch)
      for (const event of batch.events) {
        // Parts of a message's buffer: what is kept is copied.
        if (event.type === 'stored') stored.push({ ...event, tokenIds: event.tokenIds.slice(0, PROBE_TOKENS_MAX) })
      }
    },
    onClear: () => source.clear(),
    onState(next) {
      state = next
    },
    onFault: (message) => void (faults.length < FAULTS_KEPT && faults.push(message)),
  })
  return {
    state: () => state,
    faults: () => faults,
    live: () => within(LIVE_WITHIN_MS, () => state.state === 'live' || undefined).then((live) => live === true),
    storedFor: (tokenIds) => within(EVENT_WITHIN_MS, () => stored.findLast((event) => begins(tokenIds, event))),
    predicted(tokenIds, cacheSalt) {
      const query = { tokenIds: Uint32Array.from(tokenIds), model: MODEL, lora: undefined, cacheSalt }
      return index.match(query)[0]?.matchedTokens ?? 0
    },
    close: subscription.close,
  }
}

export const PROBE_TOKENS_MAX = 4_096

function begins(tokenIds: readonly number[], { tokenIds: stored, parent }: BlocksStored): boolean {
  if (parent !== undefined || stored.length === 0) return false
  const compared = Math.min(stored.length, tokenIds.length)
  for (let at = 0; at < compared; at++) if (stored[at] !== tokenIds[at]) return false
  return true
}

async function within<Found>(ms: number, look: () => Found | undefined): Promise<Found | undefined> {
  const deadlineMs = performance.now() + ms
  for (;;) {
    const found = look()
    if (found !== undefined || performance.now() > deadlineMs) return found
    await delay(LOOK_EVERY_MS)
  }
}
