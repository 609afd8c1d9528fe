// The rows of one request each: what a real vLLM 0.32 was asked and what it said stands in the recordings; here stands what
// is particular about comparing it.
import { readFileSync } from 'node:fs'
import type { Asked, Exchange } from './exchange.ts'
import type { Kind } from './pods.ts'

const FILES: readonly (readonly [file: string, kind: Kind])[] = [
  ['http-surface.json', 'plain'],
  ['tool-calls.json', 'plain'],
  ['messages.json', 'plain'],
  ['embeddings.json', 'pooling'],
]

export type ExchangeRow = Exchange & {
  readonly kind: Kind
  /** How a real one has to be asked, so that what its model says comes to the same end whatever it says. */
  readonly forLive: Asked
  /**
   * How many events of one shape follow each other: as many; as it comes; or the last ones only, where the recorded
   * stream was read so slowly that vLLM put its tokens together.
   */
  readonly events: 'each' | 'runs' | 'last'
  /** The model stopped or was cut where its own words made it so: the end of the stream is not compared. */
  readonly isCutByWords: boolean
  /** vLLM tries several kinds of request for one route or member, and tells what each of them finds. */
  readonly isOfUnion: boolean
}

/** Every row, in the order in which they were recorded. */
export function exchangeRows(kind: Kind): readonly ExchangeRow[] {
  return FILES.filter(([, its]) => its === kind).flatMap(([file]) =>
    recorded(file).map((exchange) => ({
      ...exchange,
      name: `${file.replace('.json', '')}: ${exchange.name}`,
      kind,
      forLive: forLive(exchange),
      events: eventsOf(file, exchange.request.path),
      isCutByWords: /cut_later/.test(exchange.name),
      isOfUnion: file === 'embeddings.json' || file === 'tool-calls.json',
    })),
  )
}

function recorded(file: string): readonly Exchange[] {
  return JSON.parse(readFileSync(new URL(`../../fixtures/vllm/${file}`, import.meta.url), 'utf8'))
}

function eventsOf(file: string, path: string): ExchangeRow['events'] {
  if (path === '/v1/completions') return 'last'
  return file === 'http-surface.json' && path === '/v1/chat/completions' ? 'each' : 'runs'
}

/** In a call that is not cut a model with random weights may write blanks for ever, unless chance is given its due. */
const TO_THE_END = { temperature: 2 }
const ENOUGH_TOKENS = 4_000
/** As many tokens as bring the simulator's words to where the real model's were cut. */
const CUT_AFTER_TOKENS = { real: 15, builtIn: 20 } as const

function forLive({ name, request }: Exchange): Asked {
  const body = request.body as object | undefined
  if (/tools?_(named|required|any)(_stream)?$/.test(name)) {
    return { ...request, body: { ...body, ...TO_THE_END, [limitOf(request)]: ENOUGH_TOKENS } }
  }
  return name.startsWith('message_stop_sequence') ? withOurStop(request) : request
}

function limitOf({ path }: Asked): string {
  return path.endsWith('responses') ? 'max_output_tokens' : 'max_tokens'
}

/** The stop string is one that the recorded model was about to say: in its place, one that stands in any words. */
function withOurStop(request: Asked): Asked {
  return { ...request, body: JSON.parse(JSON.stringify(request.body).replace('["=[\\""]', '["e"]')) }
}

/** An id that the real model's vocabulary has not, and the largest one, which the built-in vocabulary has not. */
export const UNKNOWN_IDS = { real: '999999999', builtIn: '4294967295' } as const

/** How a simulator has to be asked for the same: it says other words, and may have another vocabulary. */
export function forSimulator({ name, request }: ExchangeRow, vocabulary: keyof typeof CUT_AFTER_TOKENS): Asked {
  if (request.body === undefined) return request
  const asked = withOurStop(request)
  const text = JSON.stringify(asked.body)
  const body = JSON.parse(
    vocabulary === 'real' ? text : text.replace(`[${UNKNOWN_IDS.real}]`, `[${UNKNOWN_IDS.builtIn}]`),
  )
  if (!name.includes('cut_later')) return { ...asked, body }
  return { ...asked, body: { ...body, [limitOf(request)]: CUT_AFTER_TOKENS[vocabulary] } }
}
