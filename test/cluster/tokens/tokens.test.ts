import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import {
  createEngineTokenizer,
  type EngineTokenizerDeps,
  type TokenizeAnswer,
} from '../../../cluster/tokens/engine-tokenizer.ts'
import { readTokenIds } from '../../../cluster/tokens/token-ids.ts'

const A = 'a:1' as EndpointId
const B = 'b:1' as EndpointId

describe('the answer to /tokenize', () => {
  it('is read to the same ids as a JSON parser reads', () => {
    const answer = fc.record({ count: fc.nat(), max_model_len: fc.nat(), tokens: fc.array(fc.nat(2 ** 32 - 1)) })
    fc.assert(
      fc.property(answer, fc.constantFrom(undefined, 1), (value, indent) => {
        const text = JSON.stringify(value, null, indent).replace(/"tokens": /, '"tokens":')
        expect(readTokenIds(Buffer.from(text.replaceAll('\n', ' ')))).toEqual(Uint32Array.from(value.tokens))
      }),
    )
  })
  it.each([
    ['no tokens', '{"error":{"message":"no"}}'],
    ['a number that is no id', '{"tokens":[1,4294967296]}'],
    ['negative', '{"tokens":[-1]}'],
    ['a fraction', '{"tokens":[1.5]}'],
    ['strings', '{"tokens":["1"]}'],
    ['a cut answer', '{"tokens":[1,2'],
    ['a gap', '{"tokens":[1,,2]}'],
    ['nothing', ''],
  ])('%s is no answer', (_, text) => {
    expect(readTokenIds(Buffer.from(text))).toBeUndefined()
  })
  it('does not throw on anything', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        readTokenIds(Buffer.concat([Buffer.from('{"tokens":['), bytes]))
      }),
    )
  })
})

describe('token ids from the engines', () => {
  const text = (body: string) =>
    ({ kind: 'text', forEngine: () => ({ ok: true, body: Buffer.from(body) }) as const }) as const
  const answer = (status: number, body: string) => ({ status, body: Buffer.from(body) })

  function tokenizer(ask: EngineTokenizerDeps['ask'], more: Partial<EngineTokenizerDeps> = {}) {
    const asked: string[] = []
    const tokenize = createEngineTokenizer({
      askable: () => [A, B],
      ask: (to, body, timeoutMs) => {
        asked.push(`${to} ${body}`)
        return ask(to, body, timeoutMs)
      },
      nowMs: () => 0,
      budgetMs: () => 1_000,
      ...more,
    })
    return { tokenize, asked }
  }

  it('are asked for once a prompt, however many requests bring it at a time or later', async () => {
    const { tokenize, asked } = tokenizer(async () => answer(200, '{"tokens":[1,2,3]}'))
    const both = await Promise.all([tokenize('m', text('x')), tokenize('m', text('x'))])
    expect(both.map((tokens) => tokens.ok && [...tokens.ids])).toEqual([
      [1, 2, 3],
      [1, 2, 3],
    ])
    await tokenize('m', text('x'))
    expect(asked).toEqual(['a:1 x'])
    await tokenize('m', text('y'))
    expect(asked).toHaveLength(2)
  })
  it('come from the next engine when the first one fails or is silent', async () => {
    for (const failing of [undefined, answer(500, 'boom')]) {
      const { tokenize, asked } = tokenizer(async (to) => (to === A ? failing : answer(200, '{"tokens":[7]}')))
      expect(await tokenize('m', text('x'))).toMatchObject({ ok: true })
      expect(asked).toEqual(['a:1 x', 'b:1 x'])
    }
  })
  it('wait for a frozen engine once, and only for a part of the time that there is', async () => {
    const given: number[] = []
    const { tokenize, asked } = tokenizer(async (to, _, timeoutMs) => {
      given.push(timeoutMs)
      return to === A ? undefined : answer(200, '{"tokens":[7]}')
    })
    for (const prompt of ['x', 'y', 'z']) expect(await tokenize('m', text(prompt))).toMatchObject({ ok: true })
    expect(asked).toEqual(['a:1 x', 'b:1 x', 'b:1 y', 'b:1 z'])
    expect(given).toEqual([500, 1_000, 1_000, 1_000])
  })
  it('are looked for by one prompt at a time while no engine answers, and by all when one does again', async () => {
    const waiting: ((answer: TokenizeAnswer | undefined) => void)[] = []
    const { tokenize, asked } = tokenizer(() => new Promise((resolve) => waiting.push(resolve)), { askable: () => [A] })
    const first = tokenize('m', text('first'))
    waiting.shift()?.(undefined)
    expect(await first).toMatchObject({ ok: false })
    const second = tokenize('m', text('second'))
    expect(await tokenize('m', text('third'))).toMatchObject({ ok: false, because: expect.stringContaining('lately') })
    waiting.shift()?.(answer(200, '{"tokens":[7]}'))
    expect(await second).toMatchObject({ ok: true })
    const both = [tokenize('m', text('fourth')), tokenize('m', text('fifth'))]
    expect(asked).toEqual(['a:1 first', 'a:1 second', 'a:1 fourth', 'a:1 fifth'])
    for (const resolve of waiting) resolve(answer(200, '{"tokens":[7]}'))
    expect(await Promise.all(both)).toMatchObject([{ ok: true }, { ok: true }])
  })
  it('are asked of all engines in turn, not of the first one alone', async () => {
    const { tokenize, asked } = tokenizer(async () => answer(200, '{"tokens":[7]}'))
    await Promise.all(['w', 'x', 'y', 'z'].map((prompt) => tokenize('m', text(prompt))))
    expect(asked).toEqual(['a:1 w', 'b:1 x', 'a:1 y', 'b:1 z'])
  })
  it('are missing with a reason when the engine refuses the prompt: the request goes on, the engine will say why', async () => {
    const { tokenize, asked } = tokenizer(async () => answer(400, '{"error":{}}'))
    expect(await tokenize('m', text('x'))).toEqual({ ok: false, because: 'a:1 answered 400 to /tokenize' })
    expect(asked).toHaveLength(1)
  })
  it('are missing when the time is over, and no failure is remembered', async () => {
    let now = 0
    const { tokenize, asked } = tokenizer(
      async () => {
        now += 2_000
        return undefined
      },
      { nowMs: () => now },
    )
    expect(await tokenize('m', text('x'))).toEqual({ ok: false, because: 'a:1 gave no answer in time to /tokenize' })
    await tokenize('m', text('x'))
    expect(asked).toEqual(['a:1 x', 'b:1 x'])
  })
  it('need no engine when the caller sent them', async () => {
    const { tokenize, asked } = tokenizer(async () => undefined)
    expect(await tokenize('m', { kind: 'ids', ids: Uint32Array.of(5) })).toMatchObject({ ok: true })
    expect(await tokenize('m', { kind: 'unknown', because: 'so' })).toEqual({ ok: false, because: 'so' })
    expect(asked).toEqual([])
  })
  it('are not queued without bound', async () => {
    const { tokenize } = tokenizer(() => new Promise(() => undefined))
    for (let index = 0; index < 256; index++) void tokenize('m', text(String(index)))
    expect(await tokenize('m', text('one more'))).toMatchObject({ ok: false })
  })
})
