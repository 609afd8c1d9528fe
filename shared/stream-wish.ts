// What a body says of streaming, in one reading: engines take 1, "on" and "true" for true as well, and a door that
// looked for the word alone would let such a stream pass without asking for its usage.
import { canonicaliseBody, serialiseBody } from './canonical-body.ts'
import type { Rejection } from './rejection.ts'

export type StreamWish = {
  readonly ok: true
  readonly stream: boolean
  /** Whether the caller wants to be told the usage of its stream. */
  readonly asksUsage: boolean
  /** The value of `stream_options` that asks for it and keeps the caller's other options, as JSON text. */
  readonly optionsAskingUsage: string
}
const ASKING = '{"include_usage":true}'
const STREAM: StreamWish = { ok: true, stream: true, asksUsage: false, optionsAskingUsage: ASKING }
const NO_STREAM: StreamWish = { ok: true, stream: false, asksUsage: false, optionsAskingUsage: ASKING }

export type RefusedWish = { readonly ok: false; readonly rejection: Rejection }

/**
 * Reads the members `stream` and `stream_options` from the JSON texts of their values. Null is as good as absent; what
 * is otherwise no boolean, or no object, is refused by its name.
 */
export function readStreamWish(stream = 'null', streamOptions = 'null'): StreamWish | RefusedWish {
  if (!isBoolean(stream)) return refuse('stream must be true or false', 'stream')
  if (streamOptions === 'null') return stream === 'true' ? STREAM : NO_STREAM
  if (!streamOptions.startsWith('{')) return refuse('stream_options must be an object', 'stream_options')
  // Refuses duplicates, of which parsers read different ones.
  const options = canonicaliseBody(streamOptions)
  if (!options.ok) return refuse(`stream_options: ${options.rejection.message}`, 'stream_options')
  const { members } = options
  const asked = members.get('include_usage') ?? 'null'
  if (!isBoolean(asked)) {
    return refuse('stream_options.include_usage must be true or false', 'stream_options.include_usage')
  }
  return {
    ok: true,
    stream: stream === 'true',
    asksUsage: asked === 'true',
    optionsAskingUsage: serialiseBody(new Map([...members, ['include_usage', 'true']])),
  }
}

function isBoolean(json: string): boolean {
  return json === 'true' || json === 'false' || json === 'null'
}

function refuse(message: string, param: string): RefusedWish {
  return { ok: false, rejection: { reason: 'invalid-body', message, param } }
}
