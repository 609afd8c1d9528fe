// A conversation read in parts has the ids of the same conversation read whole, and what was there before is not read again.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { scanBody } from '../../../cluster/prompts/body.ts'
import { PROMPT_WORKER, promptOf } from '../../../cluster/prompts/prompt.ts'
import { createBpe, type TextTokenizer } from '../../../cluster/tokens/bpe/bpe.ts'
import { createEncoder, type Encoder } from '../../../cluster/tokens/encoder.ts'
import { perform } from '../../../cluster/tokens/encoder-work.ts'
import { createLocalTokenizer, type LocalTokenizerDeps } from '../../../cluster/tokens/local-tokenizer.ts'
import { type ModelFiles, readModelDirectory } from '../../../cluster/tokens/model-directory.ts'
import { SOUGHT_BY_DIALECTS } from '../../../cluster/tokens/router-tokenizer.ts'
import { soughtTexts } from '../../../cluster/tokens/template-source.ts'
import { digestEach } from '../../../cluster/tokens/text-digests.ts'
import { createThreadTokenizer } from '../../../cluster/tokens/thread-tokenizer.ts'
import type { TextPrompt } from '../../../cluster/tokens/tokenizer.ts'
import type { Dialect } from '../../../shared/dialect.ts'
import { tokenizerJson, writeModel } from './small-model.ts'

const folder = mkdtempSync(join(tmpdir(), 'warmpath-tokens-'))
let files: ModelFiles
let tokenizer: TextTokenizer
let sought: readonly string[]

beforeAll(async () => {
  files = await readModelDirectory(writeModel(folder))
  const bpe = createBpe(tokenizerJson())
  if (!bpe.ok) throw new Error(bpe.because)
  tokenizer = bpe.tokenizer
  const byTemplate = files.templates.plain && soughtTexts(files.templates.plain.parsed)
  sought = [...SOUGHT_BY_DIALECTS, ...(byTemplate ?? [])]
})
afterAll(() => rmSync(folder, { recursive: true }))

/** Encodes in this thread, and remembers how much it was given. */
function countingEncoder(): Encoder & { texts: number } {
  const encoder = {
    texts: 0,
    async perform(task: Parameters<Encoder['perform']>[0]) {
      encoder.texts += task.kind === 'encode' ? task.pieces.length : task.strings.length
      return perform(task, tokenizer, sought)
    },
    tokenize: async () => undefined,
    waitingBytes: () => 0,
    close: async () => undefined,
  }
  return encoder
}

function create(more: Partial<LocalTokenizerDeps> = {}) {
  return createLocalTokenizer({
    tokenizer,
    templates: files.templates,
    standsIn: true,
    encoder: countingEncoder(),
    random: () => 1,
    onStandInsDiffer: () => undefined,
    ...more,
  })
}

function prompt(dialect: Dialect, request: object): TextPrompt {
  const body = Buffer.from(JSON.stringify({ model: 'm', ...request }))
  const scan = scanBody(body)
  if (!scan.ok) throw new Error(scan.message)
  const found = promptOf(dialect, body, scan.members)
  if (found.kind !== 'text') throw new Error(JSON.stringify(found))
  return found
}

const filler = fc
  .constantFrom('the cache holds ', '你好 世界 ', "they'll say ", 'x = 1;\n', 'größer ')
  .map((words) => words.repeat(60))
const oddity = fc.constantFrom(
  '',
  ' ',
  '\n\n',
  '</think>',
  '<think>',
  '<|end|>',
  '<|start|>user\n',
  '"\\',
  '\u{f0000}',
  '👩‍👧',
  '\u00a0',
  'aAb"\n',
)
const text = fc
  .tuple(oddity, fc.oneof(filler, fc.string({ maxLength: 8 })), oddity, fc.oneof(filler, fc.constant('')), oddity)
  .map((parts) => parts.join(''))
const textOrParts = fc.oneof(
  text,
  fc.array(text, { maxLength: 3 }).map((texts) => texts.map((each) => ({ type: 'text', text: each }))),
)
const message = fc.oneof(
  fc.record({ role: fc.constantFrom('user', 'assistant', 'system', 'developer'), content: textOrParts }),
  fc.record({ role: fc.constant('tool'), tool_call_id: fc.constant('c'), content: textOrParts }),
  text.map((content) => ({
    role: 'assistant',
    content,
    tool_calls: [{ id: 'c', type: 'function', function: { name: 'f', arguments: JSON.stringify({ content }) } }],
  })),
)

describe('a conversation read in parts has the ids of the whole', () => {
  it('whatever stands in it, and however often', async () => {
    const inParts = create()
    const whole = create({ standsIn: false })
    await fc.assert(
      fc.asyncProperty(fc.array(message, { minLength: 1, maxLength: 5 }), fc.boolean(), async (messages, hasTools) => {
        const tools = hasTools ? [{ type: 'function', function: { name: 'f', parameters: {} } }] : undefined
        const request = { messages, tools }
        const expected = await whole.tokenize(prompt('chat', request))
        expect(await inParts.tokenize(prompt('chat', request))).toEqual(expected)
        expect(await inParts.tokenize(prompt('chat', request))).toEqual(expected)
        if (expected.ok) expect(expected.ids.length).toBeGreaterThan(0)
      }),
      { numRuns: 300 },
    )
  })

  it('in the other dialects too, with the special tokens that each adds', async () => {
    const long = 'the tokens of the prompt '.repeat(50)
    const inParts = create()
    const whole = create({ standsIn: false })
    const rows: readonly (readonly [Dialect, object])[] = [
      ['messages', { system: long, messages: [{ role: 'user', content: [{ type: 'text', text: long }] }] }],
      [
        'messages',
        {
          system: [{ type: 'text', text: `x-anthropic-billing-header: ${long}` }],
          messages: [{ role: 'user', content: 'x' }],
        },
      ],
      ['responses', { instructions: long, input: [{ role: 'user', content: [{ type: 'input_text', text: long }] }] }],
      ['completions', { prompt: ` ${long}` }],
      ['completions', { prompt: [long], add_special_tokens: false }],
    ]
    for (const [dialect, request] of rows) {
      const expected = await whole.tokenize(prompt(dialect, request))
      expect(expected).toMatchObject({ ok: true })
      expect(await inParts.tokenize(prompt(dialect, request))).toEqual(expected)
      const bos = dialect === 'responses' || (dialect === 'completions' && !('add_special_tokens' in request))
      if (expected.ok) expect(expected.ids[0] === 1_000).toBe(bos)
    }
  })
})

describe('a turn that was there before', () => {
  it('is neither examined nor encoded again', async () => {
    const encoder = countingEncoder()
    const local = create({ encoder })
    const turns = Array.from({ length: 6 }, (_, turn) => ({
      role: turn % 2 === 0 ? 'user' : 'assistant',
      content: `${turn} ${'the cache holds '.repeat(60)}`,
    }))
    await local.tokenize(prompt('chat', { messages: turns.slice(0, 5) }))
    const before = encoder.texts
    await local.tokenize(prompt('chat', { messages: turns.slice(0, 5) }))
    expect(encoder.texts).toBe(before)
    await local.tokenize(prompt('chat', { messages: [...turns, { role: 'user', content: 'And?' }] }))
    // One long text to examine; its turn and the new question to encode.
    expect(encoder.texts - before).toBe(3)
  })

  it('is encoded once for two requests at the same time', async () => {
    const encoder = countingEncoder()
    const local = create({ encoder })
    const request = { messages: [{ role: 'user', content: 'Hi there.' }] }
    const [one, two] = await Promise.all([
      local.tokenize(prompt('chat', request)),
      local.tokenize(prompt('chat', request)),
    ])
    expect(one).toEqual(two)
    expect(encoder.texts).toBe(3)
  })
})

describe('when it cannot be told here', () => {
  it('no template, no chat: the reason says so', async () => {
    const local = create({ templates: { plain: undefined, withTools: undefined } })
    const tokens = await local.tokenize(prompt('chat', { messages: [{ role: 'user', content: 'x' }] }))
    expect(tokens).toEqual({ ok: false, because: 'the model has no chat template here' })
  })

  it('an encoder that is behind leaves the prompt without ids, and the next one is tried again', async () => {
    let behind = true
    const working = countingEncoder()
    const encoder: Encoder = { ...working, perform: async (task) => (behind ? undefined : working.perform(task)) }
    const local = create({ encoder })
    const request = prompt('chat', { messages: [{ role: 'user', content: 'x'.repeat(2_000) }] })
    expect(await local.tokenize(request)).toEqual({
      ok: false,
      because: 'the tokenizer of this router is behind with its work',
    })
    behind = false
    expect(await local.tokenize(request)).toMatchObject({ ok: true })
  })

  it('a template that makes something of a stand-in is read whole from then on, and says so', async () => {
    let told = 0
    // A condition that no one looks for: it asks the same of a text in a way that is not seen.
    const local = create({ random: () => 0, onStandInsDiffer: () => told++, templates: sneaky() })
    const request = prompt('chat', { messages: [{ role: 'user', content: `secret ${'word '.repeat(200)}` }] })
    const whole = await create({ standsIn: false, templates: sneaky() }).tokenize(request)
    await local.tokenize(request)
    await expect.poll(() => told).toBe(1)
    expect(await local.tokenize(request)).toEqual(whole)
  })
})

function sneaky() {
  const render: NonNullable<ModelFiles['templates']['plain']>['render'] = ({ messages }) => {
    const content = String(messages[0]?.content)
    return { ok: true, text: `${content.includes('secret') ? 'yes ' : 'no '}${content}` }
  }
  return { plain: { render, parsed: files.templates.plain?.parsed as never }, withTools: undefined }
}

describe('the worker thread', () => {
  function startEncoder(faults: string[], directory = folder): Encoder {
    return createEncoder({
      worker: PROMPT_WORKER,
      directory,
      tokenizer,
      sought,
      nowMs: () => performance.now(),
      onFault: (message) => faults.push(message),
    })
  }

  it('encodes large texts to the ids that this thread gives, and small ones need it not', async () => {
    const faults: string[] = []
    const encoder = startEncoder(faults)
    try {
      const local = create({ encoder })
      const large = prompt('chat', {
        messages: [{ role: 'user', content: 'the cache holds tokens, größer. '.repeat(2_000) }],
      })
      const whole = await create({ standsIn: false }).tokenize(large)
      expect(await local.tokenize(large)).toEqual(whole)
      expect(encoder.waitingBytes()).toBe(0)
      expect(faults).toEqual([])
    } finally {
      await encoder.close()
    }
  })

  const words = 'the cache holds tokens, größer. '
  const user = (content: unknown) => ({ role: 'user', content })
  const turns = Array.from({ length: 300 }, (_, turn) => [
    user(`${turn}`),
    { role: 'assistant', content: words },
  ]).flat()
  const tool = (name: string) => ({ type: 'function', function: { name, description: words, parameters: {} } })
  const long: readonly (readonly [string, Dialect, object])[] = [
    ['a long text', 'chat', { messages: [user(words.repeat(40_000))] }],
    ['one that has to be read', 'chat', { messages: [user(`</think>${words.repeat(10_000)}`)] }],
    ['many messages', 'chat', { messages: turns }],
    ['many parts', 'messages', { messages: [user(turns.map(({ content }) => ({ type: 'text', text: content })))] }],
    ['many tools', 'chat', { messages: [user('x')], tools: Array.from({ length: 2_000 }, (_, at) => tool(`f${at}`)) }],
    ['a prompt', 'completions', { prompt: words.repeat(40_000) }],
    ['instructions', 'responses', { instructions: words.repeat(40_000), input: 'x' }],
  ]
  it.each(long)('reads a whole prompt as this thread does, turn after turn: %s', async (_, dialect, request) => {
    const faults: string[] = []
    const encoder = startEncoder(faults)
    let performed = 0
    const perform: Encoder['perform'] = (task) => {
      if (task.kind === 'encode') performed++
      return encoder.perform(task)
    }
    try {
      const local = create({ encoder: { ...encoder, perform } })
      const text = prompt(dialect, request)
      const reading = text.reading as NonNullable<TextPrompt['reading']>
      const inThread = createThreadTokenizer({
        tokenizer,
        templates: files.templates,
        encoder: countingEncoder(),
        digestTexts: digestEach,
      })
      const expected = await inThread.tokenize(reading, false, Number.POSITIVE_INFINITY)
      expect(expected).toMatchObject({ ok: true })
      expect(await local.tokenize(text)).toEqual(expected)
      expect(await local.tokenize(text)).toEqual(expected)
      expect({ performed, faults }).toEqual({ performed: 0, faults: [] })
    } finally {
      await encoder.close()
    }
  })

  it('leaves what no model could take to the engine', async () => {
    const encoder = startEncoder([])
    try {
      const local = create({ encoder })
      for (const content of [words.repeat(300_000), `</think>${words.repeat(150_000)}`]) {
        const because = 'the prompt is too long to be read here'
        expect(await local.tokenize(prompt('chat', { messages: [user(content)] }))).toEqual({ ok: false, because })
      }
    } finally {
      await encoder.close()
    }
  })

  it('that cannot read its files says so, and those who wait are told', async () => {
    const faults: string[] = []
    const encoder = startEncoder(faults, join(folder, 'nowhere'))
    const result = await encoder.perform({ kind: 'encode', pieces: [['x'.repeat(20_000)]] })
    expect(result).toBeUndefined()
    expect(faults.join()).toContain('tokenizer.json')
    await encoder.close()
  })
})
