// How sure a simulated model says it was: a token's probability follows from the token and its place alone, and with the
// tokens it did not say it adds up to no more than one.
import { createRandom, seedOf } from '../../shared/random.ts'
import { WORDS } from './generate.ts'
import type { Tokenizer } from './tokenizer.ts'

type Candidate = { readonly token: string; readonly logprob: number }

export type Logprobs = {
  /** A chat choice's member for these tokens, of which the first has this position in the answer. */
  readonly chat: (tokenIds: readonly number[], position: number) => unknown
  /** A completion choice's; `offset` is where its text begins. The first token of an echoed prompt follows nothing. */
  readonly completion: (tokenIds: readonly number[], position: number, offset: number, echo: boolean) => unknown
  /** Where the next token's text begins. */
  readonly offsetAfter: (tokenIds: readonly number[], offset: number) => number
}

/** With `count` most probable tokens at each place. The one that was said is always the most probable. */
export function createLogprobs(tokenizer: Tokenizer, count: number): Logprobs {
  const spell = (id: number) => tokenizer.decode([id])
  const others = count > 1 ? othersOf(tokenizer) : []

  const candidatesAt = (id: number, position: number): readonly [Candidate, ...Candidate[]] => {
    const random = createRandom(seedOf([id, position]))
    const probability = 0.4 + random() / 2
    const said = { token: spell(id), logprob: Math.log(probability) }
    const from = Math.floor(random() * others.length)
    const rest = [...others.slice(from), ...others.slice(0, from)].filter((token) => token !== said.token)
    return [
      said,
      ...rest
        .slice(0, Math.max(0, count - 1))
        .map((token, index) => ({ token, logprob: Math.log((1 - probability) / 2 ** (index + 1)) })),
    ]
  }

  return {
    chat: (tokenIds, position) => ({
      content: tokenIds.map((id, index) => {
        const candidates = candidatesAt(id, position + index)
        return { ...withBytes(candidates[0]), top_logprobs: candidates.slice(0, count).map(withBytes) }
      }),
    }),
    completion: (tokenIds, position, offset, echo) => {
      const offsets: number[] = []
      const logprobs: (number | null)[] = []
      const tokens: string[] = []
      const top: (Readonly<Record<string, number>> | null)[] = []
      let at = offset
      for (const [index, id] of tokenIds.entries()) {
        const candidates = candidatesAt(id, position + index)
        const { token, logprob } = candidates[0]
        const followsNothing = echo && position + index === 0
        offsets.push(at)
        tokens.push(token)
        logprobs.push(followsNothing ? null : logprob)
        top.push(followsNothing ? null : Object.fromEntries(candidates.map(({ token, logprob }) => [token, logprob])))
        at += lengthOf(token)
      }
      return { text_offset: offsets, token_logprobs: logprobs, tokens, top_logprobs: top }
    },
    offsetAfter: (tokenIds, offset) => tokenIds.reduce((sum, id) => sum + lengthOf(spell(id)), offset),
  }
}

/** First tokens of words that the model knows, each text once. */
function othersOf(tokenizer: Tokenizer): readonly string[] {
  const firstIds = WORDS.flatMap((word) => tokenizer.encode(` ${word}`, false).slice(0, 1))
  return [...new Set(firstIds.map((id) => tokenizer.decode([id])))]
}

function withBytes({ token, logprob }: Candidate) {
  return { token, logprob, bytes: [...Buffer.from(token)] }
}

/** As Python counts: characters, not UTF-16 units. */
function lengthOf(token: string): number {
  return [...token].length
}
