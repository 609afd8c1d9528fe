// A model's own tokenizer and template, with a small one made on the spot: what matters is how messages are prepared.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { loadTokenizer } from '../../../cluster/simulator/model-tokenizer.ts'
import type { ChatEncoding, ChatMessage } from '../../../cluster/simulator/tokenizer.ts'
import { post, startPod } from './pod.ts'

const VOCABULARY = ['<unk>', '<end>', ...'abcdefghijklmnopqrstuvwxyz0123456789 :;,.-']
const TEMPLATE =
  "{% if messages[0].role == 'tool' %}{{ raise_exception('begin with a question') }}{% endif %}" +
  '{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.arguments.day }}{% endfor %};{% endfor %}' +
  '{% if tools %}tools{% endif %}{% if add_generation_prompt %}go{% endif %}'
const OPTIONS: ChatEncoding = {
  addGenerationPrompt: false,
  continueFinalMessage: false,
  addSpecialTokens: false,
  templateVariables: {},
}

function modelDirectory(template: string = TEMPLATE): string {
  const directory = mkdtempSync(join(tmpdir(), 'warmpath-tokenizer-'))
  onTestFinished(() => rmSync(directory, { recursive: true }))
  const vocab = Object.fromEntries(VOCABULARY.map((token, id) => [token, id]))
  const end = {
    id: 1,
    content: '<end>',
    special: true,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
  }
  writeFileSync(
    join(directory, 'tokenizer.json'),
    JSON.stringify({
      added_tokens: [end],
      normalizer: null,
      pre_tokenizer: { type: 'Split', pattern: { Regex: '' }, behavior: 'Isolated', invert: false },
      post_processor: null,
      decoder: { type: 'Fuse' },
      model: { type: 'WordLevel', vocab, unk_token: '<unk>' },
    }),
  )
  writeFileSync(
    join(directory, 'tokenizer_config.json'),
    JSON.stringify({ eos_token: '<end>', chat_template: template }),
  )
  return directory
}

function rendered(
  messages: readonly ChatMessage[],
  options: Partial<ChatEncoding> = {},
  tools?: readonly unknown[],
): string {
  const tokenizer = loadTokenizer(modelDirectory())
  return tokenizer.decode(tokenizer.encodeChat(messages, tools, { ...OPTIONS, ...options }))
}

describe('a model’s tokenizer', () => {
  it.each<[string, ChatMessage, string]>([
    ['null content is an empty text', { role: 'user', content: null }, 'user:;'],
    ['a developer is a system', { role: 'developer', content: 'x' }, 'system:x;'],
    [
      'a call’s arguments are an object',
      { role: 'user', content: '', tool_calls: [{ function: { name: 'f', arguments: '{"day":"may"}' } }] },
      'user:may;',
    ],
    [
      'arguments that are no object are none',
      { role: 'user', content: 'x', tool_calls: [{ function: { name: 'f', arguments: '{"day' } }] },
      'user:x;',
    ],
  ])('prepares messages as vLLM does: %s, or prompts would have other tokens', (_, message, text) => {
    expect(rendered([message])).toBe(text)
  })

  it('gives the template what was asked for, and cuts the end of a turn that is to go on', () => {
    const messages = [{ role: 'user', content: 'hi' }]
    expect(rendered(messages, { addGenerationPrompt: true }, [{}])).toBe('user:hi;toolsgo')
    expect(rendered(messages, { continueFinalMessage: true })).toBe('user:hi')
  })

  it('serves with it, and refuses with 400 what its template refuses', async () => {
    const pod = await startPod({ tokenizerDir: modelDirectory() })
    const tokens = await (await post(pod, '/tokenize', { prompt: 'abc' })).json()
    expect(tokens).toMatchObject({ count: 3, tokens: [2, 3, 4] })
    const ask = (role: string) =>
      post(pod, '/v1/chat/completions', { messages: [{ role, content: 'a' }], max_tokens: 3 })
    expect((await ask('user')).status).toBe(200)
    const refused = await ask('tool')
    expect([refused.status, await refused.json()]).toMatchObject([400, { error: { message: 'begin with a question' } }])
  })

  it('names the file that is broken', () => {
    const directory = modelDirectory()
    writeFileSync(join(directory, 'tokenizer.json'), '{')
    expect(() => loadTokenizer(directory)).toThrow(/tokenizer\.json is not JSON: fetch the model's tokenizer again$/)
  })
})
