// What a model says token by token: nothing may be lost, said twice or said too late when a stop string cuts it.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createSpeech, type SpeechOptions } from '../../../cluster/simulator/generate.ts'
import { createBuiltInTokenizer } from '../../../cluster/simulator/tokenizer.ts'

const PLAIN: SpeechOptions = {
  tokenizer: createBuiltInTokenizer(),
  seed: 1,
  minTokens: 0,
  ignoreEos: false,
  stop: [],
  stopTokenIds: [],
  includeStopInOutput: false,
  scriptIds: undefined,
}

const idsOf = (text: string) => PLAIN.tokenizer.encode(text, false)

function speak(options: Partial<SpeechOptions>, maxTokens = 5_000) {
  const next = createSpeech({ ...PLAIN, ...options })
  const texts: string[] = []
  for (let token = 1; ; token++) {
    const { text, finish } = next(token === maxTokens)
    texts.push(text)
    if (finish) return { text: texts.join(''), texts, tokens: token, ...finish }
  }
}

describe('speech', () => {
  it('is the whole text up to the first stop string, in well-formed pieces, whatever both are', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'é', '👋', ' ') })
    const stop = fc.string({ unit: fc.constantFrom('a', 'b', 'é', '👋', ' '), minLength: 1, maxLength: 4 })
    fc.assert(
      fc.property(letters, stop, fc.boolean(), (script, stop, includeStopInOutput) => {
        const said = speak({ scriptIds: idsOf(script), stop: [stop], includeStopInOutput })
        const at = script.indexOf(stop)
        const end = at + (includeStopInOutput ? stop.length : 0)
        expect(said).toMatchObject(
          at < 0
            ? { text: script, reason: 'stop', stopReason: null }
            : { text: script.slice(0, end), reason: 'stop', stopReason: stop },
        )
        for (const text of said.texts) expect(text.isWellFormed()).toBe(true)
      }),
    )
  })

  it('ends at its last token with what it held back, or a length-capped answer would miss its end', () => {
    const said = speak({ scriptIds: idsOf('one two three'), stop: ['three hundred'] }, 3)
    expect(said).toMatchObject({ text: 'one two thr', tokens: 3, reason: 'length' })
  })

  it('ends at a stop token without saying it', () => {
    const [, second = 0] = PLAIN.tokenizer.encode('one two', false)
    expect(speak({ scriptIds: idsOf('one two'), stopTokenIds: [second] })).toMatchObject({
      text: 'one',
      stopReason: second,
    })
  })

  it.each([
    ['natural length is 20 tokens or more, up to the end of a sentence', {}, 20, 300],
    ['min_tokens makes it longer', { minTokens: 400 }, 401, 500],
    ['ignore_eos makes it endless', { ignoreEos: true }, 5_000, 5_000],
  ])('%s', (_, options, least, most) => {
    for (let seed = 0; seed < 50; seed++) {
      const { tokens, text, reason } = speak({ ...options, seed })
      expect(tokens).toBeGreaterThanOrEqual(least)
      expect(tokens).toBeLessThanOrEqual(most)
      if (reason === 'stop') expect(text).toMatch(/\.$/)
    }
  })
})
