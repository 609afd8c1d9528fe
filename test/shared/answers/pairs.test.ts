// Real vLLM's answers to the same requests in both forms: what a stream folds to is what vLLM answers without one, and what
// is told as a stream is what vLLM streams, but for the number of pieces.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { ANSWER_FORMS } from '../../../shared/answers/forms.ts'
import { parseJson } from '../../parse-json.ts'
import { eventsOf, FRESH, foldStream, type StreamedDialect } from './events.ts'

type Pair = {
  readonly dialect: keyof typeof ANSWER_FORMS
  readonly name: string
  readonly whole: string
  readonly events?: string
}
type Json = Record<string, unknown>

const PAIRS = (JSON.parse(readFileSync('test/fixtures/vllm/answer-pairs.json', 'utf8')) as Pair[]).map((pair) => ({
  ...pair,
  form: ANSWER_FORMS[pair.dialect],
  title: `${pair.dialect}: ${pair.name}`,
}))

/** Pairs that are not kept in either form, and why. */
const NOT_KEPT: Readonly<Record<string, string>> = {
  'completions: echo with log probabilities': 'prompt_logprobs are told without a stream alone',
}

/** Where vLLM itself says something else in a stream, and why. */
const DIFFERENCES: readonly { readonly of: RegExp; readonly path: RegExp; readonly because: string }[] = [
  { of: / call/, path: /(^|\.)(id|call_id)$/, because: 'made afresh for each call' },
  { of: / call/, path: /\.arguments$/, because: 'without a stream, written again with spaces of Python' },
  {
    of: /^chat: a call by its own choice/,
    path: /\.content$/,
    because: 'a stream opens with an empty text, else null',
  },
  { of: /^completions/, path: /created_cache_tokens$/, because: 'a stream leaves null out' },
  {
    of: /./,
    path: /cached_tokens|cache_read|created_cache|input_tokens$/,
    because: 'the second request found a warm cache',
  },
]

/** What vLLM tells without a stream alone, and why. */
const UNSTREAMED: typeof DIFFERENCES = [
  { of: /^responses: log prob/, path: /\.logprobs\.3\./, because: 'the token that ends the text is not streamed' },
]

const KEPT = PAIRS.filter(({ title }) => !(title in NOT_KEPT))
const STREAMED = KEPT.flatMap(({ dialect, events, ...pair }) =>
  events === undefined ? [] : [{ ...pair, dialect: dialect as StreamedDialect, events }],
)

/** Each value that is no object or list, by its path. */
function leavesOf(value: unknown, path = ''): [path: string, value: unknown][] {
  if (typeof value !== 'object' || value === null) return [[path, value]]
  const entries = Object.entries(value)
  const inner = entries.flatMap(([name, each]) => leavesOf(each, path === '' ? name : `${path}.${name}`))
  return entries.length > 0 ? inner : [[path, Array.isArray(value) ? '[]' : '{}']]
}

it.each(PAIRS.filter(({ title }) => title in NOT_KEPT))('$title is kept in neither form', (pair) => {
  expect(pair.form.read(pair.whole)).toBeUndefined()
  expect(foldStream(pair.dialect as StreamedDialect, pair.events ?? '')).toBeUndefined()
})

function itemsOf(answer: unknown): readonly Json[] {
  return ((answer as Json).output ?? []) as readonly Json[]
}

function withoutItemIds(answer: Json): Json {
  return 'output' in answer ? { ...answer, output: itemsOf(answer).map(({ id: _, ...item }) => item) } : answer
}

describe('an answer that did not stream is told again as it was', () => {
  it.each(KEPT)('$title', ({ form, whole, name, dialect }) => {
    const kept = form.read(whole)
    expect(kept?.callsTools).toBe(/ call/.test(name))
    const told = form.toJson(kept?.json ?? '', FRESH)
    expect((parseJson(told) as Json).id).toMatch(/^(chatcmpl|cmpl|resp|embd)[-_]fresh$/)
    const { id: _, created: __, created_at: ___, ...rest } = parseJson(whole) as Json
    const { id: ____, created, created_at, ...again } = parseJson(told) as Json
    expect(withoutItemIds(again)).toEqual(withoutItemIds(rest))
    if (dialect === 'responses') {
      const ids = (answer: unknown) => itemsOf(answer).map(({ id }) => id)
      expect(ids(again)).toEqual(ids(rest).map((id, index) => `${String(id).split('_')[0]}_fresh${index}`))
    }
    expect(created ?? created_at).toBe(dialect === 'messages' ? undefined : FRESH.createdSeconds)
    // No number was written anew.
    const numbers = (text: string) => text.match(/(?<=[:,[])-?\d[\d.eE+-]*(?=[,}\]])/g)?.sort()
    const { json = '' } = kept ?? {}
    expect(numbers(json)).toEqual(numbers(whole.replace(/"created(_at)?":\d+,/, '')))
  })
})

describe('a stream folds to what vLLM answers without one', () => {
  it.each(STREAMED)('$title', ({ dialect, form, whole, events, title }) => {
    const folded = foldStream(dialect, events)
    expect(folded?.callsTools).toBe(form.read(whole)?.callsTools)
    const streamed = new Map(leavesOf(parseJson(folded?.json ?? 'null')))
    const answered = new Map(leavesOf(parseJson(form.read(whole)?.json ?? 'null')))
    const isIn = (table: typeof DIFFERENCES, path: string) =>
      table.some((difference) => difference.of.test(title) && difference.path.test(path))
    const others = [...new Set([...streamed.keys(), ...answered.keys()])].filter((path) => {
      if (streamed.get(path) === answered.get(path)) return false
      if (!answered.has(path)) return true
      return !isIn(streamed.has(path) ? DIFFERENCES : UNSTREAMED, path)
    })
    expect(others.map((path) => [path, streamed.get(path), answered.get(path)])).toEqual([])
  })
})

/** An event's members and those of all that is in it, but for the elements of lists of tokens. */
function shapeOf(value: unknown): unknown {
  if (Array.isArray(value)) return value.slice(0, 1).map(shapeOf)
  if (typeof value !== 'object' || value === null) return typeof value === 'string' ? 'text' : typeof value
  const names = Object.keys(value).sort()
  return Object.fromEntries(names.map((name) => [name, shapeOf((value as Json)[name])]))
}

/** Kinds of events in their order, one for many of the same. */
function kindsOf(stream: string): readonly string[] {
  const kinds = eventsOf(stream).map(({ data, event }) => {
    if (data === '[DONE]') return data
    const told = JSON.parse(data) as Json
    const kind = typeof told.type === 'string' ? `${event} ${told.type} ` : ''
    const { sequence_number: _, ...rest } = told
    return kind + JSON.stringify(shapeOf(rest))
  })
  return kinds.filter((kind, index) => kind !== kinds[index - 1])
}

describe('an answer told as a stream has the events that vLLM’s has, member by member', () => {
  it.each(STREAMED.filter(({ dialect }) => dialect === 'responses' || dialect === 'messages'))(
    '$title',
    ({ form, dialect, events }) => {
      const told = form.toEvents(foldStream(dialect, events)?.json ?? '', FRESH, true)
      expect(kindsOf(told)).toEqual(kindsOf(events))
      const numbers = eventsOf(told).map(({ data }) => (JSON.parse(data) as Json).sequence_number)
      expect(numbers).toEqual(numbers.map((_, index) => (dialect === 'responses' ? index : undefined)))
    },
  )

  /** The members of a chunk, of its choices and of what they add. */
  function membersOf(data: string): string {
    if (data === '[DONE]') return data
    const chunk = JSON.parse(data) as Json
    const [choice] = chunk.choices as Json[]
    const delta = choice?.delta as { tool_calls?: Json[] } | undefined
    return JSON.stringify(
      [chunk, choice, delta, delta?.tool_calls?.[0], chunk.usage].map((of) => Object.keys(of ?? {}).sort()),
    )
  }
  /** In any of vLLM's streams: which chunks there are depends on where the model paused and ended. */
  const membersIn = (of: string) =>
    new Set(
      STREAMED.filter(({ dialect, name }) => dialect === of && !name.startsWith('usage')).flatMap(({ events }) =>
        eventsOf(events).map(({ data }) => membersOf(data)),
      ),
    )
  const members = { chat: membersIn('chat'), completions: membersIn('completions') }

  it.each(STREAMED.filter(({ dialect }) => dialect === 'chat' || dialect === 'completions'))(
    '$title',
    ({ form, dialect, events, name }) => {
      const kept = foldStream(dialect, events)?.json ?? ''
      const told = eventsOf(form.toEvents(kept, FRESH, true)).map(({ data }) => data)
      const real = eventsOf(events).map(({ data }) => data)
      expect(told.filter((data) => !members[dialect as 'chat' | 'completions'].has(membersOf(data)))).toEqual([])
      if (!name.startsWith('usage')) {
        expect(membersOf(told[0] as string)).toBe(membersOf(real[0] as string))
        expect(told.slice(-2).map(membersOf)).toEqual(real.slice(-2).map(membersOf))
      }
      const untold = form.toEvents(kept, FRESH, false)
      expect(untold).not.toContain('"usage"')
      expect(eventsOf(untold).length).toBe(told.length - 1)
    },
  )
})

describe('what is told as a stream folds to the very same again', () => {
  it.each(STREAMED)('$title', ({ dialect, form, whole, events }) => {
    for (const kept of [form.read(whole), foldStream(dialect, events)]) {
      const again = foldStream(dialect, form.toEvents(kept?.json ?? '', FRESH, true))
      expect(again?.callsTools).toBe(kept?.callsTools)
      expect(leavesOf(parseJson(again?.json ?? 'null')).sort()).toEqual(
        leavesOf(parseJson(kept?.json ?? 'null')).sort(),
      )
    }
  })
})
