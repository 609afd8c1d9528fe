// Looks at answers from a cache: where they came from, and that they say what the engine said. Their ids and times are
// their own.
import { ANSWER_TEXT, JSON_ANSWER } from './answers.ts'
import { pause } from './figures.ts'
import { type Expected, startLoad } from './load.ts'
import type { Request } from './requests.ts'

export type Answer = { readonly head: string; readonly body: string; readonly tookUs: number }

/** Which cache is said to have answered. */
export const FROM = {
  memory: /\ncache-status: warmpath-router; hit;.* detail=memory\r?$/im,
  redis: /\ncache-status: warmpath-router; hit;.* detail=redis\r?$/im,
  edge: /\ncache-status: warmpath-edge; hit;/i,
} as const

/** Of look-ups that were too slow, so that the request was forwarded: more of them, and what is measured is no hit. */
const MISSED_SHARE_MAX = 0.01
const STORED_WITHIN_MS = 5_000
const POLL_MS = 20

export type Hits = Expected & {
  /** Looked at so far, and those among them that were forwarded after all. */
  readonly counts: () => { readonly answers: number; readonly missed: number }
}

/** One request, and its answer. Rejects unless its status is 200. */
export async function ask(port: number, request: Request): Promise<Answer> {
  let [head, body] = ['', '']
  const check = (...answer: [string, string]): undefined => {
    ;[head, body] = answer
  }
  const load = startLoad({ port, connections: 1, request, expected: { check } })
  await load.stop()
  return { head, body, tookUs: load.take().latenciesUs[0] ?? Number.NaN }
}

/**
 * Has the answer to `request` stored anew by `storing`, which reads no cache, and gives what hits must look like. Rejects
 * when it is never a hit, or says anything but `text`.
 */
export async function storeAnswer(
  port: number,
  storing: Request,
  request: Request,
  from: RegExp,
  text: string = ANSWER_TEXT,
): Promise<Hits> {
  await ask(port, storing)
  const deadlineMs = performance.now() + STORED_WITHIN_MS
  let stored = await ask(port, request)
  while (!from.test(stored.head)) {
    if (performance.now() > deadlineMs) throw new Error(`its answer is not stored:\n${stored.head}`)
    await pause(POLL_MS)
    stored = await ask(port, request)
  }
  if (textOf(stored.body) !== text) throw new Error(`a stored answer says something else:\n${stored.body}`)
  const wanted = withoutNames(stored.body)
  let answers = 0
  let missed = 0
  return {
    counts: () => ({ answers, missed }),
    check(head, body) {
      answers++
      if (from.test(head)) return withoutNames(body) === wanted ? undefined : `not what is stored:\n${body}`
      missed++
      if (textOf(body) !== text) return `not what is stored:\n${head}\n\n${body}`
      const few = 1 + answers * MISSED_SHARE_MAX
      return missed > few ? `${missed} of ${answers} answers are no hits:\n${head}` : undefined
    },
  }
}

/** The engine's answer, byte for byte, from behind caches that were not to answer, or had nothing. */
export const FORWARDED: Expected = {
  check(head, body) {
    if (/\ncache-status: .*; hit/i.test(head)) return `a hit:\n${head}`
    return body === JSON_ANSWER ? undefined : `not what the engine said:\n${body}`
  },
}

/** What a chat's answer says, streamed or whole; '' for what is neither. */
export function textOf(body: string): string {
  if (!body.startsWith('data: ')) return body.startsWith('{') ? JSON.parse(body).choices[0].message.content : ''
  const events = body.split('\n\n')
  if (events.pop() !== '' || events.pop() !== 'data: [DONE]') return ''
  return events.map((event) => JSON.parse(event.slice('data: '.length)).choices[0]?.delta.content ?? '').join('')
}

function withoutNames(body: string): string {
  return body.replaceAll(/"id":"chatcmpl-[^"]*"/g, '"id":""').replaceAll(/"created":\d+/g, '"created":0')
}
