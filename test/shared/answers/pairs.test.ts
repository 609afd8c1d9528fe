// Real vLLM's answers to the same requests in both forms: what a stream folds to is what vLLM answers without one, and what
// is told as a stream is what vLLM streams, but for the number of pieces.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { ANSWER_FORMS } from '../../../shared/answers/forms.ts'
import type { CacheableDialect } from '../../../shared/cache/key.ts'
import { SseSplitter } from '../../../shared/sse.ts'

type Pair = {
  readonly dialect: CacheableDialect
  readonly name: string
  readonly whole: string
  readonly events?: string
}

const PAIRS = (JSON.parse(readFileSync('test/fixtures/vllm/answer-pairs.json', 'utf8')) as Pair[]).map((pair) => ({
  ...pair,
  form: ANSWER_FORMS[pair.dialect],
  title: `${pair.dialect}: ${pair.name}`,
}))
const STREAMED = PAIRS.flatMap((pair) => (pair.events === undefined ? [] : [{ ...pair, events: pair.events }]))
const FRESH = { id: 'fresh', createdSeconds: 1_800_000_000 }

function dataOf(events: string): string[] {
  return new SseSplitter(8e6).push(new TextEncoder().encode(events)).events.flatMap(({ data }) => data ?? [])
}

function foldOf(dialect: CacheableDialect, events: string) {
  const fold = ANSWER_FORMS[dialect].createFold?.()
  if (!fold) throw new Error('does not stream')
  for (const data of dataOf(events)) fold.push(data)
  return fold.end()
}

/** Without what is made anew with each answer, and without what says nothing. */
function bare(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(bare)
  if (typeof value !== 'object' || value === null) return value
  const kept = Object.entries(value).filter(
    ([name, each]) =>
      each !== null &&
      each !== '' &&
      !['id', 'created', 'created_at', 'call_id'].includes(name) &&
      !/cache|details/.test(name),
  )
  // Without a stream, vLLM writes the arguments of a call again, with spaces of its own.
  const said = (name: string, each: unknown) => (name === 'arguments' ? JSON.parse(each as string) : bare(each))
  return Object.fromEntries(kept.map(([name, each]) => [name, said(name, each)]))
}

describe('vLLM’s answers can be kept in both forms', () => {
  it.each(PAIRS)('$title, whole', ({ form, whole, name }) => {
    const kept = form.read(whole)
    expect(kept).toBeDefined()
    expect(kept?.callsTools).toBe(name.includes('call'))
    const told = JSON.parse(form.toJson(kept?.json ?? '', FRESH))
    expect(told.id).toMatch(/^(chatcmpl|cmpl|resp|embd)[-_]fresh$/)
    expect(told.created ?? told.created_at ?? FRESH.createdSeconds).toBe(FRESH.createdSeconds)
    const { id: _, created: __, created_at: ___, ...rest } = JSON.parse(whole)
    expect(told).toMatchObject(rest)
  })

  it.each(STREAMED)('$title, streamed', ({ dialect, events, name }) => {
    expect(foldOf(dialect, events)?.callsTools).toBe(name.includes('call'))
  })
})

describe('a stream folds to what vLLM answers without one', () => {
  it.each(STREAMED)('$title', ({ dialect, form, whole, events }) => {
    const folded = JSON.parse(foldOf(dialect, events)?.json ?? 'null')
    expect(bare(folded)).toEqual(bare(JSON.parse(form.read(whole)?.json ?? 'null')))
  })
})

/** Kinds of events in their order, one for many of the same; and the members that each kind has. */
function shapeOf(events: string): readonly string[] {
  const kinds = dataOf(events).map((data) => {
    if (data === '[DONE]') return data
    const event = JSON.parse(data) as Record<string, unknown>
    if (typeof event.type === 'string') return `${event.type} ${Object.keys(event).sort().join(' ')}`
    const [choice] = event.choices as Record<string, unknown>[]
    return choice ? `choice ${Object.keys(choice.delta ?? { text: '' }).sort()}` : 'usage'
  })
  return kinds.filter((kind, index) => kind !== kinds[index - 1])
}

describe('an answer told as a stream has the events that vLLM’s has', () => {
  it.each(STREAMED.filter(({ dialect }) => dialect === 'responses' || dialect === 'messages'))(
    '$title',
    ({ form, dialect, events }) => {
      const kept = foldOf(dialect, events)?.json ?? ''
      expect(shapeOf(form.toEvents(kept, FRESH, true))).toEqual(shapeOf(events))
    },
  )

  it.each(STREAMED.filter(({ dialect }) => dialect === 'chat' || dialect === 'completions'))(
    '$title',
    ({ form, dialect, events }) => {
      const told = form.toEvents(foldOf(dialect, events)?.json ?? '', FRESH, true)
      expect(shapeOf(told).at(0)).toBe(shapeOf(events).at(0))
      expect(shapeOf(told).slice(-2)).toEqual(['usage', '[DONE]'])
      expect(shapeOf(form.toEvents(foldOf(dialect, events)?.json ?? '', FRESH, false))).not.toContain('usage')
    },
  )
})

describe('what is told as a stream folds to the same again', () => {
  it.each(STREAMED)('$title', ({ dialect, form, whole, events }) => {
    for (const kept of [form.read(whole), foldOf(dialect, events)]) {
      const again = foldOf(dialect, form.toEvents(kept?.json ?? '', FRESH, true))
      expect(again?.callsTools).toBe(kept?.callsTools)
      expect(said(JSON.parse(again?.json ?? 'null'))).toEqual(said(JSON.parse(kept?.json ?? 'null')))
    }
  })
})

/** Without what says nothing. */
function said(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(said)
  if (typeof value !== 'object' || value === null) return value
  const kept = Object.entries(value).filter(([, each]) => each !== null && each !== '')
  return Object.fromEntries(kept.map(([name, each]) => [name, said(each)]))
}
