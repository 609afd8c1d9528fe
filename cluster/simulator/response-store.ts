// Responses that were kept, the newest of them, so that they can be asked for, cancelled, followed, and gone on from.
import { createEventLogs, type EventLogs } from './event-log.ts'
import type { EarlierTurns } from './response-input.ts'
import type { Body } from './schema.ts'
import type { ChatMessage } from './tokenizer.ts'

export type ResponseStore = {
  readonly put: (id: string, body: Body, messages: readonly ChatMessage[]) => void
  readonly bodyOf: (id: string) => Body | undefined
  readonly turnsOf: (id: string) => EarlierTurns | undefined
  /** Of streamed background responses, while they are kept themselves. */
  readonly events: EventLogs
}

type Entry = { readonly body: Body; readonly messages: readonly ChatMessage[]; readonly size: number }

/** vLLM keeps all of them until it runs out of memory. */
const RESPONSES_MAX = 1_000
/** Of their JSON. */
const CHARACTERS_MAX = 64 * 1024 * 1024

export function createResponseStore(): ResponseStore {
  // Oldest first.
  const entries = new Map<string, Entry>()
  const events = createEventLogs()
  let size = 0

  const drop = (id: string) => {
    size -= entries.get(id)?.size ?? 0
    entries.delete(id)
  }

  return {
    put: (id, body, messages) => {
      drop(id)
      const entry = { body, messages, size: JSON.stringify([body, messages]).length }
      entries.set(id, entry)
      size += entry.size
      for (const oldest of entries.keys()) {
        if (entries.size <= RESPONSES_MAX && size <= CHARACTERS_MAX) break
        drop(oldest)
        events.forget(oldest)
      }
    },
    bodyOf: (id) => entries.get(id)?.body,
    turnsOf: (id) => {
      const entry = entries.get(id)
      return entry && { messages: entry.messages, output: entry.body.output as readonly Body[] }
    },
    events,
  }
}
