// The events of streamed background responses, kept so that a reader can begin at any of them and go on to the end.

export type KeptEvent = {
  /** As it is sent. */
  readonly text: string
  /** Whether the response is complete with it. */
  readonly isLast: boolean
}

/** Of all logs of a pod; vLLM keeps every event until it runs out of memory. Room for the events of 50,000 tokens. */
export const EVENTS_BYTES_MAX = 32 * 1024 * 1024
/** Of memory beside its text: an event's object, its entry, the head of its string. */
const EVENT_OVERHEAD_BYTES = 192

/** The events of one response. Read it here; it is filled through the EventLogs that opened it. */
export class EventLog {
  // By number; those from #oldest to #next - 1 are kept.
  readonly #events = new Map<number, KeptEvent>()
  readonly #listeners = new Set<() => void>()
  #oldest = 0
  #next = 0
  #isForgotten = false

  /** How many events there were so far, kept or not. */
  get length(): number {
    return this.#next
  }

  get kept(): number {
    return this.#events.size
  }

  /** No event of it can be had any more, not even those to come. */
  get isForgotten(): boolean {
    return this.#isForgotten
  }

  /** By number, a negative one from the end; undefined where there is none, or none any more. */
  at(index: number): KeptEvent | undefined {
    return this.#events.get(index < 0 ? this.#next + index : index)
  }

  /** Calls at each event to come, and when the log is forgotten. Gives what ends that. */
  listen(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Gives the bytes that it came to hold. */
  append(event: KeptEvent): number {
    this.#events.set(this.#next++, event)
    for (const listener of this.#listeners) listener()
    return bytesOf(event)
  }

  /** Gives the bytes that it holds no more. */
  dropOldest(): number {
    const event = this.#events.get(this.#oldest)
    this.#events.delete(this.#oldest++)
    return event ? bytesOf(event) : 0
  }

  /** Gives the bytes that it holds no more. */
  forget(): number {
    let bytes = 0
    while (this.kept > 0) bytes += this.dropOldest()
    this.#isForgotten = true
    for (const listener of this.#listeners) listener()
    return bytes
  }
}

export type EventLogs = {
  /** An empty log; one of the same id before it is forgotten. */
  readonly open: (id: string) => EventLog
  readonly append: (log: EventLog, event: KeptEvent) => void
  readonly of: (id: string) => EventLog | undefined
  /** Drops the events of an id, and lets its readers go. */
  readonly forget: (id: string) => void
  /** Bytes of memory, at most. */
  readonly heldBytes: () => number
}

/** The logs of a pod: beyond EVENTS_BYTES_MAX the oldest log loses its oldest events. */
export function createEventLogs(): EventLogs {
  // Oldest first. `bytes` is the sum of what they hold: a log that was forgotten holds nothing, and stays out.
  const logs = new Map<string, EventLog>()
  let bytes = 0

  const forget = (id: string) => {
    bytes -= logs.get(id)?.forget() ?? 0
    logs.delete(id)
  }

  return {
    open: (id) => {
      forget(id)
      const log = new EventLog()
      logs.set(id, log)
      return log
    },
    append: (log, event) => {
      if (log.isForgotten) return
      // Whoever has read all before this event gets it now, however little can be kept.
      bytes += log.append(event)
      for (const oldest of logs.values()) {
        while (bytes > EVENTS_BYTES_MAX && oldest.kept > 0) bytes -= oldest.dropOldest()
        if (bytes <= EVENTS_BYTES_MAX) return
      }
    },
    of: (id) => logs.get(id),
    forget,
    heldBytes: () => bytes,
  }
}

/** JavaScript holds a character in two bytes where one of a string's needs them. */
function bytesOf({ text }: KeptEvent): number {
  return 2 * text.length + EVENT_OVERHEAD_BYTES
}
