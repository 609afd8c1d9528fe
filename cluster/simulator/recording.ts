// A recording of what requests to a real engine took: a line of JSON on the engine, then one for each request.
import * as v from 'valibot'
import { createRandom } from '../../shared/random.ts'
import { UserError } from '../user-error.ts'

const count = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(1e9))
const seed = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(2 ** 32))
const milliseconds = v.pipe(v.number(), v.minValue(0), v.maxValue(1e9))

const Head = v.strictObject({
  recording: v.literal('warmpath-timings-1'),
  engine: v.string(),
  model: v.string(),
  blockSize: v.pipe(count, v.minValue(1)),
  kvCacheTokens: v.pipe(count, v.minValue(1)),
  maxModelLen: v.pipe(count, v.minValue(1)),
  maxNumSeqs: v.pipe(count, v.minValue(1)),
  maxNumBatchedTokens: v.pipe(count, v.minValue(1)),
})

const RecordedRequest = v.strictObject({
  /** Requests of one episode met each other; the engine was idle before it. */
  episode: count,
  /** What the episode was for. */
  kind: v.string(),
  /** Since the episode began. */
  sentAtMs: milliseconds,
  /** The prompt as runs of tokens: each a seed and how many tokens follow from it. Equal beginnings are cached. */
  prompt: v.pipe(v.array(v.tuple([seed, v.pipe(count, v.minValue(1))])), v.minLength(1)),
  cachedTokens: count,
  outputTokens: v.pipe(count, v.minValue(1)),
  /** Since it was sent. */
  firstTokenMs: milliseconds,
  lastTokenMs: milliseconds,
})

export type RecordingHead = v.InferOutput<typeof Head>
export type RecordedRequest = v.InferOutput<typeof RecordedRequest>
export type Recording = { readonly head: RecordingHead; readonly requests: readonly RecordedRequest[] }

/** Reads a recording; `file` names it in errors. Throws UserError that names the line. */
export function parseRecording(text: string, file: string): Recording {
  const lines = text.split('\n').filter((line) => line.trim() !== '')
  const read = <const Schema extends v.GenericSchema>(schema: Schema, index: number): v.InferOutput<Schema> => {
    let value: unknown
    try {
      value = JSON.parse(lines[index] ?? '')
    } catch {
      throw new UserError(`${file}:${index + 1}: expected a line of JSON, as \`warmpath simulator record\` writes it`)
    }
    const parsed = v.safeParse(schema, value)
    if (parsed.success) return parsed.output
    const [issue] = parsed.issues
    throw new UserError(`${file}:${index + 1}: ${v.getDotPath(issue) ?? 'the line'}: ${issue.message}`)
  }
  const head = read(Head, 0)
  const usableTokens = head.kvCacheTokens - (head.kvCacheTokens % head.blockSize)
  const requests = lines.slice(1).map((_, index) => {
    const request = read(RecordedRequest, index + 1)
    const tokens = request.prompt.reduce((sum, [, length]) => sum + length, request.outputTokens)
    if (tokens <= usableTokens) return request
    throw new UserError(
      `${file}:${index + 2}: ${tokens} tokens do not fit the KV cache of ${usableTokens}: drop the line`,
    )
  })
  if (requests.length === 0) throw new UserError(`${file}: holds no request: record for longer`)
  return { head, requests }
}

/**
 * Any vocabulary reaches so far, and what is special among them is of no matter here. Odd ids alone: the built-in
 * tokenizer of a simulated pod has none that 244 divides.
 */
const FIRST_ID = 1_001
const IDS = 10_000

/** The token ids of a prompt. */
export function promptTokenIds(prompt: RecordedRequest['prompt']): number[] {
  return prompt.flatMap(([seed, length]) => {
    const random = createRandom(seed)
    return Array.from({ length }, () => FIRST_ID + 2 * Math.floor(random() * IDS))
  })
}
