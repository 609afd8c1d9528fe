// The command that shows what happens in the pods' KV caches, as it happens.
import type { CacheEvent } from './kv/event-feed.ts'
import { UserError } from './user-error.ts'

const EVENT_BYTES_MAX = 64 * 1024 * 1024

export type EventsOptions = {
  /** Of a router's admin door, or of a KV-Cache Manager. */
  readonly url: string
  readonly endpoints: readonly string[]
  readonly types: readonly string[]
  /** As they came, a line of JSON each. */
  readonly json: boolean
  readonly print: (line: string) => void
  readonly signal: AbortSignal
}

/** Resolves when the signal is given or the other side ends. Throws UserError when it cannot be watched. */
export async function watchEvents({ url, endpoints, types, json, print, signal }: EventsOptions): Promise<void> {
  const from = new URL('/events', url)
  for (const endpoint of endpoints) from.searchParams.append('endpoint', endpoint)
  for (const type of types) from.searchParams.append('type', type)
  let answer: Response
  try {
    answer = await fetch(from, { signal })
  } catch {
    if (signal.aborted) return
    throw new UserError(
      `nobody answers at ${url}: start a router or a kv-manager, or name its admin door (or port 8080) with --admin URL`,
    )
  }
  if (!answer.ok || !answer.body)
    throw new UserError(`${from} answers ${answer.status}: ${(await answer.text()).trim()}`)
  let text = ''
  try {
    for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
      text += chunk
      if (text.length > EVENT_BYTES_MAX) throw new UserError('an event has no end')
      const events = text.split('\n\n')
      text = events.pop() ?? ''
      for (const event of events) {
        const line = lineOf(event, json)
        if (line !== undefined) print(line)
      }
    }
  } catch (error) {
    if (!signal.aborted) throw error
  }
}

/** Undefined for what is no event: a comment that keeps the connection open. */
function lineOf(event: string, json: boolean): string | undefined {
  const name = /^event: (.*)$/m.exec(event)?.[1]
  const data = /^data: (.*)$/m.exec(event)?.[1]
  if (name === undefined || data === undefined) return undefined
  if (json) return data
  return name === 'lagged'
    ? `… ${JSON.parse(data).missed} events were missed here`
    : inWords(JSON.parse(data) as CacheEvent)
}

const TYPE_WIDTH = 11
const IDS_SHOWN = 3

function inWords(event: CacheEvent): string {
  const {
    event_type: type,
    timestamp,
    endpoint,
    rank,
    medium,
    block_ids: ids,
    tokens,
    prompt_hash: hash,
    seq_num: seq,
  } = event
  const time = new Date(timestamp * 1_000).toISOString().slice(11, 23)
  const where = rank === 0 ? endpoint : `${endpoint} rank ${rank}`
  if (ids.length === 0) return `${time}  ${type.padEnd(TYPE_WIDTH)} ${where}  everything`
  const shown = ids.slice(0, IDS_SHOWN).join(' ') + (ids.length > IDS_SHOWN ? ' …' : '')
  const size = tokens > 0 ? `, ${tokens} tokens` : ''
  const blocks = `${ids.length} block${ids.length === 1 ? '' : 's'}`
  return `${time}  ${type.padEnd(TYPE_WIDTH)} ${where}  ${blocks}${size}, ${medium}, batch ${seq}, prompt ${hash ?? 'not known'}: ${shown}`
}
