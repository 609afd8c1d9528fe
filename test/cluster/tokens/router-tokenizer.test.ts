// Which tokenizer a model's prompts go to: the one here only while every engine agrees with it.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { scanBody } from '../../../cluster/prompts/body.ts'
import { PROMPT_WORKER, promptOf } from '../../../cluster/prompts/prompt.ts'
import { loadTokenizer } from '../../../cluster/simulator/model-tokenizer.ts'
import { findTokenizerDirectory } from '../../../cluster/tokens/find-directory.ts'
import {
  createRouterTokenizer,
  type RouterTokenizer,
  type RouterTokenizerDeps,
  type TokenizerEvent,
} from '../../../cluster/tokens/router-tokenizer.ts'
import { type ModelSettings, TEMPLATE, writeModel } from './small-model.ts'

const folder = mkdtempSync(join(tmpdir(), 'warmpath-tokens-'))
const ours = writeModel(join(folder, 'ours'))
afterAll(() => rmSync(folder, { recursive: true }))

let tokenizer: RouterTokenizer | undefined
afterEach(async () => tokenizer?.close())

const A = 'a:8000' as EndpointId
const B = 'b:8000' as EndpointId
const FROM_ENGINE = Uint32Array.of(7)

/** What an engine with the model in this folder answers to `/tokenize`. */
function engineWith(directory: string) {
  const theirs = loadTokenizer(directory)
  return async (body: Buffer) => {
    const request = JSON.parse(body.toString())
    const tokens = request.messages
      ? theirs.encodeChat(request.messages, request.tools, {
          addGenerationPrompt: true,
          continueFinalMessage: false,
          addSpecialTokens: false,
          templateVariables: {},
        })
      : theirs.encode(request.prompt, request.add_special_tokens)
    return { status: 200, body: Buffer.from(JSON.stringify({ count: tokens.length, tokens })) }
  }
}

function create(ask: RouterTokenizerDeps['ask'], directory: string | undefined = ours) {
  const events: TokenizerEvent[] = []
  tokenizer = createRouterTokenizer({
    worker: PROMPT_WORKER,
    directoryOf: (model) => (model === 'm' ? directory : undefined),
    baseOf: (model) => (model === 'adapter' ? 'm' : model),
    engine: async () => ({ ok: true, ids: FROM_ENGINE }),
    ask,
    nowMs: () => performance.now(),
    random: () => 1,
    budgetMs: () => 5_000,
    onEvent: (event) => events.push(event),
  })
  return { tokenizer, events }
}

async function whoTells({ tokenize }: RouterTokenizer, model = 'm'): Promise<'here' | 'engine'> {
  const body = Buffer.from(JSON.stringify({ model, messages: [{ role: 'user', content: 'Hi there.' }] }))
  const scan = scanBody(body)
  if (!scan.ok) throw new Error(scan.message)
  const tokens = await tokenize(model, promptOf('chat', body, scan.members))
  if (!tokens.ok) throw new Error(tokens.because)
  return tokens.ids === FROM_ENGINE ? 'engine' : 'here'
}

describe('a prompt is tokenised here', () => {
  it('when the engine says what the tokenizer here says; adapters have the tokenizer of their model', async () => {
    const engine = engineWith(ours)
    const { tokenizer, events } = create((_, body) => engine(body))
    await tokenizer.verify(A, 'm')
    expect(await whoTells(tokenizer)).toBe('here')
    expect(await whoTells(tokenizer, 'adapter')).toBe('here')
    expect(await whoTells(tokenizer, 'unknown')).toBe('engine')
    expect(tokenizer.states().get('m')).toEqual({ state: 'exact' })
    expect(events.map(({ type }) => type)).toEqual(['tokenizer-loaded', 'tokenizer-agrees'])
    expect(tokenizer.counts()).toEqual({ local: 2, engine: 1, unknown: 0 })
  })

  it('and when no engine tells: it claims nothing then', async () => {
    const { tokenizer, events } = create(async () => undefined)
    await tokenizer.verify(A, 'm')
    expect(await whoTells(tokenizer)).toBe('here')
    expect(tokenizer.states().get('m')).toEqual({ state: 'unverified' })
    expect(events.at(-1)).toMatchObject({ type: 'tokenizer-unverified', because: 'it does not answer /tokenize' })
  })
})

describe('the engine is asked when it differs, and which part differs is told', () => {
  const rows: readonly (readonly [string, ModelSettings, string, string])[] = [
    ['another revision of the tokenizer', { pattern: '\\p{L}+|\\s|[^\\p{L}\\s]+' }, TEMPLATE, 'tokenizer revision'],
    ['no BOS', { postProcessor: null }, TEMPLATE, 'BOS and other special tokens'],
    ['another template', {}, TEMPLATE.replace('| trim', ''), 'chat template'],
    ['another template for tools', {}, TEMPLATE.replace('<call>', '<do>'), 'chat template'],
  ]
  it.each(rows)('%s', async (name, settings, template, suspect) => {
    // White space at the ends shows whether a template trims.
    const theirs = writeModel(join(folder, name), settings, template)
    const engine = engineWith(theirs)
    const { tokenizer, events } = create((to, body) => (to === A ? engineWith(ours)(body) : engine(body)))
    await tokenizer.verify(A, 'm')
    expect(await whoTells(tokenizer)).toBe('here')
    await tokenizer.verify(B, 'm')
    expect(events.at(-1)).toMatchObject({ type: 'tokenizer-differs', endpoint: B, suspect })
    expect(await whoTells(tokenizer)).toBe('engine')
    expect(tokenizer.states().get('m')).toMatchObject({ state: 'differs', because: expect.stringContaining(suspect) })
    // With that engine gone the rest agree.
    tokenizer.forget(B)
    expect(await whoTells(tokenizer)).toBe('here')
  })
})

describe('a tokenizer that cannot be read is told, and routing goes on', () => {
  const broken = (name: string, files: Readonly<Record<string, string>>) => {
    const path = join(folder, name)
    mkdirSync(path)
    for (const [file, content] of Object.entries(files)) writeFileSync(join(path, file), content)
    return path
  }
  const rows: readonly (readonly [string, string, string])[] = [
    ['nothing there', join(folder, 'nowhere'), 'there is no '],
    ['no JSON', broken('no-json', { 'tokenizer.json': '{"model":' }), 'is not JSON'],
    ['no tokenizer', broken('no-model', { 'tokenizer.json': '{"model":{"type":"X"}}' }), ''],
    [
      'a template that is none',
      broken('no-template', { 'tokenizer.json': '{}', 'chat_template.jinja': '{% if %}' }),
      'the chat template in',
    ],
  ]
  it.each(rows)('%s', async (_, directory, because) => {
    const { tokenizer, events } = create(async () => undefined, directory)
    await tokenizer.verify(A, 'm')
    expect(events).toMatchObject([{ type: 'tokenizer-unusable', because: expect.stringContaining(because) }])
    expect(await whoTells(tokenizer)).toBe('engine')
  })
})

describe('the directory of a model', () => {
  const mounted = join(folder, 'mounted')
  const hub = join(mounted, 'models--Org--Model-8B', 'snapshots', 'abc')
  writeModel(hub)
  writeModel(join(mounted, 'plain'))
  const find = (id: string, root?: string) =>
    findTokenizerDirectory({ named: [], modelsDirectory: mounted }, { id, root })

  it('is the one that was named, the model’s own before the one for all', () => {
    const named = [{ directory: '/all' }, { model: 'm', directory: '/own' }]
    const directories = { named, modelsDirectory: mounted }
    expect(findTokenizerDirectory(directories, { id: 'm' })).toBe('/own')
    expect(findTokenizerDirectory(directories, { id: 'other' })).toBe('/all')
  })

  it('is found where models are mounted: by path, by name, in the layout of the hub', () => {
    expect(find('any', join(mounted, 'plain'))).toBe(join(mounted, 'plain'))
    expect(find('plain')).toBe(join(mounted, 'plain'))
    expect(find('served-name', '/elsewhere/plain')).toBe(join(mounted, 'plain'))
    expect(find('served-name', 'Org/Model-8B')).toBe(hub)
    expect(find('unknown')).toBeUndefined()
  })

  it('is never outside of it, whatever an engine says', () => {
    expect(find('x', join(mounted, '..', 'ours'))).toBeUndefined()
    expect(find('../ours')).toBeUndefined()
    expect(find('x', ours)).toBeUndefined()
  })
})
