// The official clients' own helpers read what is told as a stream, and end with what they would have got without one.

import { readFileSync } from 'node:fs'
import Anthropic from '@anthropic-ai/sdk'
import OpenAI from 'openai'
import { describe, expect, it } from 'vitest'
import { ANSWER_FORMS } from '../../../shared/answers/forms.ts'
import { FRESH } from './events.ts'

type Pair = { readonly dialect: keyof typeof ANSWER_FORMS; readonly name: string; readonly whole: string }

const KEPT = (JSON.parse(readFileSync('test/fixtures/vllm/answer-pairs.json', 'utf8')) as Pair[]).flatMap((pair) => {
  const kept = ANSWER_FORMS[pair.dialect].read(pair.whole)?.json
  return kept === undefined ? [] : [{ ...pair, kept, form: ANSWER_FORMS[pair.dialect] }]
})
const of = (dialect: Pair['dialect']) => KEPT.filter((pair) => pair.dialect === dialect)

/** Both clients take a fetch of their own; this one answers what a cache would. */
function answering({ form, kept }: (typeof KEPT)[number]) {
  const fetch = async (_url: unknown, init?: { readonly body?: unknown }) => {
    const streams = JSON.parse(String(init?.body)).stream === true
    return new Response(streams ? form.toEvents(kept, FRESH, true) : form.toJson(kept, FRESH), {
      headers: { 'content-type': streams ? 'text/event-stream' : 'application/json' },
    })
  }
  const options = { apiKey: 'none', baseURL: 'http://cache.test', maxRetries: 0, fetch }
  return { openai: new OpenAI(options), anthropic: new Anthropic(options) }
}

const messages = [{ role: 'user' as const, content: 'hi' }]

/** What clients make of texts, or add of their own. */
function plain(value: unknown): unknown {
  return JSON.parse(
    JSON.stringify(value, (name, each) => {
      if (each === null || ['parsed', 'parsed_arguments', 'output_text', 'output_parsed'].includes(name))
        return undefined
      return each
    }),
  )
}

describe('chat.completions.stream of openai', () => {
  it.each(of('chat'))('$name', async (pair) => {
    const { openai } = answering(pair)
    const request = { model: 'm', messages }
    const streamed = await openai.chat.completions.stream(request).finalChatCompletion()
    const whole = await openai.chat.completions.create(request)
    // The client gathers neither tokens nor why the engine stopped, and leaves the usage's empty details to the engine.
    const told = JSON.parse(JSON.stringify(plain(whole)))
    const made = JSON.parse(JSON.stringify(plain(streamed)))
    for (const answer of [told, made]) {
      delete answer.prompt_token_ids
      for (const choice of answer.choices) {
        delete choice.token_ids
        delete choice.stop_reason
      }
    }
    expect(made).toEqual(told)
  })
})

describe('completions.create of openai, streamed', () => {
  it.each(of('completions'))('$name', async (pair) => {
    const { openai } = answering(pair)
    const whole = await openai.completions.create({ model: 'm', prompt: 'hi' })
    const chunks = await Array.fromAsync(await openai.completions.create({ model: 'm', prompt: 'hi', stream: true }))
    for (const choice of whole.choices) {
      const told = chunks.flatMap(({ choices }) => choices).filter(({ index }) => index === choice.index)
      expect(told.map(({ text }) => text).join('')).toBe(choice.text)
      expect(told.at(-1)?.finish_reason).toBe(choice.finish_reason)
      expect(told.flatMap(({ logprobs }) => logprobs?.tokens ?? [])).toEqual(choice.logprobs?.tokens ?? [])
    }
    expect(plain(chunks.at(-1)?.usage)).toEqual(plain(whole.usage))
  })
})

describe('responses.stream of openai', () => {
  it.each(of('responses'))('$name', async (pair) => {
    const { openai } = answering(pair)
    const request = { model: 'm', input: 'hi' }
    const streamed = await openai.responses.stream(request).finalResponse()
    expect(plain(streamed)).toEqual(plain(await openai.responses.create(request)))
  })
})

describe('messages.stream of Anthropic’s client', () => {
  it.each(of('messages'))('$name', async (pair) => {
    const { anthropic } = answering(pair)
    const request = { model: 'm', messages, max_tokens: 8 }
    const streamed = await anthropic.messages.stream(request).finalMessage()
    expect(plain(streamed)).toEqual(plain(await anthropic.messages.create(request)))
  })
})
