// What a body says of streaming, in one reading: engines take 1, "on" and "true" for true as well, and a door that
// looked for the word alone would let such a stream pass without asking for its usage.
import { canonicaliseBody, serialiseBody } from './canonical-body.ts'
import { DIALECTS, type Dialect } from './dialect.ts'
import type { Rejection } from './rejection.ts'

export type StreamWish = {
  readonly ok: true
  readonly stream: boolean
  /**
   * Where the stream tells its usage only on request and the caller does not ask: the value of `stream_options` that
   * asks, and keeps the caller's other options, as JSON text. The usage is then withheld from the caller.
   */
  readonly askUsageBy: string | undefined
}

export type RefusedWish = { readonly ok: false; readonly rejection: Rejection }

/**
 * Reads the members `stream` and `stream_options` from the JSON texts of their values. Null is as good as absent; what
 * is otherwise no boolean, or no object, is refused by its name. What means nothing in the dialect is not read.
 */
export function readStreamWish(dialect: Dialect, stream = 'null', streamOptions = 'null'): StreamWish | RefusedWish {
  const { streams, usageOnRequest } = DIALECTS[dialect]
  if (!streams) return wish(false)
  if (!isBoolean(stream)) return refuse('stream must be true or false', 'stream')
  const wanted = stream === 'true'
  if (!usageOnRequest) return wish(wanted)
  if (streamOptions === 'null') return wish(wanted, wanted ? '{"include_usage":true}' : undefined)
  if (!streamOptions.startsWith('{')) return refuse('stream_options must be an object', 'stream_options')
  // Refuses duplicates, of which parsers read different ones.
  const options = canonicaliseBody(streamOptions)
  if (!options.ok) return refuse(`stream_options: ${options.rejection.message}`, 'stream_options')
  const { members } = options
  const asked = members.get('include_usage') ?? 'null'
  if (!isBoolean(asked)) {
    return refuse('stream_options.include_usage must be true or false', 'stream_options.include_usage')
  }
  if (!wanted || asked === 'true') return wish(wanted)
  return wish(true, serialiseBody(new Map([...members, ['include_usage', 'true']])))
}

function wish(stream: boolean, askUsageBy?: string): StreamWish {
  return { ok: true, stream, askUsageBy }
}

function isBoolean(json: string): boolean {
  return json === 'true' || json === 'false' || json === 'null'
}

function refuse(message: string, param: string): RefusedWish {
  return { ok: false, rejection: { reason: 'invalid-body', message, param } }
}
