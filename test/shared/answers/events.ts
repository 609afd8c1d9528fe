// Reads what a stream of answers says, for the tests of answers.
import type { KeptAnswer } from '../../../shared/answers/answer-form.ts'
import { ANSWER_FORMS } from '../../../shared/answers/forms.ts'
import { SseSplitter } from '../../../shared/sse.ts'

export type StreamedDialect = Exclude<keyof typeof ANSWER_FORMS, 'embeddings'>

export const FRESH = { id: 'fresh', createdSeconds: 1_800_000_000 }

/** The data of each event, and the name that it was sent under. */
export function eventsOf(stream: string): { readonly data: string; readonly event: string | undefined }[] {
  const { events } = new SseSplitter(8e6).push(new TextEncoder().encode(stream))
  return events.flatMap(({ data, bytes }) => {
    const event = /^event: (.*)$/m.exec(new TextDecoder().decode(bytes))?.[1]
    return data === undefined ? [] : [{ data, event }]
  })
}

export function foldOf(dialect: StreamedDialect, data: readonly string[]): KeptAnswer | undefined {
  const fold = ANSWER_FORMS[dialect].createFold?.()
  if (!fold) throw new Error('does not stream')
  for (const one of data) fold.push(one)
  return fold.end()
}

export function foldStream(dialect: StreamedDialect, stream: string): KeptAnswer | undefined {
  return foldOf(
    dialect,
    eventsOf(stream).map(({ data }) => data),
  )
}
