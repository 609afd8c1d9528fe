// The router's own tokens beside those of engines: for every prompt that a real vLLM was recorded with, and for random texts
// beside the library that engines tokenise with.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { createRandom } from '../../shared/random.ts'
import { runCommand } from './command.ts'
import { installVllm } from './install-vllm.ts'
import { type OwnTokenizer, randomTexts, startOwnTokenizer } from './own-tokenizer.ts'
import { fetchTokenizerFiles } from './tiny-model.ts'

const FIXTURES = new URL('../fixtures/vllm/', import.meta.url)

type Recorded = {
  readonly kind: 'chat' | 'text'
  readonly name?: string
  readonly body?: object
  readonly prompt?: string
  readonly add_special_tokens?: boolean
  /** Undefined where the engine refused the prompt. */
  readonly tokens?: readonly number[]
}

async function start(name: string): Promise<OwnTokenizer> {
  const own = await startOwnTokenizer(await fetchTokenizerFiles(name))
  onTestFinished(() => own.close())
  return own
}

describe.each(['qwen3', 'llama3_1', 'gemma3'])('what a real vLLM was recorded to compute: %s', (name) => {
  it('is what the router finds, in every case', async () => {
    const own = await start(name)
    const lines = readFileSync(new URL(`tokenize.${name}.jsonl`, FIXTURES), 'utf8')
      .trim()
      .split('\n')
    const rows = lines.map((line) => JSON.parse(line) as Recorded)
    expect(rows.length).toBeGreaterThan(50)
    for (const { kind, name: what, body, prompt, add_special_tokens, tokens } of rows) {
      const request = kind === 'chat' ? (body ?? {}) : { prompt, add_special_tokens }
      const found = await own.tokenize(kind === 'chat' ? 'chat' : 'completions', request)
      expect([what ?? prompt, found.ok ? [...found.ids] : undefined]).toEqual([what ?? prompt, tokens])
    }
  })
})

/** Encodes as engines do: with the library and the file that they have. */
const PYTHON = `
import json, sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
texts = json.load(open(sys.argv[2], encoding='utf-8'))
json.dump([[tokenizer.encode(text, add_special_tokens=special).ids for special in (False, True)] for text in texts], open(sys.argv[3], 'w'))
`

describe.each(['qwen3', 'llama3_1', 'gptoss', 'gemma3'])('random texts: %s', (name) => {
  it('have the ids that the engines’ own library gives them', async () => {
    const own = await start(name)
    const folder = mkdtempSync(join(tmpdir(), 'warmpath-texts-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    // An empty one is no prompt.
    const texts = randomTexts(1_500, createRandom(7)).filter((text) => text !== '')
    writeFileSync(join(folder, 'texts.json'), JSON.stringify(texts))
    const python = join(await installVllm(), 'bin/python')
    const tokenizerFile = join(await fetchTokenizerFiles(name), 'tokenizer.json')
    await runCommand(python, ['-c', PYTHON, tokenizerFile, join(folder, 'texts.json'), join(folder, 'ids.json')])
    const ids = JSON.parse(readFileSync(join(folder, 'ids.json'), 'utf8')) as [number[], number[]][]
    const wrong: unknown[] = []
    for (const [at, text] of texts.entries()) {
      for (const [which, add_special_tokens] of [false, true].entries()) {
        const found = await own.tokenize('completions', { prompt: text, add_special_tokens })
        const expected = ids[at]?.[which]
        if (!found.ok || [...found.ids].join() !== expected?.join())
          wrong.push([text, found.ok ? [...found.ids] : found.because, expected])
      }
    }
    expect(wrong).toEqual([])
  })
})
