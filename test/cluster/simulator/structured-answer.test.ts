// Answers that programs parse: asked for JSON, a pod that talks would break every one of them.
import OpenAI from 'openai'
import { describe, expect, it } from 'vitest'
import { post, startPod } from './pod.ts'

const MESSAGES = [{ role: 'user' as const, content: 'Where is it warm?' }]
const SCHEMA = {
  type: 'object',
  properties: {
    city: { type: 'string' },
    days: { type: 'array', minItems: 2, items: { $ref: '#/$defs/day' } },
  },
  required: ['city', 'days'],
  $defs: { day: { type: 'object', properties: { degrees: { type: 'integer', minimum: 20 } }, required: ['degrees'] } },
}
const FITTING = { city: 'example', days: [{ degrees: 20 }, { degrees: 20 }] }
const asSchema = { type: 'json_schema' as const, json_schema: { name: 'weather', schema: SCHEMA } }

async function ask(body: object) {
  const pod = await startPod()
  const answer = await post(pod, '/v1/chat/completions', { messages: MESSAGES, ...body })
  return (await answer.json()) as {
    choices: [{ finish_reason: string; message: { content: string } }]
    error?: { message: string; param: string }
  }
}

describe('an answer in JSON', () => {
  it.each<[string, object]>([
    ['response_format json_schema', { response_format: asSchema }],
    ['structured_outputs', { structured_outputs: { json: SCHEMA } }],
    ['structured_outputs in text', { structured_outputs: { json: JSON.stringify(SCHEMA) } }],
  ])('fits the schema with %s, or the client’s validation would fail', async (_, body) => {
    const [choice] = (await ask(body)).choices
    expect([choice.finish_reason, JSON.parse(choice.message.content)]).toEqual(['stop', FITTING])
  })

  it.each([{ response_format: { type: 'json_object' } }, { structured_outputs: { json_object: true } }])(
    'is an object with %j',
    async (body) => {
      const [choice] = (await ask(body)).choices
      expect([choice.finish_reason, typeof JSON.parse(choice.message.content)]).toEqual(['stop', 'object'])
    },
  )

  it('is put together by the official client from a stream', async () => {
    const pod = await startPod()
    const client = new OpenAI({ baseURL: `${pod.url}/v1`, apiKey: 'none', maxRetries: 0 })
    const request = { model: 'sim-8b', messages: MESSAGES, response_format: asSchema }
    const completion = await client.chat.completions.stream(request).finalChatCompletion()
    expect(JSON.parse(completion.choices[0]?.message.content ?? '')).toEqual(FITTING)
  })

  it('cut by max_tokens says so, or its reader would look for a fault in the JSON', async () => {
    const [choice] = (await ask({ response_format: asSchema, max_tokens: 5 })).choices
    expect(choice.finish_reason).toBe('length')
    expect(JSON.stringify(FITTING).startsWith(choice.message.content)).toBe(true)
  })

  it('is what a completion says too', async () => {
    const pod = await startPod()
    const body = { prompt: 'x', max_tokens: 200, response_format: asSchema }
    const answer = (await (await post(pod, '/v1/completions', body)).json()) as { choices: [{ text: string }] }
    expect(JSON.parse(answer.choices[0].text)).toEqual(FITTING)
  })

  it('is prose with response_format text', async () => {
    expect((await ask({ response_format: { type: 'text' } })).choices[0].message.content).toMatch(/^[A-Z][a-z ]+/)
  })

  it.each([undefined, {}, { name: 'x', schema: 'string' }])(
    'without a schema is refused: json_schema %j',
    async (json_schema) => {
      const { error } = await ask({ response_format: { type: 'json_schema', json_schema } })
      expect(error).toMatchObject({ param: 'response_format' })
    },
  )
})
