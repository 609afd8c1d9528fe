// Log probabilities, by which clients score answers: there whenever they are asked for, and the same for the same answer.
import { describe, expect, it } from 'vitest'
import { eventsOf, post, startPod } from './pod.ts'

type Told = { readonly token: string; readonly logprob: number; readonly bytes: readonly number[] }
type ChatLogprobs = { readonly content: readonly (Told & { readonly top_logprobs: readonly Told[] })[] }
type CompletionLogprobs = {
  readonly text_offset: readonly number[]
  readonly token_logprobs: readonly (number | null)[]
  readonly tokens: readonly string[]
  readonly top_logprobs: readonly (Readonly<Record<string, number>> | null)[]
}
type Answer<Logprobs> = {
  readonly choices: readonly [
    { readonly logprobs: Logprobs; readonly text?: string; readonly message?: { readonly content: string } },
  ]
}

const MESSAGES = [{ role: 'user', content: 'Hi' }]
const CHAT = '/v1/chat/completions'
const COMPLETION = '/v1/completions'
const sampling = { temperature: 0, max_tokens: 12, ignore_eos: true }

async function ask<Logprobs>(path: string, body: object): Promise<Answer<Logprobs>> {
  const pod = await startPod()
  return (await (await post(pod, path, { ...sampling, ...body })).json()) as Answer<Logprobs>
}

async function chunksOf<Logprobs>(path: string, body: object): Promise<readonly Logprobs[]> {
  const pod = await startPod()
  const text = await (await post(pod, path, { ...sampling, ...body, stream: true })).text()
  const chunks = eventsOf(text).slice(0, -1)
  return chunks.map((data) => JSON.parse(data).choices[0].logprobs).filter((logprobs) => logprobs !== null)
}

describe('a chat’s logprobs', () => {
  it.each([0, 2, 20])('tell %i tokens at each place, the said one first, or scorers would read nonsense', async (k) => {
    const { choices } = await ask<ChatLogprobs>(CHAT, { messages: MESSAGES, logprobs: true, top_logprobs: k })
    const { content } = choices[0].logprobs
    expect(content.map(({ token }) => token).join('')).toBe(choices[0].message?.content)
    expect(content).toHaveLength(12)
    for (const { token, logprob, bytes, top_logprobs: top } of content) {
      expect(Buffer.from(bytes).toString()).toBe(token)
      expect(top).toHaveLength(k)
      if (k > 0) expect(top[0]).toEqual({ token, logprob, bytes })
      expect(new Set(top.map((one) => one.token)).size).toBe(k)
      expect(top.map((one) => one.logprob)).toEqual(top.map((one) => one.logprob).sort((a, b) => b - a))
      expect(top.reduce((sum, one) => sum + Math.exp(one.logprob), 0)).toBeLessThanOrEqual(1)
    }
  })

  it('are the same streamed, one token a chunk, or a client’s score would depend on how it reads', async () => {
    const body = { messages: MESSAGES, logprobs: true, top_logprobs: 3 }
    const whole = (await ask<ChatLogprobs>(CHAT, body)).choices[0].logprobs.content
    const chunks = await chunksOf<ChatLogprobs>(CHAT, body)
    expect(chunks.every(({ content }) => content.length === 1)).toBe(true)
    expect(chunks.flatMap(({ content }) => content)).toEqual(whole)
  })
})

describe('a completion’s logprobs', () => {
  it('begin each token where its text begins, or highlighting clients would mark the wrong words', async () => {
    const { choices } = await ask<CompletionLogprobs>(COMPLETION, { prompt: 'Once', logprobs: 2 })
    const { text_offset: offsets, token_logprobs: said, tokens, top_logprobs: top } = choices[0].logprobs
    expect(tokens.join('')).toBe(choices[0].text)
    for (const [index, token] of tokens.entries()) {
      expect(choices[0].text?.slice(offsets[index]).startsWith(token)).toBe(true)
      expect(Object.keys(top[index] ?? {})).toHaveLength(2)
      expect(top[index]?.[token]).toBe(said[index])
    }
  })

  it.each([
    [12, false],
    [12, true],
    [0, true],
  ])('with max_tokens %i and echo %s are the same streamed', async (max_tokens, echo) => {
    const body = { prompt: 'Once upon é👋 time', logprobs: 1, max_tokens: Math.max(max_tokens, echo ? 0 : 1), echo }
    const [whole] = (await ask<CompletionLogprobs>(COMPLETION, body)).choices
    const chunks = await chunksOf<CompletionLogprobs>(COMPLETION, body)
    for (const member of ['text_offset', 'token_logprobs', 'tokens', 'top_logprobs'] as const) {
      expect(chunks.flatMap<unknown>((chunk) => chunk[member])).toEqual(whole.logprobs[member])
    }
    // Nothing comes before a prompt's first token, so nothing makes it probable.
    expect(whole.logprobs.token_logprobs[0] === null).toBe(echo)
  })
})

describe('logprobs out of bounds', () => {
  it.each<[string, string, object]>([
    [
      'Requested sample logprobs of 21, which is greater than max allowed: 20',
      CHAT,
      { logprobs: true, top_logprobs: 21 },
    ],
    ['`top_logprobs` must be a positive value or -1.', CHAT, { logprobs: true, top_logprobs: -2 }],
    ['when using `top_logprobs`, `logprobs` must be set to true.', CHAT, { top_logprobs: 2 }],
    ['Requested sample logprobs of 21, which is greater than max allowed: 20', COMPLETION, { logprobs: 21 }],
    ['`logprobs` must be a positive value.', COMPLETION, { logprobs: -3 }],
  ])('are refused with %j, or a client would take the pod’s limits for another', async (message, path, more) => {
    const pod = await startPod()
    const answer = await post(pod, path, { ...(path === CHAT ? { messages: MESSAGES } : { prompt: 'x' }), ...more })
    expect([answer.status, await answer.json()]).toMatchObject([
      400,
      { error: { message: expect.stringContaining(message), type: 'BadRequestError', code: 400 } },
    ])
  })
})
