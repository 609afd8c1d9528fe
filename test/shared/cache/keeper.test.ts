// Listening to an answer as it passes: wherever its bytes are cut, the same is kept, and nothing that is not whole.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { FOLDED_CHARS_MAX, type KeptAnswer } from '../../../shared/answers/answer-form.ts'
import { ANSWER_FORMS } from '../../../shared/answers/forms.ts'
import { createKeeper } from '../../../shared/cache/keeper.ts'
import type { CacheableDialect } from '../../../shared/cache/key.ts'

type Pair = {
  readonly dialect: CacheableDialect
  readonly name: string
  readonly whole: string
  readonly events?: string
}
const PAIRS = JSON.parse(readFileSync('test/fixtures/vllm/answer-pairs.json', 'utf8')) as Pair[]
const pairOf = (dialect: CacheableDialect) => PAIRS.find((pair) => pair.dialect === dialect) as Pair

function neverBug(error: unknown): void {
  throw error
}

function keep(dialect: CacheableDialect, streams: boolean, chunks: readonly Uint8Array[]): KeptAnswer | undefined {
  const keeper = createKeeper(dialect, streams, neverBug)
  for (const chunk of chunks) keeper.push(chunk)
  return keeper.end()
}

const bytesOf = (text: string) => new TextEncoder().encode(text)
const CHAT = JSON.stringify({
  ...JSON.parse(pairOf('chat').whole),
  choices: [{ index: 0, message: { role: 'assistant', content: 'Zoë said 你好 😀' }, finish_reason: 'stop' }],
})

describe('an answer that does not stream', () => {
  it('is the same wherever it is cut', () => {
    const bytes = bytesOf(CHAT)
    const wanted = keep('chat', false, [bytes])
    expect(wanted?.json).toContain('Zoë said 你好 😀')
    for (let at = 0; at <= bytes.length; at++) {
      expect(keep('chat', false, [bytes.subarray(0, at), bytes.subarray(at)])).toEqual(wanted)
    }
    expect(
      keep(
        'chat',
        false,
        Array.from(bytes, (byte) => Uint8Array.of(byte)),
      ),
    ).toEqual(wanted)
  })

  it.each<[string, Uint8Array]>([
    ['cut short', bytesOf(CHAT.slice(0, -1))],
    ['with more behind it', bytesOf(`${CHAT}{}`)],
    ['no UTF-8', Uint8Array.from(bytesOf(CHAT), (byte) => (byte === 0xe4 ? 0xff : byte))],
    ['with a byte order mark', bytesOf(`\u{feff}${CHAT}`)],
    ['empty', new Uint8Array()],
    ['longer than is kept', bytesOf(CHAT + ' '.repeat(FOLDED_CHARS_MAX))],
  ])('is not kept %s', (_, bytes) => {
    expect(keep('chat', false, [bytes])).toBeUndefined()
  })
})

describe.each(['chat', 'completions', 'responses', 'messages'] as const)('a stream of %s', (dialect) => {
  const events = pairOf(dialect).events ?? ''
  const bytes = bytesOf(events)
  const wanted = keep(dialect, true, [bytes])

  it('is the same wherever it is cut, and however its lines end', () => {
    expect(wanted).toBeDefined()
    for (let at = 0; at <= bytes.length; at += Math.ceil(bytes.length / 500)) {
      expect(keep(dialect, true, [bytes.subarray(0, at), bytes.subarray(at)])).toEqual(wanted)
    }
    expect(
      keep(
        dialect,
        true,
        Array.from(bytes, (byte) => Uint8Array.of(byte)),
      ),
    ).toEqual(wanted)
    expect(keep(dialect, true, [bytesOf(events.replaceAll('\n', '\r\n'))])).toEqual(wanted)
    expect(keep(dialect, true, [bytesOf(`\u{feff}${events}`)])).toEqual(wanted)
    expect(keep(dialect, true, [bytesOf(`: alive\n\n${events}`)])).toEqual(wanted)
  })

  it('is not kept without its last event, or any one before it that tells something', () => {
    const each = events.split(/(?<=\n\n)/)
    expect(keep(dialect, true, [bytesOf(each.slice(0, -1).join(''))])).toBeUndefined()
    expect(keep(dialect, true, [bytesOf(events.slice(0, -1))])).toBeUndefined()
    expect(keep(dialect, true, [])).toBeUndefined()
  })

  it('is not kept with an event longer than any', () => {
    const long = `data: ${'x'.repeat(2 * 1_024 * 1_024)}\n\n`
    expect(keep(dialect, true, [bytesOf(long), bytes])).toBeUndefined()
  })
})

it('a fault in keeping is told, and never thrown at the answer that passes', () => {
  const form = ANSWER_FORMS.chat as { createFold?: unknown }
  const { createFold } = form
  const bugs: unknown[] = []
  try {
    const fault = new TypeError('of ours')
    form.createFold = () => ({
      push() {
        throw fault
      },
      end: () => ({ json: '{}', callsTools: false }),
    })
    const keeper = createKeeper('chat', true, (error) => bugs.push(error))
    keeper.push(bytesOf('data: 1\n\ndata: 2\n\n'))
    keeper.push(bytesOf('data: 3\n\n'))
    expect(keeper.end()).toBeUndefined()
    expect(bugs).toEqual([fault])
  } finally {
    form.createFold = createFold
  }
})
