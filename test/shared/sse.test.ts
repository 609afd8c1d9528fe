// Events found in byte streams, however the bytes are cut.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { SSE_EVENT_BYTES_MAX, type SseEvent, SseSplitter } from '../../shared/sse.ts'

const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { ignoreBOM: true })

function split(bytes: Uint8Array, cuts: readonly number[] = []): SseEvent[] {
  const splitter = new SseSplitter()
  const edges = [0, ...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length]
  return edges.slice(1).flatMap((edge, i) => [...splitter.push(bytes.slice(edges[i], edge)).events])
}

function dataOf(text: string): (string | undefined)[] {
  return split(encoder.encode(text)).map(({ data }) => data)
}

describe('events', () => {
  it.each([
    ['data: a\n\ndata: b\n\n', ['a', 'b']],
    ['data: a\r\n\r\ndata: b\r\n\r\n', ['a', 'b']],
    ['data: a\r\rdata: b\r\r', ['a', 'b']],
    ['data: a\r\n\ndata: b\n\r\n', ['a', 'b']],
    ['data:a\n\n', ['a']],
    ['data:  a\n\n', [' a']],
    ['data: a\ndata: b\n\n', ['a\nb']],
    ['data\n\n', ['']],
    ['data\ndata\n\n', ['\n']],
    [': still here\n\n', [undefined]],
    [': note\nevent: x\nid: 7\ndata: a\nretry: 5\n\n', ['a']],
    ['event: x\n\n', [undefined]],
    ['database: no\n data: no\n\n', [undefined]],
    ['\ufeffdata: a\n\n\ufeffdata: b\n\n', ['a', undefined]],
    ['data: [DONE]\n\ndata: never ended\n', ['[DONE]']],
    ['data: a\n', []],
    ['', []],
  ])('%j', (text, expected) => {
    expect(dataOf(text)).toEqual(expected)
  })

  it('has an event as soon as its blank line is there, though half a line end may follow', () => {
    const splitter = new SseSplitter()
    expect(splitter.push(encoder.encode('data: a\r\n\r')).events.map(({ data }) => data)).toEqual(['a'])
    expect(splitter.push(encoder.encode('\ndata: b\r\n\r\n')).events.map(({ data }) => data)).toEqual(['b'])
  })
})

describe('any stream', () => {
  const line = fc.oneof(
    fc.string({ unit: 'grapheme' }).map((text) => `data: ${text.replace(/[\r\n]/g, '')}`),
    fc.constantFrom('data', 'data:', ': note', 'event: x', 'id', ''),
  )
  const end = fc.constantFrom('\n', '\r\n', '\r')
  const stream = fc.array(fc.tuple(line, end)).map((lines) => lines.flat().join(''))

  it('has the same events, however it is cut', () => {
    fc.assert(
      fc.property(stream, fc.array(fc.nat(), { maxLength: 20 }), (text, cuts) => {
        const bytes = encoder.encode(text)
        const whole = split(bytes).map(({ data }) => data)
        // A line feed cut from its carriage return makes no event, and opens the next one at most.
        expect(split(bytes, cuts).map(({ data }) => data)).toEqual(whole)
      }),
    )
  })

  it('loses no byte of its events', () => {
    fc.assert(
      fc.property(stream, fc.array(fc.nat(), { maxLength: 20 }), (text, cuts) => {
        const joined = split(encoder.encode(text), cuts)
          .map(({ bytes }) => decoder.decode(bytes))
          .join('')
        expect(text.startsWith(joined)).toBe(true)
      }),
    )
  })

  it('says what a plain reading of the format says', () => {
    fc.assert(
      fc.property(stream, (text) => {
        const blocks = text.replace(/\r\n|\r/g, '\n').split('\n')
        const expected: string[] = []
        let data: string[] = []
        for (const one of blocks.slice(0, -1)) {
          if (one === '') {
            if (data.length > 0) expected.push(data.join('\n'))
            data = []
          } else if (one === 'data' || one.startsWith('data:')) {
            data.push(one.slice(5).replace(/^ /, ''))
          }
        }
        expect(dataOf(text).filter((one) => one !== undefined)).toEqual(expected)
      }),
    )
  })
})

describe('an event over the limit', () => {
  const full = encoder.encode(`data: ${'x'.repeat(SSE_EVENT_BYTES_MAX - 8)}\n\n`)
  const over = encoder.encode(`data: ${'x'.repeat(SSE_EVENT_BYTES_MAX - 7)}\n\n`)

  it('is told apart from one at the limit', () => {
    expect(new SseSplitter().push(full)).toMatchObject({ events: [{ bytes: full }], tooLarge: false })
    expect(new SseSplitter().push(over)).toEqual({ events: [], tooLarge: true })
  })

  it('passes where the limit is another', () => {
    const wider = new SseSplitter(2 * SSE_EVENT_BYTES_MAX)
    const events = [over.subarray(0, 7), over.subarray(7)].flatMap((chunk) => [...wider.push(chunk).events])
    expect(events.map(({ bytes }) => bytes.length)).toEqual([over.length])
    expect(wider.push(new Uint8Array(2 * SSE_EVENT_BYTES_MAX + 1)).tooLarge).toBe(true)
  })

  it('is told before it ends, after the events before it, and for good', () => {
    const splitter = new SseSplitter()
    const half = over.subarray(0, over.length / 2)
    const first = splitter.push(encoder.encode(`data: a\n\n${decoder.decode(half)}`))
    expect(first.events.map(({ data }) => data)).toEqual(['a'])
    expect(first.tooLarge).toBe(false)
    expect(splitter.push(half).tooLarge).toBe(false)
    expect(splitter.push(encoder.encode('xx')).tooLarge).toBe(true)
    expect(splitter.push(encoder.encode('\n\ndata: b\n\n'))).toEqual({ events: [], tooLarge: true })
  })

  it('is counted byte by byte too', () => {
    const splitter = new SseSplitter()
    let pushes = 0
    while (!splitter.push(new Uint8Array([0x78])).tooLarge) pushes++
    expect(pushes).toBe(SSE_EVENT_BYTES_MAX)
  })
})
