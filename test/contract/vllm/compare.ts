// Whether two answers to one request are the same, as far as two models can agree.
import { expect } from 'vitest'
import type { Answer } from './exchange.ts'
import { type ExchangeRow, UNKNOWN_IDS } from './exchanges.ts'
import { countsIn, shapeOf, streamShapes, withoutRepeats } from './shape.ts'

export type Closeness = {
  /** The counts must be equal too: both have the same tokenizer and were asked the same before. */
  readonly counts?: boolean
  /** The answer is our simulator's, which tells some of the findings where vLLM tells those of each kind it tried. */
  readonly isSimulated?: boolean
}

type ErrorBody = { readonly error?: { readonly message: string; readonly param?: string | null } }

/** Fails with what differs. `real` is what a vLLM said, now or when it was recorded. */
export function expectSame(seen: Answer, real: Answer, row: ExchangeRow, how: Closeness = {}): void {
  expect(seen.status, JSON.stringify(seen)).toBe(real.status)
  expect(headersOf(seen)).toEqual(headersOf(real))
  expect(seen.headers['x-request-id']).toMatch(requestIdOf(row))
  if (real.status >= 400) return expectSameError(seen.json, real.json, row, how.isSimulated)
  if (real.text !== undefined) return expect(seen.text).toBe(real.text)
  if (real.stream !== undefined) expectSameStream(seen, real, row)
  else expect(shapeOf(seen.json)).toEqual(shapeOf(real.json))
  if (how.counts) expect(countsIn(seen)).toEqual(countsIn(real))
}

/** The caller's own, or 32 digits. */
function requestIdOf({ request }: ExchangeRow): RegExp {
  const [, given] = Object.entries(request.headers).find(([name]) => name.toLowerCase() === 'x-request-id') ?? []
  return given === undefined ? /^[0-9a-f]{32}$/ : new RegExp(`^${given}$`)
}

/** The load told in a header is of the moment. */
function headersOf({ headers }: Answer): Readonly<Record<string, string>> {
  const { 'endpoint-load-metrics': load, 'x-request-id': _, ...others } = headers
  return load === undefined ? others : { ...others, 'endpoint-load-metrics': load.replaceAll(/\d+\.\d+(e-\d+)?/g, 'n') }
}

function expectSameError(seen: unknown, real: unknown, { isOfUnion }: ExchangeRow, isSimulated?: boolean): void {
  const known = (body: unknown) => JSON.stringify(body).replaceAll(UNKNOWN_IDS.builtIn, UNKNOWN_IDS.real)
  const [count, ...findings] = (real as ErrorBody).error?.message.split('\n') ?? []
  if (!isSimulated || !isOfUnion || !count?.endsWith('validation errors:')) {
    return expect(known(seen)).toBe(known(real))
  }
  const { message, param, ...others } = (seen as Required<ErrorBody>).error
  const { message: _, param: realParam, ...realOthers } = (real as Required<ErrorBody>).error
  expect(others).toEqual(realOthers)
  expect(param?.replace(/\.\d+$/, '')).toBe(realParam?.replace(/\.\d+$/, ''))
  const told = message.split('\n').slice(1)
  expect(told).not.toHaveLength(0)
  for (const finding of told) expect(findings).toContain(finding)
}

function expectSameStream(seen: Answer, real: Answer, { events, isCutByWords }: ExchangeRow): void {
  for (const { stream = '' } of [seen, real]) expectNamedEvents(stream)
  const [ours, theirs] = [streamShapes(seen), streamShapes(real)]
  switch (events) {
    case 'each':
      return expect(ours).toEqual(theirs)
    case 'last': {
      const count = Math.min(ours.length, theirs.length)
      return expect(ours.slice(-count)).toEqual(theirs.slice(-count))
    }
    case 'runs': {
      const runs = (shapes: readonly unknown[]) =>
        withoutRepeats(isCutByWords && shapes.at(-1) === '[DONE]' ? shapes.slice(0, -2) : shapes)
      return expect(runs(ours)).toEqual(runs(theirs))
    }
  }
}

/** Dialects that name their events name them as their data does. */
function expectNamedEvents(stream: string): void {
  for (const [, name, data = ''] of stream.matchAll(/^event: (.*)\ndata: (.*)$/gm)) {
    expect((JSON.parse(data) as { type: string }).type).toBe(name)
  }
}
